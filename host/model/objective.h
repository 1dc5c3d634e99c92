// The bounds of the evidence, as forward code.
#pragma once
#include "host/graph/gather.h"
#include "host/model/vae.h"

namespace elbo {

// The evidence lower bound of a batch and its two parts; what is minimised is its negative.
struct Elbo {
  Objective loss;
  RowLoss reconstruction, kl;
};

// Algorithm 1 of arXiv 1312.6114: the reconstruction by sampling, the KL divergence in closed form, weighed by beta.
inline Elbo elbo(const Vae& model, const Batch& batch, const Value& state, std::int64_t samples, float beta) {
  const Value stats = model.encode(batch.input);
  const Value z = model.posterior.sample(stats, state, samples);
  const RowLoss reconstruction = model.likelihood.nll(model.decode(z), batch.target);
  const RowLoss kl = model.posterior.kl(stats, state);
  return {mean(reconstruction) + beta * mean(kl), reconstruction, kl};
}

}  // namespace elbo
