// The bounds of the evidence, as forward code.
#pragma once
#include <string>
#include <vector>

#include "host/graph/gather.h"
#include "host/graph/importance.h"
#include "host/model/vae.h"

namespace elbo {

// A loss that an epoch keeps: its mean over the images is a figure of that name, or the mean's negative where the name
// is a bound's (Figures::is_bound).
struct NamedLoss {
  std::string name;
  RowLoss loss;
  bool by_column = false;  // each column has a mean of its own, and all together are the loss
};

// A bound of the evidence of a batch: what is minimised, and at most most_losses losses, those that are minimised and
// those that are only looked at. Every bound has "reconstruction" and, by column, "unit_kl", of which the ELBO is made.
// Any other is a further figure of metrics.jsonl, of the lines of a run and of its report.
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
  return {mean(reconstruction) + beta * mean(kl),
          {{.name = "reconstruction", .loss = reconstruction}, {.name = "unit_kl", .loss = kl, .by_column = true}}};
}

// Equation 8 of arXiv 1509.00519: the logarithm of the mean importance weight of the samples, the closer to log p(x)
// the more of them there are. With one it is the ELBO, its KL divergence by sampling.
inline Bound iwae(const Vae& model, const Batch& batch, const Value& state, std::int64_t samples, LossVariant kernels) {
  const Value stats = model.encode(batch.input);
  const auto [z, sampled_kl] = model.posterior.sample_with_kl(stats, state, samples);
  const RowLoss reconstruction = model.likelihood.nll(model.decode(z), batch.target);
  const RowLoss bound = importance_bound(reconstruction, sampled_kl, kernels);
  return {mean(bound),
          {{.name = "reconstruction", .loss = reconstruction},
           {.name = "unit_kl", .loss = model.posterior.kl(stats, state), .by_column = true},
           {.name = "iwae", .loss = bound}}};
}

// Samples of z an image in an evaluation: the bound of several is another with each number of them.
inline std::int64_t evaluation_samples(const Spec& spec) {
  switch (spec.objective.type) {
    case ObjectiveType::elbo: return 1;
    case ObjectiveType::iwae: return spec.objective.samples;
  }
  fail("an objective of no type");
}

// What a training step minimises, and what an evaluation measures. Both have the same parts.
inline Bound bound_of(const Spec& spec, const Vae& model, const Batch& batch, const Value& state,
                      std::int64_t samples) {
  switch (spec.objective.type) {
    case ObjectiveType::elbo: return elbo(model, batch, state, samples, spec.objective.beta);
    case ObjectiveType::iwae: return iwae(model, batch, state, samples, spec.objective.kernels);
  }
  fail("an objective of no type");
}
inline Bound training_bound(const Spec& spec, const Vae& model, const Batch& batch, const Value& state) {
  return bound_of(spec, model, batch, state, spec.objective.samples);
}
inline Bound evaluation_bound(const Spec& spec, const Vae& model, const Batch& batch, const Value& state) {
  return bound_of(spec, model, batch, state, evaluation_samples(spec));
}

}  // namespace elbo
