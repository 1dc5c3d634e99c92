#include "elbo/operations/optimizer.h"

namespace elbo {

void Accumulate::check() const {
  const std::int64_t latent = kl_partial.columns();
  require(rows > 0 && nll_partial.rows() % rows == 0, name, ": ", nll_partial.rows(),
          " losses are not a whole number for each of ", rows, " rows");
  check_tensor(name, "nll_partial", nll_partial, DType::f32, nll_partial.shape);
  check_tensor(name, "kl_partial", kl_partial, DType::f32, {ceil_div(rows, latent_tile), latent});
  check_tensor(name, "sums", sums, DType::f64, {2 + latent});
  check_state(name, state);
}

void OptimizerStep::check() const {
  const Shape flat{parameters.count()};
  check_tensor(name, "parameters", parameters, DType::f32, flat);
  check_tensor(name, "gradients", gradients, DType::f32, flat);
  check_tensor(name, "first_moment", first_moment, DType::f32, flat);
  check_tensor(name, "second_moment", second_moment, DType::f32, flat);
  check_state(name, state);
}

void Advance::check() const {
  check_state(name, state);
  check_tensor(name, "fault", fault, DType::u64, {1});
}

void FinishStep::check() const {
  losses.check();
  update.check();
  advance.check();
  require(losses.state.data == update.state.data && update.state.data == advance.state.data, name, ": two states");
}

}  // namespace elbo
