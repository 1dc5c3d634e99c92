// The likelihood p(x|z) of a pixel, given what the decoder says of it.
#pragma once
#include "elbo/math/elementary.h"
#include "host/graph/likelihood.h"
#include "host/spec/spec.h"

namespace elbo {

class PixelLikelihood {
 public:
  explicit PixelLikelihood(const Spec& spec)
      : options_{spec.model.is_variance_learned ? Likelihood::gaussian_learned : spec.model.likelihood,
                 spec.objective.kernels, static_cast<float>(spec.model.variance), spec.model.mean} {}

  // That the decoder gives: D, or 2D where the variance is learned. The first D are what mean() takes.
  std::int64_t outputs(std::int64_t pixels) const { return outputs_of_pixel(options_.likelihood) * pixels; }

  // -log p(x|z) of output [R * S, outputs(D)] and target [R, D]
  RowLoss nll(const Value& output, const Value& target) const {
    const RowLoss nll = likelihood_loss(output, target, options_);
    nll.partial.graph().describe(nll.partial, "the reconstruction loss");
    return nll;
  }

  // The mean of a pixel of which the decoder says `output`.
  float mean(float output) const {
    switch (options_.likelihood) {
      case Likelihood::bernoulli: return sigmoid(output);
      case Likelihood::gaussian: return output;
      case Likelihood::gaussian_learned: return options_.mean == PixelMean::sigmoid ? sigmoid(output) : output;
    }
    return output;
  }

 private:
  static float sigmoid(float x) { return 1.0f / (1.0f + math::exp(-x)); }

  LikelihoodOptions options_;
};

}  // namespace elbo
