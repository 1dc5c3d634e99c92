// The bounds of the evidence, as forward code.
#pragma once
#include <string>
#include <vector>

#include "host/graph/gather.h"
#include "host/model/vae.h"

namespace elbo {

// A loss that an epoch keeps: its mean over the images is a figure of that name (metrics.h).
struct NamedLoss {
  std::string name;
  RowLoss loss;
  double weight = 0;       // of its mean in what is minimised: 0 where it is only looked at
  bool by_column = false;  // each column has a mean of its own, and all together are the loss
};

// A bound of the evidence of a batch: what is minimised, and at most most_losses losses. Every bound has
// "reconstruction" and, by column, "unit_kl", of which the ELBO is made. Any other is a further figure of
// metrics.jsonl, of the lines of a run and of its report.
struct Bound {
  Objective loss;
  std::vector<NamedLoss> parts;
};

// Algorithm 1 of arXiv 1312.6114: the reconstruction by sampling, the KL divergence in closed form, weighed by beta.
inline Bound elbo(const Vae& model, const Batch& batch, const Value& state, std::int64_t samples, double beta) {
  const Value stats = model.encode(batch.input);
  const Value z = model.posterior.sample(stats, state, samples);
  const RowLoss reconstruction = model.likelihood.nll(model.decode(z), batch.target);
  const RowLoss kl = model.posterior.kl(stats, state);
  return {mean(reconstruction) + static_cast<float>(beta) * mean(kl),
          {{"reconstruction", reconstruction, 1.0}, {"unit_kl", kl, beta, true}}};
}

// What a training step minimises, and what an evaluation measures, with one sample of z an image. Both have the same
// parts.
inline Bound training_bound(const Spec& spec, const Vae& model, const Batch& batch, const Value& state) {
  return elbo(model, batch, state, spec.objective.samples, spec.objective.beta);
}
inline Bound evaluation_bound(const Spec& spec, const Vae& model, const Batch& batch, const Value& state) {
  return elbo(model, batch, state, 1, spec.objective.beta);
}

}  // namespace elbo
