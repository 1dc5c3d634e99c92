// The importance-weighted bound of the evidence, and its gradient.
#pragma once
#include "elbo/operation.h"
#include "elbo/types.h"

namespace elbo {

// Loss, gradient, or both in one pass (elbo/math/importance.h).
struct ImportanceBound {
  static constexpr const char* name = "importance_bound";

  Tensor nll_partial;                        // f32 [R * S, chunks]: -log p(x|z) of each draw, in parts
  Tensor sampled_kl;                         // f32 [R, S]: log q(z|x) - log p(z)
  LossVariant variant = LossVariant::fused;  // fused unless it is unfused: the others are a likelihood's
  float grad_scale = 1.0f;                   // d objective / d loss of one row
  Tensor loss;                               // f32 [R] out: the negative bound, in nats; none: gradient only
  Tensor dnll_partial;                       // f32 [R * S, chunks] out: the same for each part of a draw; or none
  Tensor dsampled_kl;                        // f32 [R, S] out, or none
  Tensor scratch;                            // f32 [scratch_size()]; none where that is 0

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("nll_partial", op.nll_partial, Access::read);
    f("sampled_kl", op.sampled_kl, Access::read);
    f("loss", op.loss, Access::write);
    f("dnll_partial", op.dnll_partial, Access::write);
    f("dsampled_kl", op.dsampled_kl, Access::write);
    f("scratch", op.scratch, Access::scratch);
  }
  friend bool operator==(const ImportanceBound&, const ImportanceBound&) = default;
  void check() const;
  // A weight of each draw; a largest one and a sum of each row.
  std::int64_t scratch_size() const {
    return variant == LossVariant::unfused ? sampled_kl.count() + 2 * sampled_kl.rows() : 0;
  }
  std::string sizes() const { return sampled_kl.shape.str(); }
};

}  // namespace elbo
