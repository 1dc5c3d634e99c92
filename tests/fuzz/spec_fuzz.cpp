// Any bytes are read as an experiment or refused with an Error; what is accepted survives being written and read.
// Lines that begin with "--set " are overrides, the others the JSON text.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "elbo/error.h"
#include "host/spec/spec.h"
#include "tests/fuzz/heap.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // A tree node and its name take about 100 bytes, for as little as two of the text; vectors double as they grow.
  const HeapLimit limit(400 * size + (1 << 20));

  const std::string input(reinterpret_cast<const char*>(data), size), mark = "--set ";
  std::string text;
  std::vector<std::string> overrides;
  for (std::size_t begin = 0, end; begin < input.size(); begin = end) {
    end = std::min(input.find('\n', begin), input.size() - 1) + 1;
    const std::string line = input.substr(begin, end - begin);
    if (line.starts_with(mark)) {
      overrides.push_back(line.substr(mark.size(), line.find('\n') - mark.size()));
    } else {
      text += line;
    }
  }

  std::string resolved;
  try {
    resolved = elbo::to_json(elbo::parse_spec(text, "fuzz.json", overrides));
  } catch (const elbo::Error&) {
    return 0;
  }
  if (elbo::to_json(elbo::parse_spec(resolved, "resolved.json")) != resolved) std::abort();
  return 0;
}
