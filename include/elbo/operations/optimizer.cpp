#include "elbo/operations/optimizer.h"

namespace elbo {

void Accumulate::check() const {
  require(rows > 0, name, ": ", rows, " rows");
  std::int64_t count = 1;
  bool ended = false;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const auto& [partial, samples, by_column] = losses[i];
    ended = ended || (i > 0 && !partial);
    if (ended) {
      require(!partial, name, ": losses[", i, "] comes behind one that is none");
      continue;
    }
    check_tensor(name, cat("losses[", i, "]").c_str(), partial, DType::f32, partial.shape);
    require(samples > 0, name, ": losses[", i, "] of ", samples, " samples");
    count += losses[i].sums();
  }
  check_tensor(name, "sums", sums, DType::f64, {count});
  check_state(name, state);
}

std::string Accumulate::sizes() const {
  std::string text;
  for (const PartialLoss& loss : losses)
    if (loss.partial) text += (text.empty() ? "" : ", ") + loss.partial.shape.str();
  return text;
}

std::int64_t Accumulate::partial_sums() const {
  std::int64_t count = 0;
  for (const PartialLoss& loss : losses)
    if (loss.partial) count += loss.partial.count();
  return count;
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
