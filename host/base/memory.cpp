#include "host/base/memory.h"

#include <fmt/format.h>

#include <array>

#include "cpu/limits.h"

namespace elbo {

std::uint64_t usable_host_memory() { return usable_memory(); }

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array units = {"kB", "MB", "GB", "TB", "PB", "EB"};
  if (bytes < 1000) return fmt::format("{} bytes", bytes);
  auto amount = static_cast<double>(bytes) / 1e3;
  std::size_t unit = 0;
  for (; amount >= 999.95 && unit + 1 < units.size(); ++unit) amount /= 1e3;
  return fmt::format("{:.1f} {} ({} bytes)", amount, units[unit], bytes);
}

void require_memory(std::uint64_t bytes, const std::string& what) {
  constexpr std::uint64_t little = 1 << 20;  // not worth the question
  if (bytes <= little) return;
  const std::uint64_t usable = usable_memory();
  require(bytes <= usable, what, ": needs ", bytes, " bytes of memory, and this process may use ", usable);
}

}  // namespace elbo
