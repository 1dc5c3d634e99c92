#include "cuda/cupti.h"

#include <dlfcn.h>

#include <string>
#include <type_traits>

#include "elbo/error.h"

namespace elbo::cuda {
namespace {

Cupti open_cupti() {
  const std::string file = cat("libcupti.so.", CUDART_VERSION / 1000);
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);  // never closed: it has threads and exit handlers
  if (!library)
    fail("CUPTI, which comes with the CUDA Toolkit, does not load (", dlerror(),
         "); LD_LIBRARY_PATH may name its folder");
  Cupti c{};
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    require(function != nullptr, file, " has no ", name);
  };
  find(c.result_string, "cuptiGetResultString");
  find(c.register_callbacks, "cuptiActivityRegisterCallbacks");
  find(c.enable, "cuptiActivityEnable");
  find(c.disable, "cuptiActivityDisable");
  find(c.flush_all, "cuptiActivityFlushAll");
  find(c.next_record, "cuptiActivityGetNextRecord");
  find(c.dropped_records, "cuptiActivityGetNumDroppedRecords");
  find(c.push_id, "cuptiActivityPushExternalCorrelationId");
  find(c.pop_id, "cuptiActivityPopExternalCorrelationId");
  find(c.stream_id, "cuptiGetStreamIdEx");
  return c;
}

}  // namespace

const Cupti& load_cupti() {
  static const Cupti cupti = open_cupti();
  return cupti;
}

}  // namespace elbo::cuda
