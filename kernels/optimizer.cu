// The optimiser over one flat buffer, the epoch's running sums, the move to the next step: three kernels, and one that
// does all of it.
//
// update_weights: math::optimizer_update for every parameter. Nothing once a bad step is known. A parameter
//   whose gradient, updated value or updated state is not finite stays as it was, and is noted in
//   state->bad_update. Bytes a parameter: Adam 28 (reads 4 buffers, writes 3); Adagrad and SGD 20. Order plays no
//   part: each parameter stands for itself, and the first bad step is a minimum.
// add_to_sums: one block; each thread adds the losses t, t + 256, ... in double, then the threads are
//   summed in a fixed tree; tiles of a latent unit in order.
// next_step: one thread.
// end_of_step: block 0 adds to the sums, the others update the weights, the last to end moves the state on. No weight
//   may move after a loss that is not finite, so every block looks through the batch's partial sums for itself: with
//   some thousands of them, a few loads from the L2 cache a thread, in place of a launch that comes before the update.
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

// *first_step = min(*first_step, step); returns what it was.
__device__ std::uint64_t note_bad_step(std::uint64_t* first_step, std::uint64_t step) {
  static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));
  return atomicMin(reinterpret_cast<unsigned long long*>(first_step), static_cast<unsigned long long>(step));
}

// The block's share of the update, as block `block`.
template <bool aligned>
__device__ __forceinline__ void update_block(const Update& u, unsigned block) {
  const std::int64_t i = 4 * (std::int64_t{block} * threads + threadIdx.x), left = u.count - i;
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

// Adds the batch to the sums; says in thread 0 whether its loss is finite. By one block.
__device__ __forceinline__ bool add_batch(const Totals& a) {
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
  const double reconstruction = loss / static_cast<double>(a.nll_rows / a.rows);
  if (threadIdx.x == 0) {
    a.sums[0] += static_cast<double>(a.rows);
    a.sums[1] += reconstruction;
  }
  return is_finite(reconstruction + kl);
}

// Whether all partial sums of the batch's loss are finite, in every thread of the block.
__device__ __forceinline__ bool has_finite_losses(const Totals& a) {
  ELBO_SHARED(int, finite, 1);
  if (threadIdx.x == 0) finite[0] = 1;
  __syncthreads();
  const std::int64_t losses = a.nll_rows * a.chunks, kls = a.kl_tiles * a.latent;
  bool mine = true;
  for (std::int64_t i = threadIdx.x; i < losses; i += threads) mine = mine && is_finite(a.nll_partial[i]);
  for (std::int64_t i = threadIdx.x; i < kls; i += threads) mine = mine && is_finite(a.kl_partial[i]);
  if (!mine) atomicExch(&finite[0], 0);
  __syncthreads();
  return finite[0] != 0;
}

__device__ __forceinline__ void move_on(StepState* state, const Schedule& schedule, std::uint64_t bad_step,
                                        std::uint64_t bad_update, std::uint64_t* fault) {
  const StepState next = state_at(state->seed, state->step + 1, schedule);
  state->step = next.step;
  state->epoch = next.epoch;
  state->batch = next.batch;
  state->noise_step = next.noise_step;
  state->row0 = next.row0;
  state->correction1 = next.correction1;
  state->correction2 = next.correction2;
  state->bad_update = bad_update;
  state->bad_step = bad_step < bad_update ? bad_step : bad_update;
  if (state->bad_step != StepState::none) *fault = state->bad_step;
}

template <bool aligned>
__global__ void __launch_bounds__(threads) update_weights(const Update u) {
  if (u.state->bad_step == StepState::none) update_block<aligned>(u, blockIdx.x);
}

__global__ void __launch_bounds__(threads) add_to_sums(const Totals a) {
  const bool finite = add_batch(a);
  if (threadIdx.x == 0 && !finite) note_bad_step(&a.state->bad_step, a.state->step);
}

__global__ void next_step(StepState* state, const Schedule schedule, std::uint64_t* fault) {
  move_on(state, schedule, state->bad_step, state->bad_update, fault);
}

template <bool aligned>
__global__ void __launch_bounds__(threads, resident_blocks(threads, aligned ? 5 : 4))
    end_of_step(const Totals t, const Update u, const Schedule schedule, std::uint64_t* fault) {
  StepState* const state = u.state;
  const bool finite = has_finite_losses(t);
  if (blockIdx.x == 0) {
    add_batch(t);
  } else if (finite && state->bad_step == StepState::none) {
    update_block<aligned>(u, blockIdx.x - 1);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  // The last block to come here sees what all others did: they fenced before they counted themselves, it counts before
  // it looks. bad_update is read where the atomics write it, not from this multiprocessor's cache.
  __threadfence();
  if (atomicInc(&state->blocks_done, gridDim.x - 1) != gridDim.x - 1) return;  // the last one makes it 0 again
  __threadfence();
  std::uint64_t bad_step = state->bad_step;
  if (!finite && state->step < bad_step) bad_step = state->step;
  move_on(state, schedule, bad_step, note_bad_step(&state->bad_update, StepState::none), fault);
}

}  // namespace

namespace {

void check(const char* launcher, const Update& u) {
  require(u.parameters && u.gradients && u.first && u.second && u.state, launcher, ": a null buffer");
}

void check(const char* launcher, const Totals& a) {
  require(a.nll_partial && a.kl_partial && a.state && a.sums, launcher, ": a null buffer");
  require(a.rows > 0 && a.nll_rows % a.rows == 0, launcher, ": ", a.nll_rows,
          " losses are not a whole number for each of ", a.rows, " rows");
}

void check(const char* launcher, const StepState* state, const Schedule& schedule, const std::uint64_t* fault) {
  require(state && fault, launcher, ": a null buffer");
  require(schedule.batches_per_epoch > 0, launcher, ": an epoch of no batches");
}

bool is_aligned_for_quads(const Update& u) {
  return is_aligned(u.parameters, 16) && is_aligned(u.gradients, 16) && is_aligned(u.first, 16) &&
         is_aligned(u.second, 16);
}

}  // namespace

void optimizer_update(const Update& u, cudaStream_t stream) {
  check("optimizer_update", u);
  const Range range("optimizer_update");
  const unsigned blocks = blocks_for("optimizer_update", u.count, 4 * threads);
  launch("update_weights", is_aligned_for_quads(u) ? update_weights<true> : update_weights<false>,
         {blocks, threads, stream}, u);
}

void accumulate(const Totals& a, cudaStream_t stream) {
  check("accumulate", a);
  const Range range("accumulate");
  launch("add_to_sums", add_to_sums, {1, threads, stream}, a);
}

void advance(StepState* state, const Schedule& schedule, std::uint64_t* fault, cudaStream_t stream) {
  check("advance", state, schedule, fault);
  const Range range("advance");
  launch("next_step", next_step, {1, 1, stream}, state, schedule, fault);
}

void finish_step(const Totals& a, const Update& u, const Schedule& schedule, std::uint64_t* fault,
                 cudaStream_t stream) {
  check("finish_step", a);
  check("finish_step", u);
  check("finish_step", u.state, schedule, fault);
  require(a.state == u.state, "finish_step: two states");
  const Range range("finish_step");
  const unsigned blocks = 1 + blocks_for("finish_step", u.count, 4 * threads);
  launch("end_of_step", is_aligned_for_quads(u) ? end_of_step<true> : end_of_step<false>, {blocks, threads, stream}, a,
         u, schedule, fault);
}

}  // namespace elbo::kernels
