// The one mark that lets a formula run on both sides: ELBO_HD functions are compiled by nvcc for
// host and device, and by any C++20 compiler as inline functions a loop can vectorise.
#pragma once

#if defined(__CUDACC__)
#define ELBO_HD __host__ __device__ __forceinline__
#else
#define ELBO_HD inline __attribute__((always_inline))
#endif
