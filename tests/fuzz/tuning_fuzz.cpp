// Any bytes are read as a tuning file or refused with an Error; what is accepted survives being written and read.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "elbo/error.h"
#include "host/base/tuning_file.h"
#include "tests/fuzz/heap.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // As in spec_fuzz.cpp; the text is written once more for its checksum.
  const HeapLimit limit(400 * size + (1 << 20));
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::string written;
  try {
    written = elbo::to_json(elbo::parse_tuning(text, "fuzz.json"));
  } catch (const elbo::Error&) {
    return 0;
  }
  if (elbo::to_json(elbo::parse_tuning(written, "written.json")) != written) std::abort();
  return 0;
}
