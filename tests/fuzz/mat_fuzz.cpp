// Any bytes are read as a MATLAB file that holds a byte matrix ff, or refused with an Error.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "elbo/error.h"
#include "host/data/mat.h"
#include "tests/fuzz/heap.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // As in idx_fuzz.cpp; variables may be compressed.
  const HeapLimit limit(3 * 1032 * size + (1 << 18));
  try {
    const elbo::MatMatrix m = elbo::parse_mat(std::as_bytes(std::span(data, size)), "ff", "fuzz");
    if (m.values.size() != static_cast<std::size_t>(m.rows * m.columns)) std::abort();
  } catch (const elbo::Error&) {
  }
  return 0;
}
