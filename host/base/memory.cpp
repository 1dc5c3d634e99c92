#include "host/base/memory.h"

#include "cpu/limits.h"

namespace elbo {

void require_memory(std::uint64_t bytes, const std::string& what) {
  constexpr std::uint64_t little = 1 << 20;  // not worth the question
  if (bytes <= little) return;
  const std::uint64_t usable = usable_memory();
  require(bytes <= usable, what, ": needs ", bytes, " bytes of memory, and this process may use ", usable);
}

}  // namespace elbo
