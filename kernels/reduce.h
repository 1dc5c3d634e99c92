// Sums over the threads of a warp or a block, in a fixed order: the same inputs give the same bits,
// whatever order the threads run in.
#pragma once
#include <cuda_runtime.h>

#include "kernels/launch.h"

namespace elbo::kernels {

inline constexpr unsigned warp_size = 32;

// The sum over a warp, in every one of its lanes. All 32 lanes must call it.
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
#pragma unroll
  for (unsigned distance = warp_size / 2; distance > 0; distance /= 2) v += __shfl_xor_sync(0xffffffffu, v, distance);
  return v;
}

// The sum over a block, in the threads of its first warp (elsewhere: unspecified). Every thread of the
// block must call it; blockDim.x is a multiple of 32, at most 1024. May be called again at once.
template <class T>
__device__ __forceinline__ T block_sum(T v) {
  ELBO_SHARED(T, warp_sums, 32);
  const unsigned lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size, warps = blockDim.x / warp_size;
  v = warp_sum(v);
  __syncthreads();  // an earlier call's sums may still be read
  if (lane == 0) warp_sums[warp] = v;
  __syncthreads();
  if (warp == 0) v = warp_sum(lane < warps ? warp_sums[lane] : T(0));
  return v;
}

}  // namespace elbo::kernels
