// Launching a kernel, the one way this project does it. nvcc compiles it for a GPU; the simulated device
// of the tests (tests/sim) puts its own <cuda_runtime.h> in front and runs the same kernels on the CPU.
#pragma once
#include <cuda_runtime.h>

#include <tuple>
#include <utility>

#include "elbo/error.h"

// `ELBO_SHARED(float, sums, 32);` declares a shared array of the block. The simulator's header defines
// it otherwise.
#if !defined(ELBO_SHARED)
#define ELBO_SHARED(T, name, n) __shared__ T name[n]
#endif

namespace elbo {

// How many blocks of a kernel a multiprocessor is to hold at once, for __launch_bounds__: `wanted`, or as many as the
// architecture that is being compiled for has threads for.
constexpr unsigned resident_blocks(unsigned threads, unsigned wanted) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 800 || (__CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1100)
  constexpr unsigned most_threads = 2048;
#elif __CUDA_ARCH__ < 800
  constexpr unsigned most_threads = 1024;
#else
  constexpr unsigned most_threads = 1536;
#endif
  return wanted * threads <= most_threads ? wanted : most_threads / threads;
}

struct Grid {
  unsigned blocks = 1, threads = 1;
  cudaStream_t stream = nullptr;
};

inline void check_cuda(cudaError_t e, const char* what) {
  if (e != cudaSuccess) fail(what, ": ", cudaGetErrorName(e), " (", cudaGetErrorString(e), ")");
}

// launch("advance_kernel", advance_kernel, {blocks, threads, stream}, arguments...): the arguments are converted to the
// kernel's parameter types without narrowing; a refused launch is an Error with its name.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), const Grid& grid, A&&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "the kernel takes another number of arguments");
  if (grid.blocks == 0) return;
  std::tuple<P...> parameters{P{std::forward<A>(arguments)}...};
#if defined(ELBO_SIM)
  check_cuda(cusim::launch(kernel, grid.blocks, grid.threads, grid.stream, std::move(parameters), name), name);
#else
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid.blocks);
  config.blockDim = dim3(grid.threads);
  config.stream = grid.stream;
  std::apply(
      [&](auto&... p) {
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&p))...};
        check_cuda(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), pointers), name);
      },
      parameters);
#endif
}

}  // namespace elbo
