// The reconstruction loss, -log p(x | decoder output), and its gradient.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "elbo/math/bf16.h"
#include "elbo/types.h"

namespace elbo::kernels {

// Target: std::uint8_t (a pixel is value / 255) or float. Output: float or math::Bf16.
template <class Target, class Output = float>
struct LikelihoodLoss {
  const Output* output;  // [rows * samples, pixels]: logits (Bernoulli) or means (Gaussian)
  const Target* target;  // [rows, pixels]
  float variance;        // Gaussian
  float grad_scale;      // d objective / d loss of one output row
  float* nll_partial;    // [rows * samples, ceil_div(pixels, pixel_chunk)] out
  Output* grad;          // [rows * samples, pixels] out, may be `output` itself; null: value only
  std::int64_t rows, samples, pixels;
};

// Value and gradient in one launch. Bernoulli: _fused takes one logarithm for all pixels of a thread, _fused_log one
// for each pixel. Gaussian: they are the same.
template <class Target, class Output>
void likelihood_fused(Likelihood, const LikelihoodLoss<Target, Output>&, cudaStream_t);
template <class Target, class Output>
void likelihood_fused_log(Likelihood, const LikelihoodLoss<Target, Output>&, cudaStream_t);

// A launch for the value and, unless grad is null, one for the gradient.
template <class Target, class Output>
void likelihood_two_pass(Likelihood, const LikelihoodLoss<Target, Output>&, cudaStream_t);

// A Thrust call for each operation (unfused.cu). scratch: rows * samples * pixels elements.
template <class Target>
void likelihood_unfused(Likelihood, const LikelihoodLoss<Target>&, float* scratch, cudaStream_t);

}  // namespace elbo::kernels
