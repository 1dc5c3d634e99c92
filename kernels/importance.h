// The importance-weighted bound of the evidence, and its gradient.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace elbo::kernels {

struct ImportanceBound {
  const float* nll_partial;  // [rows * samples, chunks]
  const float* sampled_kl;   // [rows, samples]
  float grad_scale;          // d objective / d loss of one row
  float* loss;               // [rows] out, or null
  float* dnll_partial;       // [rows * samples, chunks] out, or null
  float* dsampled_kl;        // [rows, samples] out, or null
  std::int64_t rows, samples, chunks;
};

void importance_bound_fused(const ImportanceBound&, cudaStream_t);

// A Thrust call for each operation (unfused.cu). scratch: rows * (samples + 2) elements.
void importance_bound_unfused(const ImportanceBound&, float* scratch, cudaStream_t);

}  // namespace elbo::kernels
