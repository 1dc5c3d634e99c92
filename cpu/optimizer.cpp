// The optimiser over one flat buffer, the epoch's running sums, the move to the next step.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "cpu/constant.h"
#include "cpu/device.h"

namespace elbo::cpu {
namespace {

constexpr std::int64_t piece = 16384;  // parameters that a thread takes at a time

template <class F>
void with_optimizer(OptimizerType type, const F& f) {
  switch (type) {
    case OptimizerType::adam: return f(constant<OptimizerType::adam>);
    case OptimizerType::adagrad: return f(constant<OptimizerType::adagrad>);
    case OptimizerType::sgd: return f(constant<OptimizerType::sgd>);
  }
}

// yes where mask is all ones, no where it is 0. A plain ?: on a value to be stored becomes a masked store, which
// makes the loop below five times slower on AMD's CPUs.
float select(std::uint32_t mask, float yes, float no) {
  return math::bits_to_float((math::float_to_bits(yes) & mask) | (math::float_to_bits(no) & ~mask));
}

// Updates n parameters, and returns whether all of it is finite. A parameter whose gradient, updated value or updated
// state is not finite stays as it was, so that the fault can still be found where it began.
template <OptimizerType type>
bool optimizer_step(float* parameter, const float* gradient, float* first, float* second, std::int64_t n,
                    math::OptimizerSettings settings, float correction1, float correction2) {
  settings.type = type;
  std::uint32_t odd = 0;
#pragma omp simd reduction(| : odd)
  for (std::int64_t i = 0; i < n; ++i) {
    const float g = gradient[i], old_p = parameter[i], old_m = first[i], old_v = second[i];
    float p = old_p, m = old_m, v = old_v;
    math::optimizer_update(p, g, m, v, settings, correction1, correction2);
    const std::uint32_t good = (g - g) + (p - p) + (m - m) + (v - v) == 0.0f ? ~0u : 0u;  // all finite
    parameter[i] = select(good, p, old_p);
    first[i] = select(good, m, old_m);
    if (type == OptimizerType::adam) second[i] = select(good, v, old_v);
    odd |= ~good;
  }
  return odd == 0;
}

}  // namespace

void CpuBackend::do_run(const Accumulate& op) {
  auto& state = *static_cast<StepState*>(op.state.data);
  double* sums = op.sums.as<double>();
  *sums++ += static_cast<double>(op.rows);
  double all = 0;
  for (const PartialLoss& loss : op.losses) {
    if (!loss.partial) break;
    const float* const partial = loss.partial.as<float>();
    const std::int64_t count = loss.partial.count(), step = loss.sums();
    for (std::int64_t first = 0; first < step; ++first) {
      double sum = 0;
      for (std::int64_t i = first; i < count; i += step) sum += double{partial[i]};
      sum /= static_cast<double>(loss.samples);
      *sums++ += sum;
      all += sum;
    }
  }
  if (!std::isfinite(all)) state.bad_step = std::min<std::uint64_t>(state.bad_step, state.step);
}

void CpuBackend::do_run(const OptimizerStep& op) {
  auto& state = *static_cast<StepState*>(op.state.data);
  if (state.bad_step != StepState::none) return;
  float *const p = op.parameters.as<float>(), *const m = op.first_moment.as<float>(),
               *const v = op.second_moment.as<float>();
  const float* const g = op.gradients.as<float>();
  std::atomic<bool> bad = false;
  with_optimizer(op.settings.type, [&](auto type) {
    team_.run_pieces(op.parameters.count(), piece, [&](std::int64_t i, std::int64_t end) {
      const bool good = optimizer_step<type()>(p + i, g + i, m + i, v + i, end - i, op.settings, state.correction1,
                                               state.correction2);
      if (!good) bad = true;
    });
  });
  if (bad) state.bad_update = std::min<std::uint64_t>(state.bad_update, state.step);
}

void CpuBackend::do_run(const Advance& op) {
  auto* const state = static_cast<StepState*>(op.state.data);
  StepState next = state_at(state->seed, state->step + 1, op.schedule);
  next.bad_update = state->bad_update;
  next.bad_step = std::min(state->bad_step, state->bad_update);
  *state = next;
  if (next.bad_step != StepState::none) *op.fault.as<std::uint64_t>() = next.bad_step;
}

}  // namespace elbo::cpu
