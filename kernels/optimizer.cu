// The optimiser over one flat buffer, the epoch's running sums, the move to the next step.
//
// update_weights: math::optimizer_update for every parameter. Nothing once a bad step is known. A parameter
//   whose gradient, updated value or updated state is not finite stays as it was, and is noted in
//   state->bad_update. Bytes a parameter: Adam 28 (reads 4 buffers, writes 3); Adagrad and SGD 20. Order plays no
//   part: each parameter stands for itself, and the first bad step is a minimum.
// add_to_sums: one block; each thread adds the losses t, t + 256, ... in double, then the threads are
//   summed in a fixed tree; tiles of a latent unit in order.
// next_step: one thread.
#include "kernels/optimizer.h"

#include "kernels/launcher.h"
#include "kernels/quad.h"
#include "kernels/reduce.h"

namespace elbo::kernels {
namespace {

constexpr unsigned threads = 256;

template <class T>
__device__ bool is_finite(T x) {
  return x - x == T(0);
}

// *first_step = min(*first_step, step)
__device__ void note_bad_step(std::uint64_t* first_step, std::uint32_t step) {
  static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));
  atomicMin(reinterpret_cast<unsigned long long*>(first_step), static_cast<unsigned long long>(step));
}

template <bool aligned>
__global__ void __launch_bounds__(threads) update_weights(const Update u) {
  if (u.state->bad_step != StepState::none) return;
  const std::int64_t i = 4 * (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x), left = u.count - i;
  if (left <= 0) return;
  const bool has_second = u.settings.type == Optimizer::adam;
  const Quad<float> g = load_quad<aligned>(u.gradients + i, left);
  Quad<float> p = load_quad<aligned>(u.parameters + i, left), m = load_quad<aligned>(u.first + i, left), v{};
  if (has_second) v = load_quad<aligned>(u.second + i, left);
  bool finite = true;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j >= left) break;
    float new_p = p.v[j], new_m = m.v[j], new_v = v.v[j];
    math::optimizer_update(new_p, g.v[j], new_m, new_v, u.settings, u.state->correction1, u.state->correction2);
    const bool good = is_finite(g.v[j]) && is_finite(new_p) && is_finite(new_m) && is_finite(new_v);
    p.v[j] = good ? new_p : p.v[j];
    m.v[j] = good ? new_m : m.v[j];
    v.v[j] = good ? new_v : v.v[j];
    finite = finite && good;
  }
  store_quad<aligned>(u.parameters + i, p, left);
  store_quad<aligned>(u.first + i, m, left);
  if (has_second) store_quad<aligned>(u.second + i, v, left);
  if (!finite) note_bad_step(&u.state->bad_update, u.state->step);
}

__global__ void __launch_bounds__(threads) add_to_sums(const Totals a) {
  double loss = 0.0;
  for (std::int64_t i = threadIdx.x; i < a.nll_rows * a.chunks; i += threads) loss += a.nll_partial[i];
  double kl = 0.0;
  for (std::int64_t unit = threadIdx.x; unit < a.latent; unit += threads) {
    double sum = 0.0;
    for (std::int64_t tile = 0; tile < a.kl_tiles; ++tile) sum += a.kl_partial[tile * a.latent + unit];
    a.sums[2 + unit] += sum;
    kl += sum;
  }
  loss = block_sum(loss);
  kl = block_sum(kl);
  if (threadIdx.x != 0) return;
  const double reconstruction = loss / static_cast<double>(a.nll_rows / a.rows);
  a.sums[0] += static_cast<double>(a.rows);
  a.sums[1] += reconstruction;
  if (!is_finite(reconstruction + kl)) note_bad_step(&a.state->bad_step, a.state->step);
}

__global__ void next_step(StepState* state, const Schedule schedule, std::uint64_t* fault) {
  StepState next = state_at(state->seed, state->step + 1, schedule);
  next.bad_update = state->bad_update;
  next.bad_step = state->bad_step < state->bad_update ? state->bad_step : state->bad_update;
  *state = next;
  if (next.bad_step != StepState::none) *fault = next.bad_step;
}

}  // namespace

void optimizer_update(const Update& u, cudaStream_t stream) {
  require(u.parameters && u.gradients && u.first && u.second && u.state, "optimizer_update: a null buffer");
  const Range range("optimizer_update");
  const unsigned blocks = blocks_for("optimizer_update", u.count, 4 * threads);
  const bool aligned = is_aligned(u.parameters, 16) && is_aligned(u.gradients, 16) && is_aligned(u.first, 16) &&
                       is_aligned(u.second, 16);
  launch("update_weights", aligned ? update_weights<true> : update_weights<false>, {blocks, threads, stream}, u);
}

void accumulate(const Totals& a, cudaStream_t stream) {
  require(a.nll_partial && a.kl_partial && a.state && a.sums, "accumulate: a null buffer");
  require(a.rows > 0 && a.nll_rows % a.rows == 0, "accumulate: ", a.nll_rows,
          " losses are not a whole number for each of ", a.rows, " rows");
  const Range range("accumulate");
  launch("add_to_sums", add_to_sums, {1, threads, stream}, a);
}

void advance(StepState* state, const Schedule& schedule, std::uint64_t* fault, cudaStream_t stream) {
  require(state && fault, "advance: a null buffer");
  require(schedule.batches_per_epoch > 0, "advance: an epoch of no batches");
  const Range range("advance");
  launch("next_step", next_step, {1, 1, stream}, state, schedule, fault);
}

}  // namespace elbo::kernels
