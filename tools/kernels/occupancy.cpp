// Resident blocks of a kernel on a multiprocessor, by NVIDIA's own calculator. Reads lines of
//   THREADS REGISTERS SHARED_BYTES
// and prints a number for each. Built by resources.py.
#include <cuda_occupancy.h>

#include <cstdio>

int main() {
  cudaOccDeviceProp gpu;  // compute capability 9.0: H100, H200 (CUDA C++ Programming Guide, «Compute Capabilities»)
  gpu.computeMajor = 9;
  gpu.computeMinor = 0;
  gpu.maxThreadsPerBlock = 1024;
  gpu.maxThreadsPerMultiprocessor = 2048;
  gpu.regsPerBlock = 65536;
  gpu.regsPerMultiprocessor = 65536;
  gpu.warpSize = 32;
  gpu.sharedMemPerBlock = 48 << 10;
  gpu.sharedMemPerMultiprocessor = 228 << 10;
  gpu.sharedMemPerBlockOptin = 227 << 10;
  gpu.reservedSharedMemPerBlock = 1 << 10;
  gpu.numSms = 132;
  const cudaOccDeviceState state;
  int threads = 0, registers = 0;
  std::size_t shared = 0;
  while (std::scanf("%d %d %zu", &threads, &registers, &shared) == 3) {
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = threads;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = shared;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_DEFAULT;
    kernel.maxDynamicSharedSizeBytes = 0;
    kernel.numBlockBarriers = 1;
    cudaOccResult result;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &gpu, &kernel, &state, threads, 0) != CUDA_OCC_SUCCESS)
      return 1;
    std::printf("%d\n", result.activeBlocksPerMultiprocessor);
  }
}
