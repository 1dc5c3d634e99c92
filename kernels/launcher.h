// What launchers share: profiling ranges, block counts, alignment.
#pragma once
#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <cstddef>
#include <cstdint>

#include "elbo/error.h"
#include "elbo/sizes.h"
#include "kernels/launch.h"

namespace elbo::kernels {

// Ranges of the NVTX domain "elbo". They nest; a profiler shows them, without one they cost nothing.
inline nvtxDomainHandle_t profiling_domain() {
  static const nvtxDomainHandle_t domain = nvtxDomainCreateA("elbo");
  return domain;
}

inline void push_range(const char* name) {
  nvtxEventAttributes_t event{};
  event.version = NVTX_VERSION;
  event.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  event.messageType = NVTX_MESSAGE_TYPE_ASCII;
  event.message.ascii = name;
  nvtxDomainRangePushEx(profiling_domain(), &event);
}

inline void pop_range() { nvtxDomainRangePop(profiling_domain()); }

class Range {
 public:
  explicit Range(const char* name) { push_range(name); }
  ~Range() { pop_range(); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
};

// Blocks for `items` of which each block takes `each`. At most most_gpu_elements, so that kernels may count in 32 bits
// (addresses need 64).
inline unsigned blocks_for(const char* launcher, std::int64_t items, std::int64_t each = 1) {
  require(items >= 0 && items <= most_gpu_elements, launcher, ": ", items,
          " elements are more than one launch takes (2^31 - 1)");
  return static_cast<unsigned>((items + each - 1) / each);
}

inline bool is_aligned(const void* p, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

}  // namespace elbo::kernels
