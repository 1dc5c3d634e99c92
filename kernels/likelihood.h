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
  const Output* output;  // [rows * samples, pixels], gaussian_learned: 2 pixels (elbo/operations/likelihood.h)
  const Target* target;  // [rows, pixels]
  float variance;        // gaussian
  PixelMean mean = PixelMean::identity;  // gaussian_learned
  float grad_scale;                      // d objective / d loss of one output row
  const float* dnll_partial = nullptr;   // as nll_partial: d objective / d nll_partial beside grad_scale; null: 0
  float* nll_partial;                    // [rows * samples, ceil_div(pixels, pixel_chunk)] out; null: gradient only
  Output* grad;                          // as output, out, may be `output` itself; null: value only
  std::int64_t rows, samples, pixels;
};

// Value and gradient in one launch; in two where dnll_partial is given. _fused takes one logarithm for all pixels of a
// thread, _fused_log one for each pixel; of gaussian, which has none, they are the same.
template <class Target, class Output>
void likelihood_fused(Likelihood, const LikelihoodLoss<Target, Output>&, cudaStream_t);
template <class Target, class Output>
void likelihood_fused_log(Likelihood, const LikelihoodLoss<Target, Output>&, cudaStream_t);

// A launch for the value, unless nll_partial is null, and one for the gradient, unless grad is null.
template <class Target, class Output>
void likelihood_two_pass(Likelihood, const LikelihoodLoss<Target, Output>&, cudaStream_t);

// A Thrust call for each operation (unfused.cu). scratch: rows * samples * pixels elements, of which only the value has
// need.
template <class Target>
void likelihood_unfused(Likelihood, const LikelihoodLoss<Target>&, float* scratch, cudaStream_t);

}  // namespace elbo::kernels
