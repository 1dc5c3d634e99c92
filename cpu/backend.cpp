#include "cpu/backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "cpu/device.h"
#include "cpu/limits.h"

namespace elbo {
namespace {

std::string read_processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

}  // namespace

const std::string& processor() {
  static const std::string name = read_processor();
  return name;
}

std::unique_ptr<Backend> create_cpu_backend(const BackendOptions& options) {
  return std::make_unique<cpu::CpuBackend>(options);
}

namespace cpu {

CpuBackend::CpuBackend(const BackendOptions& options)
    : Backend(options), team_(options.threads), gemm_(options.precision, team_) {}

DeviceInfo CpuBackend::info() const {
  return {.name = "cpu",
          .description = cat(processor(), ", ", team_.threads(), team_.threads() == 1 ? " thread, " : " threads, ",
                             Gemm::library()),
          .memory = usable_memory(),
          .threads = team_.threads()};
}

// ---- Memory ---------------------------------------------------------------------------------------------

std::byte* CpuBackend::do_allocate(std::size_t bytes, Memory) {
  if (bytes > usable_memory()) return nullptr;  // Linux would grant it, and end the process later
  // Large blocks are made of large pages: an optimiser step walks through four of them at once.
  constexpr std::size_t large_page = std::size_t{2} << 20;
  const std::size_t alignment = bytes < large_page ? 256 : large_page;
  const std::size_t size = (bytes + alignment - 1) / alignment * alignment;
  void* const data = std::aligned_alloc(alignment, size);
  if (data && alignment == large_page) madvise(data, size, MADV_HUGEPAGE);
  return static_cast<std::byte*>(data);
}

void CpuBackend::do_free(std::byte* data, Memory) noexcept { std::free(data); }
void CpuBackend::do_upload(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
void CpuBackend::do_download(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
void CpuBackend::do_copy(void* to, const void* from, std::size_t bytes) {
  constexpr std::int64_t piece = std::int64_t{1} << 20;
  team_.run_pieces(static_cast<std::int64_t>(bytes), piece, [=](std::int64_t begin, std::int64_t end) {
    std::memcpy(static_cast<std::byte*>(to) + begin, static_cast<const std::byte*>(from) + begin,
                static_cast<std::size_t>(end - begin));
  });
}
void CpuBackend::do_fill(void* to, std::uint8_t byte, std::size_t bytes) { std::memset(to, byte, bytes); }

}  // namespace cpu
}  // namespace elbo
