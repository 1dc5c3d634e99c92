// Any bytes are read as a safetensors file or refused with an Error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "elbo/error.h"
#include "host/base/safetensors.h"
#include "tests/fuzz/heap.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // What costs most are many empty tensors: each takes 55 bytes of the header, and some 600 in memory.
  const HeapLimit limit(20 * size + (1 << 17));
  try {
    const elbo::TensorFile file = elbo::parse_safetensors(reinterpret_cast<const std::byte*>(data), size, "fuzz");
    std::size_t bytes = 0;
    for (const elbo::NamedTensor& t : file.tensors) {
      if (t.bytes.size() != static_cast<std::size_t>(t.shape.count()) * elbo::size_of(t.dtype)) std::abort();
      bytes += t.bytes.size();
    }
    if (bytes > size) std::abort();
  } catch (const elbo::Error&) {
  }
  return 0;
}
