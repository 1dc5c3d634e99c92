// The importance-weighted bound of each row and its gradient.
#include <algorithm>

#include "cpu/device.h"
#include "elbo/math/importance.h"

namespace elbo::cpu {
namespace {

// The batch, and where row r's draws lie.
struct Draws {
  std::int64_t rows, samples, chunks;
  const float *nll, *kl;

  double log_weight(std::int64_t draw) const { return math::log_weight(nll + draw * chunks, chunks, kl[draw]); }
};

// Writes the gradient of a draw where it is wanted.
struct Gradient {
  float scale;
  float *nll, *kl;

  bool is_wanted() const { return nll || kl; }
  void set(std::int64_t draw, std::int64_t chunks, float share) const {
    if (kl) kl[draw] = scale * share;
    if (nll) std::fill_n(nll + draw * chunks, chunks, scale * share);
  }
};

void importance_bound_row(const Draws& d, std::int64_t row, float* loss, const Gradient& gradient) {
  const std::int64_t first = row * d.samples, end = first + d.samples;
  double largest = math::lowest_log_weight;
  for (std::int64_t i = first; i < end; ++i) largest = std::max(largest, d.log_weight(i));
  double sum = 0;
  for (std::int64_t i = first; i < end; ++i) sum += double{math::relative_weight(d.log_weight(i), largest)};
  if (loss) loss[row] = math::importance_loss(largest, static_cast<float>(sum), d.samples);
  if (!gradient.is_wanted()) return;
  for (std::int64_t i = first; i < end; ++i)
    gradient.set(i, d.chunks, math::relative_weight(d.log_weight(i), largest) / static_cast<float>(sum));
}

// One loop over the batch for each operation.
void importance_bound_unfused(Team& team, const Draws& d, float* loss, const Gradient& gradient, float* scratch) {
  const std::int64_t draws = d.rows * d.samples;
  float *const weights = scratch, *const largest = scratch + draws, *const sums = largest + d.rows;
  team.run(draws, [=](std::int64_t i) { weights[i] = static_cast<float>(d.log_weight(i)); });
  team.run(d.rows, [=](std::int64_t r) {
    largest[r] = *std::max_element(weights + r * d.samples, weights + (r + 1) * d.samples);
  });
  team.run(draws, [=](std::int64_t i) {
    weights[i] = math::relative_weight(double{weights[i]}, double{largest[i / d.samples]});
  });
  team.run(d.rows, [=](std::int64_t r) {
    sums[r] = 0;
    for (std::int64_t i = r * d.samples; i < (r + 1) * d.samples; ++i) sums[r] += weights[i];
  });
  if (loss)
    team.run(d.rows, [=](std::int64_t r) { loss[r] = math::importance_loss(double{largest[r]}, sums[r], d.samples); });
  if (gradient.is_wanted())
    team.run(draws, [=](std::int64_t i) { gradient.set(i, d.chunks, weights[i] / sums[i / d.samples]); });
}

}  // namespace

void CpuBackend::do_run(const ImportanceBound& op) {
  const Draws draws{.rows = op.sampled_kl.rows(),
                    .samples = op.sampled_kl.columns(),
                    .chunks = op.nll_partial.columns(),
                    .nll = op.nll_partial.as<float>(),
                    .kl = op.sampled_kl.as<float>()};
  float* const loss = address_of<float>(op.loss);
  const Gradient gradient{
      .scale = op.grad_scale, .nll = address_of<float>(op.dnll_partial), .kl = address_of<float>(op.dsampled_kl)};
  if (op.variant == LossVariant::unfused)
    return importance_bound_unfused(team_, draws, loss, gradient, op.scratch.as<float>());
  team_.run(draws.rows, [&](std::int64_t row) { importance_bound_row(draws, row, loss, gradient); });
}

}  // namespace elbo::cpu
