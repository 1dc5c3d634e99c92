// The latent variable: sampling with its KL divergence, and the gradient of both.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "elbo/step_state.h"
#include "elbo/types.h"

namespace elbo::kernels {

struct SampleLatent {
  const float* stats;  // [rows, 2 * latent]: mu, then s
  const StepState* state;
  Posterior posterior;
  float* z;           // [rows, samples, latent] out; null: of the KL divergence alone
  float* kl_partial;  // [ceil_div(rows, latent_tile), latent] out; null: of the sample alone
  std::int64_t rows, samples, latent;
};

struct SampleLatentBackward {
  const float* stats;  // [rows, 2 * latent]
  const float* dz;     // [rows, samples, latent]; null: of the KL divergence alone
  const StepState* state;
  Posterior posterior;
  float kl_scale;  // d objective / d KL of one row
  float* dstats;   // [rows, 2 * latent] out
  std::int64_t rows, samples, latent;
};

void sample_latent_fused(const SampleLatent&, cudaStream_t);
void sample_latent_backward_fused(const SampleLatentBackward&, cudaStream_t);

// A Thrust call for each operation (unfused.cu). scratch: rows * samples * latent elements (rows * latent
// without z; none without dz).
void sample_latent_unfused(const SampleLatent&, float* scratch, cudaStream_t);
void sample_latent_backward_unfused(const SampleLatentBackward&, float* scratch, cudaStream_t);

}  // namespace elbo::kernels
