// Any bytes are read as an IDX file, plain or compressed, or refused with an Error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "elbo/error.h"
#include "host/data/idx.h"
#include "tests/fuzz/heap.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const bool packed = size > 0 && data[0] == 0x1f;
  // zlib takes 50 KB; it grows its input at most 1032-fold, and a vector holds old and new while it grows.
  const HeapLimit limit((packed ? 3 * 1032 : 2) * size + (1 << 18));
  for (const int rank : {1, 3}) {
    try {
      const elbo::IdxArray array = elbo::parse_idx(std::as_bytes(std::span(data, size)),
                                                   packed ? elbo::Encoding::gzip : elbo::Encoding::plain, rank, "fuzz");
      std::size_t count = 1;
      for (const std::int64_t n : array.shape) count *= static_cast<std::size_t>(n);
      if (array.values.size() != count) std::abort();
    } catch (const elbo::Error&) {
    }
  }
  return 0;
}
