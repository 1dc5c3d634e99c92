// The optimiser over one flat buffer, the epoch's running sums, the move to the next step: three kernels, and one that
// does all of it.
//
// optimizer_step: math::optimizer_update for every parameter. The kernel does nothing once a bad step is known. A
//   parameter whose gradient, updated value or updated state is not finite stays as it was, and is noted in
//   state->bad_update. Bytes a parameter: Adam 28 (reads 4 buffers, writes 3); Adagrad and SGD 20. Order plays no
//   part: each parameter stands for itself, and the first bad step is a minimum. A thread has two quads under way at a
//   time: whole quads where the buffers are aligned and the count is a multiple of 4, single elements elsewhere. The
//   step's constants are made once a block, the run's on the host. Roots and quotients are correctly rounded without
//   branches, so that the bits are those of the CPU, save for updates below 2^-126.
// accumulate: one block, one loss after the other. Thread t adds the partial sums t, t + 256, ... in double, and the
//   threads' sums are added in a fixed tree; by column, it adds those of each of the columns t, t + 256, ... in order.
// advance: one thread.
// finish_step: block 0 adds to the sums, the others update the weights, the last to end moves the state on. All blocks
//   are resident at once. No weight may move after a loss that is not finite, so every block reads the batch's partial
//   sums for itself. With some thousands of them that is a few loads from the L2 cache a thread, and saves a launch
//   before the update. The block's first parameters are being loaded meanwhile.
#include "kernels/optimizer.h"

#include <algorithm>
#include <type_traits>

#include "kernels/launcher.h"
#include "kernels/loaded_quad.h"
#include "kernels/quad.h"
#include "kernels/reduce.h"

namespace elbo::kernels {
namespace {

constexpr unsigned threads = 256;
constexpr unsigned quads_per_thread = 2;  // at a time

// Blocks that a multiprocessor holds at once, by the launch bounds: 1,024 threads fit on every one. Adagrad's, whose
// registers do not suffice for that on sm_100, are fewer.
constexpr unsigned blocks_at_once(OptimizerType type) { return type == OptimizerType::adagrad ? 3 : 4; }

// An OptimizerStep with the constants of its run, as the kernels take it.
struct PreparedStep : OptimizerStep {
  math::RunConstants<float> run;

  explicit PreparedStep(const OptimizerStep& u) : OptimizerStep(u), run(u.settings) {}
};

template <class T>
__device__ bool is_finite(T x) {
  return x - x == T(0);
}

// *first_step = min(*first_step, step); returns what it was.
__device__ std::uint64_t note_bad_step(std::uint64_t* first_step, std::uint64_t step) {
  static_assert(sizeof(unsigned long long) == sizeof(std::uint64_t));
  return atomicMin(reinterpret_cast<unsigned long long*>(first_step), static_cast<unsigned long long>(step));
}

// A quad of parameters with its gradients and moments: loads, updates and stores them.
template <bool aligned, OptimizerType type>
class QuadUpdate {
 public:
  // The parameters from `at` on, `count` of them or 4; none if that is not positive.
  __device__ __forceinline__ void load(const PreparedStep& u, unsigned at, int count) {
    g_.load(u.gradients + at, count);
    p_.load(u.parameters + at, count);
    m_.load(u.first + at, count);
    if constexpr (has_second) v_.load(u.second + at, count);
  }

  // Updates and writes what load() was called for; whether all of it is finite.
  __device__ __forceinline__ bool store(const PreparedStep& u, unsigned at, int count,
                                        const math::AdamConstants<float>& step) const {
    Quad<float> p, m, v;
    unsigned odd = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float old_v = has_second ? v_[j] : 0.0f;
      float new_p = p_[j], new_m = m_[j], new_v = old_v;
      math::optimizer_update(type, new_p, g_[j], new_m, new_v, u.run, step);
      // 0 times what is not finite is NaN, and so is any sum with it.
      const bool good =
          math::exact::fma(g_[j], 0.0f, math::exact::fma(new_p, 0.0f, new_m * 0.0f)) + new_v * 0.0f == 0.0f;
      p.v[j] = good ? new_p : p_[j];
      m.v[j] = good ? new_m : m_[j];
      v.v[j] = good ? new_v : old_v;
      odd |= good ? 0u : 1u << j;
    }
    if (count <= 0) return true;
    store_quad<aligned>(u.parameters + at, p, aligned ? 4 : count);
    store_quad<aligned>(u.first + at, m, aligned ? 4 : count);
    if constexpr (has_second) store_quad<aligned>(u.second + at, v, aligned ? 4 : count);
    return (aligned || count >= 4 ? odd : odd & ((1u << count) - 1u)) == 0;
  }

 private:
  static constexpr bool has_second = type == OptimizerType::adam;
  LoadedQuad<aligned, float> g_, p_, m_, v_;
};

// The quads that a block updates: one set for its threads, then the sets that lie a grid further on. The constructor
// starts the first loads, before it is known whether the weights may move.
template <bool aligned, OptimizerType type>
class BlockUpdate {
 public:
  // As block `block` of `blocks`.
  __device__ __forceinline__ BlockUpdate(const PreparedStep& u, unsigned block, unsigned blocks)
      : u_(u), at_(block * block_size + 4 * threadIdx.x), step_(blocks * block_size) {
    load();
  }

