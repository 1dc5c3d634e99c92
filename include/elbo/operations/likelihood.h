// -log p(x|z) of images, and its gradient.
#pragma once
#include "elbo/operation.h"
#include "elbo/sizes.h"
#include "elbo/types.h"

namespace elbo {

// Value, gradient, or both in one pass. Arithmetic is f32 where output is bf16, too; the unfused kernels take f32 only.
struct LikelihoodLoss {
  static constexpr const char* name = "likelihood";

  // f32 or bf16 [R * S, D]: logits (bernoulli) or means (gaussian); [R * S, 2D]: means, then raw log variances
  // (gaussian_learned; what they mean: elbo/math/likelihood.h)
  Tensor output;
  Tensor target;  // u8 [R, D], a pixel is value / 255, or f32 [R, D]; row r serves outputs r*S .. r*S+S-1
  Likelihood likelihood = Likelihood::bernoulli;
  LossVariant variant = LossVariant::fused;
  float variance = 1.0f;                 // gaussian
  PixelMean mean = PixelMean::identity;  // gaussian_learned
  float grad_scale = 1.0f;               // d objective / d loss of one output row
  Tensor dnll_partial{};  // f32, as nll_partial: what d objective / d nll_partial is beside grad_scale; none: 0
  Tensor nll_partial;     // f32 [R * S, ceil_div(D, pixel_chunk)] out: -log p(x|z), in nats; none: gradient only
  Tensor grad;            // of output's type and shape, out, may be `output` itself; none: value only
  Tensor scratch;         // f32 [scratch_size()]; none where that is 0

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("output", op.output, Access::read);
    f("target", op.target, Access::read);
    f("dnll_partial", op.dnll_partial, Access::read);
    f("nll_partial", op.nll_partial, Access::write);
    f("grad", op.grad, Access::write);
    f("scratch", op.scratch, Access::scratch);
  }
  friend bool operator==(const LikelihoodLoss&, const LikelihoodLoss&) = default;
  void check() const;
  // A loss of each pixel.
  std::int64_t scratch_size() const {
    return variant == LossVariant::unfused && nll_partial ? output.rows() * target.columns() : 0;
  }
  std::string sizes() const {
    return cat(output.shape, ", targets ", target.shape, nll_partial ? "" : ", gradient alone");
  }
};

}  // namespace elbo
