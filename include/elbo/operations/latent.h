// The latent variable: a draw from the posterior and its KL divergence from N(0, 1), and the gradient of both.
#pragma once
#include "elbo/operation.h"
#include "elbo/sizes.h"
#include "elbo/types.h"

namespace elbo {

// z = mu + sigma eps, eps drawn for (row, sample, dimension); the KL divergence of q(z|x) in nats, in closed form or of
// the draws. Any output may be none.
struct SampleLatent {
  static constexpr const char* name = "sample_latent";

  Tensor stats;  // f32 [R, 2L]: mu, then s (see Posterior)
  Tensor state;  // StepState
  Posterior posterior = Posterior::log_variance;
  LossVariant variant = LossVariant::fused;  // fused unless it is unfused: the others are a likelihood's
  Tensor z;                                  // f32 [R, S, L] out
  Tensor kl_partial;    // f32 [ceil_div(R, latent_tile), L] out: KL summed over the rows of a tile, in nats
  Tensor sampled_kl{};  // f32 [R, S] out: log q(z|x) - log p(z) in nats, summed over the dimensions; not without z
  Tensor scratch;       // f32 [scratch_size()]; none where that is 0

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("stats", op.stats, Access::read);
    f("state", op.state, Access::read);
    f("kl_partial", op.kl_partial, Access::write);
    f("z", op.z, Access::write);
    f("sampled_kl", op.sampled_kl, Access::write);
    f("scratch", op.scratch, Access::scratch);
  }
  void check() const;
  std::int64_t scratch_size() const {
    if (variant != LossVariant::unfused) return 0;
    return z ? z.count() : stats.count() / 2;
  }
  std::string sizes() const { return (z ? z : stats).shape.str(); }
};

// dstats = the gradient through z, kl_scale times that of the KL divergence, and that of the sampled one.
struct SampleLatentBackward {
  static constexpr const char* name = "sample_latent_backward";

  Tensor stats;  // f32 [R, 2L]
  Tensor dz;     // f32 [R, S, L]; none: of the KL divergence alone
  Tensor state;  // StepState: epsilon is drawn again
  Posterior posterior = Posterior::log_variance;
  LossVariant variant = LossVariant::fused;
  float kl_scale = 1.0f;  // d objective / d KL of one row
  // d objective / d sampled_kl of one row and sample: the first, and what the second has for it.
  float sampled_kl_scale = 0.0f;
  Tensor dsampled_kl{};  // f32 [R, S]; none: 0
  Tensor dstats;         // f32 [R, 2L] out
  Tensor scratch;        // f32 [scratch_size()]; none where that is 0

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("stats", op.stats, Access::read);
    f("dz", op.dz, Access::read);
    f("dsampled_kl", op.dsampled_kl, Access::read);
    f("state", op.state, Access::read);
    f("dstats", op.dstats, Access::write);
    f("scratch", op.scratch, Access::scratch);
  }
  void check() const;
  bool has_sampled_kl() const { return sampled_kl_scale != 0.0f || dsampled_kl; }
  std::int64_t scratch_size() const {
    return variant == LossVariant::unfused && dz ? dz.count() * (has_sampled_kl() ? 2 : 1) : 0;
  }
  std::string sizes() const { return (dz ? dz : stats).shape.str(); }
};

}  // namespace elbo
