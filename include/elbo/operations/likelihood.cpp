#include "elbo/operations/likelihood.h"

namespace elbo {

void LikelihoodLoss::check() const {
  const int each = outputs_of_pixel(likelihood);
  const std::int64_t outputs = output.rows(), pixels = output.columns() / each, rows = target.rows();
  const DType type = output.dtype == DType::bf16 ? DType::bf16 : DType::f32;
  check_tensor(name, "output", output, type, {outputs, each * pixels});
  require(type == DType::f32 || variant != LossVariant::unfused, name,
          ": the unfused kernels take an f32 output; for bf16 choose fused, fused_log or two_pass");
  require(target && (target.dtype == DType::u8 || target.dtype == DType::f32) && rows > 0 && outputs % rows == 0 &&
              target.shape == Shape{rows, pixels},
          name, ": target should be u8 or f32 [rows, ", pixels, "] with rows dividing ", outputs, ", not ",
          name_of(target.dtype), " ", target.shape);
  const Shape partials{outputs, ceil_div(pixels, pixel_chunk)};
  require(nll_partial || grad, name, ": neither nll_partial nor grad; give either or both");
  require(grad || !dnll_partial, name, ": a dnll_partial, which weighs the gradient, without grad");
  if (nll_partial) check_tensor(name, "nll_partial", nll_partial, DType::f32, partials);
  if (dnll_partial) check_tensor(name, "dnll_partial", dnll_partial, DType::f32, partials);
  if (grad) check_tensor(name, "grad", grad, type, output.shape);
  require(likelihood != Likelihood::gaussian || variance > 0, name, ": a variance of ", variance);
  check_scratch(name, scratch, scratch_size());
}

}  // namespace elbo
