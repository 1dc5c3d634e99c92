// Memory of the simulated device, copies, and what the device says about itself.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "tests/sim/state.h"
#include "tests/sim/views.h"

namespace cusim {
namespace {

constexpr std::size_t alignment = 256;  // as cudaMalloc promises

std::size_t device_memory() {
  const char* given = std::getenv("ELBO_SIM_MEMORY");
  return given && *given ? std::strtoull(given, nullptr, 10) : std::size_t{4} << 30;
}

// Every float of it reads as a NaN. Not inlined: a store just before free() would be dropped.
[[gnu::noinline]] void poison(void* p, std::size_t bytes) { std::memset(p, 0xFF, bytes); }

void report_leaks() {
  for (const std::string& line : leaks()) std::fprintf(stderr, "simulated device: %s\n", line.c_str());
}

cudaError_t allocate(void** p, std::size_t bytes, bool pinned, const char* call) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (const cudaError_t e = forbidden_in_capture(call)) return e;
  if (!p) return refuse(cudaErrorInvalidValue, std::string(call) + ": no place for the address");
  *p = nullptr;
  if (bytes == 0) return outcome();
  if (!pinned && (s.device_bytes > device_memory() || bytes > device_memory() - s.device_bytes))
    return refuse(cudaErrorMemoryAllocation, "out of memory: " + std::to_string(bytes) + " bytes were asked for, " +
                                                 std::to_string(device_memory() - s.device_bytes) + " are free");
  // The size is exact, so that AddressSanitizer sees the first byte behind it.
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) return refuse(cudaErrorMemoryAllocation, "out of memory");
  poison(memory, bytes);
  [[maybe_unused]] static const int registered = std::atexit(report_leaks);
  s.allocations[reinterpret_cast<std::uintptr_t>(memory)] = {bytes, pinned};
  if (!pinned) s.device_bytes += bytes;
  *p = memory;
  return outcome();
}

cudaError_t release_memory(void* p, bool pinned, const char* call) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  if (!p) return outcome();
  if (const cudaError_t e = forbidden_in_capture(call)) return e;
  const auto at = s.allocations.find(reinterpret_cast<std::uintptr_t>(p));
  if (at == s.allocations.end() || at->second.pinned != pinned) {
    // A fault, and not an error alone: those who free rarely look at what comes back.
    s.fault = std::string(call) + " of an address that is not allocated, or not any more";
    return refuse(cudaErrorInvalidValue, s.fault);
  }
  finish_all();
  poison(p, at->second.bytes);
  if (!pinned) s.device_bytes -= at->second.bytes;
  s.allocations.erase(at);
  std::free(p);
  return outcome();
}

// Null when `bytes` may be copied between the two; else why not.
const char* objection(const void* to, const void* from, std::size_t bytes, cudaMemcpyKind direction) {
  const Kind target = kind_of(to, bytes), source = kind_of(from, bytes);
  if (target == Kind::overrun) return "the copy runs over the end of the allocation it writes";
  if (source == Kind::overrun) return "the copy runs over the end of the allocation it reads";
  if (direction == cudaMemcpyDefault) return nullptr;
  const bool to_device = direction == cudaMemcpyHostToDevice || direction == cudaMemcpyDeviceToDevice;
  const bool from_device = direction == cudaMemcpyDeviceToHost || direction == cudaMemcpyDeviceToDevice;
  // Pinned memory has one address on both sides.
  if (to_device ? target == Kind::pageable : target == Kind::device)
    return to_device ? "the copy writes host memory as if it were the device's"
                     : "the copy writes device memory as if it were the host's";
  if (from_device ? source == Kind::pageable : source == Kind::device)
    return from_device ? "the copy reads host memory as if it were the device's"
                       : "the copy reads device memory as if it were the host's";
  return nullptr;
}

cudaError_t copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind direction, cudaStream_t stream) {
  if (const char* why = objection(to, from, bytes, direction)) return refuse(cudaErrorInvalidValue, why);
  if (bytes == 0) return outcome();
  const Label label{Label::Kind::copy, "", 0, 0, direction, bytes};
  if (!is_capturing(stream)) {
    if (kind_of(from, bytes) == Kind::pageable) {
      // Read before the call returns, as from a staging buffer.
      std::shared_ptr<char[]> staged(new char[bytes]);
      std::memcpy(staged.get(), from, bytes);
      return enqueue(
          stream, [=, staged = std::move(staged)] { std::memcpy(to, staged.get(), bytes); }, label);
    }
    if (kind_of(to, bytes) == Kind::pageable) {
      if (const cudaError_t e = enqueue(
              stream, [=] { std::memcpy(to, from, bytes); }, label))
        return e;
      finish(stream);
      return outcome();
    }
  }
  return enqueue(
      stream, [=] { std::memmove(to, from, bytes); }, label);
}

