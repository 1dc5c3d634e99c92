// The rate of a GPU's clock, by NVML: the library of nvidia-smi, which comes with the driver. It is not linked, but
// loaded when a rate is wanted.
#pragma once

namespace elbo::cuda {

class SmClock {
 public:
  // Of a CUDA device, by its number. Throws nothing: where NVML is missing, or does not know the GPU, the rate is
  // unknown.
  explicit SmClock(int device);

  // Of the multiprocessors, now; 0: unknown.
  double mhz() const;

 private:
  // nvmlDeviceGetClockInfo and its handle; NVML's header is in no package that a build needs.
  using Device = struct nvmlDevice_st*;
  using GetClock = int (*)(Device, int type, unsigned* mhz);
  GetClock get_clock_ = nullptr;
  Device device_ = nullptr;
};

}  // namespace elbo::cuda
