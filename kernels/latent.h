// The latent variable: sampling with its KL divergence, and the gradient of both.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "elbo/math/hd.h"
#include "elbo/step_state.h"
#include "elbo/types.h"

namespace elbo::kernels {

struct SampleLatent {
  const float* stats;  // [rows, 2 * latent]: mu, then s
  const StepState* state;
  Posterior posterior;
  float* z;                     // [rows, samples, latent] out; null: of the KL divergence alone
  float* kl_partial;            // [ceil_div(rows, latent_tile), latent] out; null: of the sample alone
  float* sampled_kl = nullptr;  // [rows, samples] out, or null; not without z
  std::int64_t rows, samples, latent;
};

struct SampleLatentBackward {
  const float* stats;  // [rows, 2 * latent]
  const float* dz;     // [rows, samples, latent]; null: of the KL divergence alone
  const StepState* state;
  Posterior posterior;
  float kl_scale;                      // d objective / d KL of one row
  float sampled_kl_scale = 0.0f;       // d objective / d sampled_kl, and more of it:
  const float* dsampled_kl = nullptr;  // [rows, samples], or null
  float* dstats;                       // [rows, 2 * latent] out
  std::int64_t rows, samples, latent;

  ELBO_HD bool has_sampled_kl() const { return sampled_kl_scale != 0.0f || dsampled_kl; }
  // Of sampled_kl[draw].
  ELBO_HD float weight_of_sampled_kl(std::int64_t draw) const {
    return dsampled_kl ? sampled_kl_scale + dsampled_kl[draw] : sampled_kl_scale;
  }
};

void sample_latent_fused(const SampleLatent&, cudaStream_t);
void sample_latent_backward_fused(const SampleLatentBackward&, cudaStream_t);

// A Thrust call for each operation (unfused.cu). scratch: scratch_size() of the operation in elbo/operations/latent.h.
void sample_latent_unfused(const SampleLatent&, float* scratch, cudaStream_t);
void sample_latent_backward_unfused(const SampleLatentBackward&, float* scratch, cudaStream_t);

}  // namespace elbo::kernels
