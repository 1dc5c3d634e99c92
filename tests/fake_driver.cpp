// Stands in for the two libraries of NVIDIA's driver that are asked for a GPU's clock: libnvidia-ml.so.1, and
// libcuda.so.1 for the GPU's place on the bus. One GPU, at 0000:3B:00.0, whose multiprocessors run at 1755 MHz and
// whose memory at 2619. As in the real ones, nothing works before it is initialised.
#include <cstdio>
#include <cstring>

namespace {

constexpr char bus[] = "0000:3B:00.0";
constexpr int uninitialized = 1, invalid_argument = 2, not_found = 6;
bool cuda_is_open = false, nvml_is_open = false;

}  // namespace

extern "C" {

int cuInit(unsigned flags) {
  cuda_is_open = flags == 0;
  return cuda_is_open ? 0 : invalid_argument;
}

int cuDeviceGet(int* device, int ordinal) {
  if (!cuda_is_open) return uninitialized;
  *device = 7;
  return ordinal == 0 ? 0 : invalid_argument;
}

int cuDeviceGetPCIBusId(char* text, int size, int device) {
  if (!cuda_is_open) return uninitialized;
  if (device != 7) return invalid_argument;
  std::snprintf(text, static_cast<std::size_t>(size), "%s", bus);
  return 0;
}

int nvmlInit_v2() {
  nvml_is_open = true;
  return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char* text, void** device) {
  if (!nvml_is_open) return uninitialized;
  if (std::strcmp(text, bus) != 0) return not_found;
  *device = &nvml_is_open;
  return 0;
}

int nvmlDeviceGetClockInfo(void* device, int type, unsigned* mhz) {
  if (!nvml_is_open || device != &nvml_is_open) return uninitialized;
  *mhz = type == 1 ? 1755 : type == 2 ? 2619 : 0;  // NVML_CLOCK_SM, NVML_CLOCK_MEM
  return *mhz > 0 ? 0 : invalid_argument;
}
}
