// The reconstruction loss in a graph.
#pragma once
#include "host/graph/graph.h"

namespace elbo {

struct LikelihoodOptions {
  Likelihood likelihood = Likelihood::bernoulli;
  LossVariant variant = LossVariant::fused;
  float variance = 1.0f;                 // gaussian
  PixelMean mean = PixelMean::identity;  // gaussian_learned
};

// -log p(x|z) of output [R * S, D or 2D] (what it means: see LikelihoodLoss) and target [R, D], for each row of output.
RowLoss likelihood_loss(const Value& output, const Value& target, const LikelihoodOptions&);

// Where the weight of a loss is known beforehand, its value and its gradient are one call.
bool fuse_likelihood_with_gradient(Graph&, std::size_t call);

}  // namespace elbo