cudaError_t set(void* p, int byte, std::size_t bytes, cudaStream_t stream) {
  const Kind kind = kind_of(p, bytes);
  if (kind == Kind::overrun) return refuse(cudaErrorInvalidValue, "the fill runs over the end of its allocation");
  if (kind == Kind::pageable && bytes > 0) return refuse(cudaErrorInvalidValue, "the fill writes host memory");
  return enqueue(stream, [=] { std::memset(p, byte, bytes); }, {Label::Kind::fill, "", 0, 0, {}, bytes});
}

}  // namespace

Unwatched<Span> allocated() {
  Unwatched<Span> all;
  for (const auto& [address, a] : state().allocations) all.push_back({reinterpret_cast<char*>(address), a.bytes});
  return all;
}

Kind kind_of(const void* p, std::size_t bytes) {
  const State& s = state();
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(p);
  auto at = s.allocations.upper_bound(begin);
  if (at == s.allocations.begin()) return Kind::pageable;
  --at;
  const std::uintptr_t end = at->first + at->second.bytes;
  if (begin >= end) return Kind::pageable;
  if (bytes > end - begin) return Kind::overrun;
  return at->second.pinned ? Kind::pinned : Kind::device;
}

}  // namespace cusim

using namespace cusim;

cudaError_t cudaMalloc(void** p, std::size_t bytes) { return allocate(p, bytes, false, "cudaMalloc"); }
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) { return allocate(p, bytes, true, "cudaHostAlloc"); }
cudaError_t cudaFree(void* p) { return release_memory(p, false, "cudaFree"); }
cudaError_t cudaFreeHost(void* p) { return release_memory(p, true, "cudaFreeHost"); }

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  State& s = state();
  std::lock_guard lock(s.mutex);
  *total = device_memory();
  *free = *total > s.device_bytes ? *total - s.device_bytes : 0;
  return outcome();
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind direction,
                            cudaStream_t stream) {
  std::lock_guard lock(state().mutex);
  return copy(to, from, bytes, direction, stream);
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind direction) {
  std::lock_guard lock(state().mutex);
  if (const cudaError_t e = forbidden_in_capture("cudaMemcpy")) return e;
  if (const cudaError_t e = copy(to, from, bytes, direction, nullptr)) return e;
  finish(nullptr);
  return outcome();
}

cudaError_t cudaMemsetAsync(void* p, int byte, std::size_t bytes, cudaStream_t stream) {
  std::lock_guard lock(state().mutex);
  return set(p, byte, bytes, stream);
}

cudaError_t cudaMemset(void* p, int byte, std::size_t bytes) {
  std::lock_guard lock(state().mutex);
  if (const cudaError_t e = forbidden_in_capture("cudaMemset")) return e;
  return set(p, byte, bytes, nullptr);
}

// ---- The device --------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return outcome();
}

cudaError_t cudaSetDevice(int device) {
  if (device != 0) return refuse(cudaErrorInvalidDevice, "there is one simulated device, number 0");
  return outcome();
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
  if (device != 0) return refuse(cudaErrorInvalidDevice, "there is one simulated device, number 0");
  *p = {};
  std::strcpy(p->name, "simulated GPU");
  p->totalGlobalMem = device_memory();
  p->sharedMemPerBlock = 48 << 10;
  p->major = 9;
  p->multiProcessorCount = 4;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->l2CacheSize = 1 << 20;
  return outcome();
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  constexpr char bus[] = "0000:3B:00.0";  // known to the driver's stand-in, tests/fake_driver.cpp
  if (device != 0) return refuse(cudaErrorInvalidDevice, "there is one simulated device");
  if (size < static_cast<int>(sizeof bus)) return refuse(cudaErrorInvalidValue, "the text is too short for a bus id");
  std::memcpy(text, bus, sizeof bus);
  return outcome();
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return outcome();
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return outcome();
}
