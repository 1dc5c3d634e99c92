// The approximate posterior q(z|x) = N(mu, sigma^2): the encoder gives mu and s (see Posterior) side by side.
#pragma once
#include "host/graph/latent.h"
#include "host/spec/spec.h"

namespace elbo {

class GaussianPosterior {
 public:
  explicit GaussianPosterior(const Spec& spec) : options_{spec.model.posterior, spec.objective.kernels} {}

  static std::int64_t statistics(std::int64_t latent) { return 2 * latent; }  // that the encoder gives

  // z [R, S, L]
  Value sample(const Value& stats, const Value& state, std::int64_t samples) const {
    const Value z = sample_latent(stats, state, samples, options_);
    z.graph().describe(z, "the sampled z");
    return z;
  }
  // The same z, with log q(z|x) - log p(z) of each draw.
  LatentDraws sample_with_kl(const Value& stats, const Value& state, std::int64_t samples) const {
    const LatentDraws draws = sample_latent_with_kl(stats, state, samples, options_);
    draws.z.graph().describe(draws.z, "the sampled z");
    draws.z.graph().describe(draws.kl.partial, "the KL divergence of the draws");
    return draws;
  }
  // The KL divergence from the prior N(0, 1).
  RowLoss kl(const Value& stats, const Value& state) const {
    const RowLoss kl = latent_kl(stats, state, options_);
    kl.partial.graph().describe(kl.partial, kl_name);
    return kl;
  }

  static constexpr const char* kl_name = "the KL divergence";

 private:
  LatentOptions options_;
};

}  // namespace elbo
