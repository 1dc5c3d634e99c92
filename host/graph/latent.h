// The latent variable in a graph.
#pragma once
#include "host/graph/graph.h"

namespace elbo {

struct LatentOptions {
  Posterior posterior = Posterior::log_variance;
  LossVariant variant = LossVariant::fused;
};

// z = mu + sigma eps [R, samples, L], of stats [R, 2L]; epsilon is drawn by the step's state.
Value sample_latent(const Value& stats, const Value& state, std::int64_t samples, const LatentOptions&);
// The same z, and log q(z|x) - log p(z) of each of its draws: the KL divergence by sampling.
struct LatentDraws {
  Value z;
  RowLoss kl;  // f32 [R, samples]
};
LatentDraws sample_latent_with_kl(const Value& stats, const Value& state, std::int64_t samples, const LatentOptions&);
// KL(q(z|x) || N(0, 1)) of each row, as partial sums [tiles, L].
RowLoss latent_kl(const Value& stats, const Value& state, const LatentOptions&);

// A sample of a posterior and its KL divergence are one call; so are their gradients.
bool fuse_sample_with_kl(Graph&, std::size_t call);
bool fuse_sample_with_kl_backward(Graph&, std::size_t call);

}  // namespace elbo
