#include "elbo/operations/importance.h"

namespace elbo {

void ImportanceBound::check() const {
  require(sampled_kl && sampled_kl.dtype == DType::f32 && sampled_kl.shape.rank() == 2 && sampled_kl.count() > 0, name,
          ": sampled_kl should be f32 [rows, samples], not ", sampled_kl.shape);
  check_tensor(name, "nll_partial", nll_partial, DType::f32, {sampled_kl.count(), nll_partial.columns()});
  require(loss || dnll_partial || dsampled_kl, name, ": neither the loss nor a gradient is wanted");
  if (loss) check_tensor(name, "loss", loss, DType::f32, {sampled_kl.rows()});
  if (dnll_partial) check_tensor(name, "dnll_partial", dnll_partial, DType::f32, nll_partial.shape);
  if (dsampled_kl) check_tensor(name, "dsampled_kl", dsampled_kl, DType::f32, sampled_kl.shape);
  check_scratch(name, scratch, scratch_size());
}

}  // namespace elbo
