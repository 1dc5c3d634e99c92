// Activity records of what the simulated device runs, in the place of cuda/cupti.cpp and the library behind it.
// ELBO_SIM_CUPTI=absent is a machine without the library, ELBO_SIM_CUPTI=refused one whose driver forbids its use.
#include "cuda/cupti.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "elbo/error.h"

namespace {

bool environment_says(const char* word) {
  const char* given = std::getenv("ELBO_SIM_CUPTI");
  return given && std::string(given) == word;
}

std::size_t size_of(CUpti_ActivityKind kind) {
  switch (kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: return sizeof(CUpti_ActivityKernel9);
    case CUPTI_ACTIVITY_KIND_MEMCPY: return sizeof(CUpti_ActivityMemcpy5);
    case CUPTI_ACTIVITY_KIND_MEMSET: return sizeof(CUpti_ActivityMemset4);
    default: return sizeof(CUpti_ActivityExternalCorrelation);
  }
}

class Library final : public cusim::Watcher {
 public:
  void queued(std::uint32_t correlation) override {
    const std::lock_guard lock(mutex);
    if (ids.empty() || !enabled.count(CUPTI_ACTIVITY_KIND_RUNTIME)) return;  // an id stands beside a call's record
    write(CUpti_ActivityExternalCorrelation{CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION,
                                            CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0, ids.back(), correlation});
  }

  void ran(const cusim::Label& l, cudaStream_t stream, std::uint32_t correlation, std::uint64_t node,
           std::uint64_t begin, std::uint64_t end) override {
    const std::lock_guard lock(mutex);
    const std::uint32_t id = id_of(stream);
    switch (l.kind) {
      case cusim::Label::Kind::kernel: {
        CUpti_ActivityKernel9 k{};
        k.kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL;
        k.name = l.name;
        k.gridX = static_cast<int>(l.blocks);
        k.blockX = static_cast<int>(l.threads);
        k.gridY = k.gridZ = k.blockY = k.blockZ = 1;
        k.registersPerThread = 32;  // made up, as are these: no compiler for a GPU was asked
        k.staticSharedMemory = 128;
        k.dynamicSharedMemory = 16;
        return write_timed(k, id, correlation, node, begin, end);
      }
      case cusim::Label::Kind::copy: {
        CUpti_ActivityMemcpy5 m{};
        m.kind = CUPTI_ACTIVITY_KIND_MEMCPY;
        m.copyKind = l.direction == cudaMemcpyHostToDevice   ? CUPTI_ACTIVITY_MEMCPY_KIND_HTOD
                     : l.direction == cudaMemcpyDeviceToHost ? CUPTI_ACTIVITY_MEMCPY_KIND_DTOH
                                                             : CUPTI_ACTIVITY_MEMCPY_KIND_DTOD;
        m.bytes = l.bytes;
        return write_timed(m, id, correlation, node, begin, end);
      }
      default: {
        CUpti_ActivityMemset4 m{};
        m.kind = CUPTI_ACTIVITY_KIND_MEMSET;
        m.bytes = l.bytes;
        return write_timed(m, id, correlation, node, begin, end);
      }
    }
  }

  void deliver() {
    if (buffer) complete(nullptr, 0, std::exchange(buffer, nullptr), size, std::exchange(used, 0));
  }

  std::uint32_t id_of(cudaStream_t stream) {
    return stream_ids.emplace(stream, static_cast<std::uint32_t>(stream_ids.size() + 7)).first->second;
  }

  std::mutex mutex;
  CUpti_BuffersCallbackRequestFunc request = nullptr;
  CUpti_BuffersCallbackCompleteFunc complete = nullptr;
  std::set<CUpti_ActivityKind> enabled;
  std::vector<std::uint64_t> ids;

 private:
  template <class Record>
  void write_timed(Record& r, std::uint32_t stream, std::uint32_t correlation, std::uint64_t node, std::uint64_t begin,
                   std::uint64_t end) {
    r.streamId = stream;
    r.correlationId = correlation;
    r.graphNodeId = node;
    r.start = begin;
    r.end = end;
    write(r);
  }

  template <class Record>
  void write(const Record& r) {
    if (!enabled.count(r.kind)) return;
    if (buffer && size - used < sizeof r) deliver();
    if (!buffer) {
      std::size_t most = 0;
      request(&buffer, &size, &most);
    }
    std::memcpy(buffer + used, &r, sizeof r);
    used += sizeof r;
  }

  std::uint8_t* buffer = nullptr;
  std::size_t size = 0, used = 0;
  std::map<cudaStream_t, std::uint32_t> stream_ids;
};

Library& library() {
  static auto* l = new Library;
  return *l;
}

}  // namespace

CUptiResult cuptiGetResultString(CUptiResult r, const char** text) {
  *text = r == CUPTI_ERROR_INSUFFICIENT_PRIVILEGES ? "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES" : "CUPTI_ERROR";
  return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityRegisterCallbacks(CUpti_BuffersCallbackRequestFunc request,
                                           CUpti_BuffersCallbackCompleteFunc complete) {
  library().request = request;
  library().complete = complete;
  return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityEnable(CUpti_ActivityKind kind) {
  if (environment_says("refused")) return CUPTI_ERROR_INSUFFICIENT_PRIVILEGES;
  cusim::watch(&library());
  library().enabled.insert(kind);
  return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityDisable(CUpti_ActivityKind kind) {
  library().enabled.erase(kind);
  if (library().enabled.empty()) cusim::watch(nullptr);
  return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityFlushAll(std::uint32_t) {
  const std::lock_guard lock(library().mutex);
  library().deliver();
  return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityGetNextRecord(std::uint8_t* buffer, std::size_t valid, CUpti_Activity** record) {
  std::uint8_t* next = *record ? reinterpret_cast<std::uint8_t*>(*record) + size_of((*record)->kind) : buffer;
  if (next >= buffer + valid) return CUPTI_ERROR_MAX_LIMIT_REACHED;
  *record = reinterpret_cast<CUpti_Activity*>(next);
  return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityGetNumDroppedRecords(CUcontext, std::uint32_t, std::size_t* dropped) {
  *dropped = 0;
  return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityPushExternalCorrelationId(CUpti_ExternalCorrelationKind, std::uint64_t id) {
  library().ids.push_back(id);
  return CUPTI_SUCCESS;
}

CUptiResult cuptiActivityPopExternalCorrelationId(CUpti_ExternalCorrelationKind, std::uint64_t* last) {
  if (library().ids.empty()) return CUPTI_ERROR_QUEUE_EMPTY;
  if (last) *last = library().ids.back();
  library().ids.pop_back();
  return CUPTI_SUCCESS;
}

CUptiResult cuptiGetStreamIdEx(CUcontext, cudaStream_t stream, std::uint8_t, std::uint32_t* id) {
  *id = library().id_of(stream);
  return CUPTI_SUCCESS;
}

namespace elbo::cuda {

const Cupti& load_cupti() {
  require(!environment_says("absent"), "CUPTI does not load: this machine plays one that has none");
  static const Cupti cupti{cuptiGetResultString,
                           cuptiActivityRegisterCallbacks,
                           cuptiActivityEnable,
                           cuptiActivityDisable,
                           cuptiActivityFlushAll,
                           cuptiActivityGetNextRecord,
                           cuptiActivityGetNumDroppedRecords,
                           cuptiActivityPushExternalCorrelationId,
                           cuptiActivityPopExternalCorrelationId,
                           cuptiGetStreamIdEx};
  return cupti;
}

}  // namespace elbo::cuda