  __device__ __forceinline__ void run(const math::AdamConstants<float>& step) {
    bool finite = true;
    while (true) {
#pragma unroll
      for (unsigned k = 0; k < quads_per_thread; ++k) {
        finite = quads_[k].store(u_, at_ + 4 * threads * k, left(k), step) && finite;
      }
      at_ += step_;
      if (at_ >= count()) break;
      load();
    }
    if (!finite) note_bad_step(&u_.state->bad_update, u_.state->step);
  }

 private:
  static constexpr unsigned block_size = 4 * quads_per_thread * threads;

  __device__ __forceinline__ unsigned count() const { return static_cast<unsigned>(u_.count); }  // below 2^31
  // How many parameters there are from quad k on.
  __device__ __forceinline__ int left(unsigned k) const { return static_cast<int>(count() - at_ - 4 * threads * k); }
  __device__ __forceinline__ void load() {
#pragma unroll
    for (unsigned k = 0; k < quads_per_thread; ++k) quads_[k].load(u_, at_ + 4 * threads * k, left(k));
  }

  const PreparedStep& u_;
  unsigned at_, step_;
  QuadUpdate<aligned, type> quads_[quads_per_thread];
};

// Adds the batch to the sums; says in thread 0 whether its loss is finite. By one block.
__device__ __forceinline__ bool accumulate_batch(const Accumulate& a) {
  double* sums = a.sums + 1;
  double all = 0.0;  // of this thread
  for (int k = 0; k < a.count; ++k) {
    const PartialLoss& loss = a.losses[k];
    const auto count = static_cast<unsigned>(loss.count), columns = static_cast<unsigned>(loss.columns);
    const bool by_column = columns > 0;
    const unsigned step = by_column ? columns : threads;
    for (unsigned first = threadIdx.x; first < step; first += threads) {
      double sum = 0.0;
      for (unsigned i = first; i < count; i += step) sum += loss.partial[i];
      all += sum;
      if (!by_column) sum = block_sum(sum);
      if (by_column || first == 0) sums[first] += sum / static_cast<double>(loss.samples);
    }
    sums += by_column ? step : 1;
  }
  all = block_sum(all);
  if (threadIdx.x == 0) a.sums[0] += static_cast<double>(a.rows);
  return is_finite(all);
}

// Whether all partial sums of the batch's loss are finite, in every thread of the block.
__device__ __forceinline__ bool has_finite_losses(const Accumulate& a) {
  ELBO_SHARED(int, finite, 1);
  if (threadIdx.x == 0) finite[0] = 1;
  __syncthreads();
  float zero = 0.0f;  // what is not finite makes it NaN
  for (int k = 0; k < a.count; ++k) {
    const float* const partial = a.losses[k].partial;
    const auto count = static_cast<unsigned>(a.losses[k].count);
#pragma unroll 4
    for (unsigned i = threadIdx.x; i < count; i += threads) zero = math::exact::fma(partial[i], 0.0f, zero);
  }
  if (zero != 0.0f) atomicExch(&finite[0], 0);
  __syncthreads();
  return finite[0] != 0;
}

__device__ __forceinline__ void advance_state(StepState* state, const Schedule& schedule, std::uint64_t bad_step,
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

template <bool aligned, OptimizerType type>
__global__ void __launch_bounds__(threads, resident_blocks(threads, blocks_at_once(type)))
    optimizer_step_kernel(const PreparedStep u) {
  ELBO_SHARED(math::AdamConstants<float>, step, 1);
  BlockUpdate<aligned, type> weights(u, blockIdx.x, gridDim.x);
  if (threadIdx.x == 0) step[0] = math::adam_constants(u.run, u.state->correction1, u.state->correction2);
  __syncthreads();
  if (u.state->bad_step == StepState::none) weights.run(step[0]);
}

// One block: as many registers as it likes, so that none spills.
__global__ void __launch_bounds__(threads, 1) accumulate_kernel(const Accumulate a) {
  const bool finite = accumulate_batch(a);
  if (threadIdx.x == 0 && !finite) note_bad_step(&a.state->bad_step, a.state->step);
}

__global__ void advance_kernel(StepState* state, const Schedule schedule, std::uint64_t* fault) {
  advance_state(state, schedule, state->bad_step, state->bad_update, fault);
}

template <bool aligned, OptimizerType type>
__global__ void __launch_bounds__(threads, resident_blocks(threads, blocks_at_once(type)))
    finish_step_kernel(const Accumulate t, const PreparedStep u, const Schedule schedule, std::uint64_t* fault) {
  ELBO_SHARED(math::AdamConstants<float>, step, 1);
  StepState* const state = u.state;
  bool finite = true;
  if (blockIdx.x == 0) {
    finite = accumulate_batch(t);  // in thread 0
  } else {
    BlockUpdate<aligned, type> weights(u, blockIdx.x - 1, gridDim.x - 1);
    if (threadIdx.x == 0) step[0] = math::adam_constants(u.run, state->correction1, state->correction2);
    finite = has_finite_losses(t);  // a barrier of the block is in it
    if (finite && state->bad_step == StepState::none) weights.run(step[0]);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  // The last block sees what all others wrote. Each block fences its writes before it increments blocks_done. The last
  // block reads theirs only after its own increment and a second fence. bad_update is read by an atomic, which goes to
  // the L2 cache, where the others' atomics wrote it; this multiprocessor's own cache may be stale.
  __threadfence();
  if (atomicInc(&state->blocks_done, gridDim.x - 1) != gridDim.x - 1) return;  // the last one makes it 0 again
  __threadfence();
  std::uint64_t bad_step = state->bad_step;
  if (!finite && state->step < bad_step) bad_step = state->step;
  advance_state(state, schedule, bad_step, note_bad_step(&state->bad_update, StepState::none), fault);
}

}  // namespace

namespace {

void check(const char* launcher, const OptimizerStep& u) {
  require(u.parameters && u.gradients && u.first && u.second && u.state, launcher, ": a null buffer");
}

void check(const char* launcher, const Accumulate& a) {
  require(a.state && a.sums, launcher, ": a null buffer");
  require(a.rows > 0, launcher, ": ", a.rows, " rows");
  require(a.count > 0 && a.count <= most_losses, launcher, ": ", a.count, " losses; 1 to ", most_losses,
          " are possible");
  for (int k = 0; k < a.count; ++k) {
    const PartialLoss& loss = a.losses[k];
    require(loss.partial, launcher, ": a null buffer");
    require(loss.count > 0 && loss.count < std::int64_t{1} << 31, launcher, ": a loss of ", loss.count,
            " partial sums; 1 to 2^31 - 1 are possible");
    require(loss.columns >= 0 && loss.columns <= loss.count && loss.samples > 0, launcher, ": a loss of ", loss.columns,
            " columns and ", loss.samples, " samples");
  }
}

void check(const char* launcher, const StepState* state, const Schedule& schedule, const std::uint64_t* fault) {
  require(state && fault, launcher, ": a null buffer");
  require(schedule.batches_per_epoch > 0, launcher, ": an epoch of no batches");
}

// f(aligned, type), both as constants.
template <class F>
void with_constants(const OptimizerStep& u, const F& f) {
  const bool aligned = is_aligned(u.parameters, 16) && is_aligned(u.gradients, 16) && is_aligned(u.first, 16) &&
                       is_aligned(u.second, 16) && u.count % 4 == 0;
  const auto with_type = [&](auto type) { aligned ? f(std::true_type{}, type) : f(std::false_type{}, type); };
  switch (u.settings.type) {
    case OptimizerType::adam: return with_type(std::integral_constant<OptimizerType, OptimizerType::adam>{});
    case OptimizerType::adagrad: return with_type(std::integral_constant<OptimizerType, OptimizerType::adagrad>{});
    case OptimizerType::sgd: return with_type(std::integral_constant<OptimizerType, OptimizerType::sgd>{});
  }
}

}  // namespace

void optimizer_step(const OptimizerStep& u, cudaStream_t stream) {
  check("optimizer_step", u);
  const Range range("optimizer_step");
  const unsigned blocks = blocks_for("optimizer_step", u.count, 4 * quads_per_thread * threads);
  with_constants(u, [&](auto aligned, auto type) {
    launch("optimizer_step_kernel", optimizer_step_kernel<aligned(), type()>, {blocks, threads, stream},
           PreparedStep(u));
  });
}

void accumulate(const Accumulate& a, cudaStream_t stream) {
  check("accumulate", a);
  const Range range("accumulate");
  launch("accumulate_kernel", accumulate_kernel, {1, threads, stream}, a);
}

void advance(StepState* state, const Schedule& schedule, std::uint64_t* fault, cudaStream_t stream) {
  check("advance", state, schedule, fault);
  const Range range("advance");
  launch("advance_kernel", advance_kernel, {1, 1, stream}, state, schedule, fault);
}

void finish_step(const Accumulate& a, const OptimizerStep& u, const Schedule& schedule, std::uint64_t* fault,
                 int multiprocessors, cudaStream_t stream) {
  check("finish_step", a);
  check("finish_step", u);
  check("finish_step", u.state, schedule, fault);
  require(a.state == u.state, "finish_step: two states");
  require(multiprocessors > 0, "finish_step: a GPU of ", multiprocessors, " multiprocessors");
  const Range range("finish_step");
  // One wave, and as many rounds of its loop for each block.
  const unsigned work = blocks_for("finish_step", u.count, 4 * quads_per_thread * threads);
  const unsigned most = blocks_at_once(u.settings.type) * static_cast<unsigned>(multiprocessors) - 1;
  const unsigned rounds = std::max(1u, (work + most - 1) / most), blocks = 1 + (work + rounds - 1) / rounds;
  with_constants(u, [&](auto aligned, auto type) {
    launch("finish_step_kernel", finish_step_kernel<aligned(), type()>, {blocks, threads, stream}, a, PreparedStep(u),
           schedule, fault);
  });
}

}  // namespace elbo::kernels
