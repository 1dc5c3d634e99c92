// NVIDIA's own <cublasLt.h>, of the CUDA toolkit, for cuda/gemm.cpp on the simulated device: the numbers and structures
// that a real library would be called with. Of what that header includes, the runtime's types are those of this folder
// (the guards keep the toolkit's out), and the 16-bit types, which it only points to, remain unknown.
#pragma once
#include <cuda_runtime.h>

#define __DRIVER_TYPES_H__
#define __VECTOR_TYPES_H__
#define __CUDA_FP16_H__
#define __CUDA_BF16_H__
struct __half;
struct __nv_bfloat16;
#include_next <cublasLt.h>
