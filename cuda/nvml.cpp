#include "cuda/nvml.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

namespace elbo::cuda {

// The names and numbers of nvml.h.
SmClock::SmClock(int device) {
  char bus[32] = {};  // "0000:3B:00.0": CUDA_VISIBLE_DEVICES renumbers CUDA's devices, but not NVML's
  if (cudaDeviceGetPCIBusId(bus, sizeof bus, device) != cudaSuccess) {
    cudaGetLastError();  // later calls should not see it
    return;
  }
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);  // never closed, as CUPTI
  if (!library) return;
  const auto init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
  const auto find = reinterpret_cast<int (*)(const char*, Device*)>(dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2"));
  const auto get_clock = reinterpret_cast<GetClock>(dlsym(library, "nvmlDeviceGetClockInfo"));
  if (!init || !find || !get_clock) return;
  if (init() != 0 || find(bus, &device_) != 0) return;
  get_clock_ = get_clock;
}

double SmClock::mhz() const {
  constexpr int sm = 1;  // NVML_CLOCK_SM
  unsigned mhz = 0;
  return get_clock_ && get_clock_(device_, sm, &mhz) == 0 ? static_cast<double>(mhz) : 0;
}

}  // namespace elbo::cuda
