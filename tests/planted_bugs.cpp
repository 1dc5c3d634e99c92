// Planted bugs: `planted_bugs NAME` runs the pattern of one of the project's kernels, or of its use of
// streams, with one thing wrong. Exit 0: nothing was noticed; 1: the result is wrong; 2: the simulated device
// refused. A sanitizer ends the program in its own way. Which of them must notice what is the table in
// planted_bugs_test.py; with no name it lists the names.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/launch.h"
#include "kernels/optimizer.h"
#include "kernels/quad.h"
#include "kernels/reduce.h"

namespace elbo {
namespace {

using kernels::Quad;
using kernels::warp_size;
using kernels::warp_sum;

void check(cudaError_t e) { check_cuda(e, "planted bug"); }

struct Free {
  void operator()(void* p) const { cudaFree(p); }
};
template <class T>
using Device = std::unique_ptr<T[], Free>;

// n uninitialised elements.
template <class T = float>
Device<T> raw(std::size_t n) {
  T* p = nullptr;
  check(cudaMalloc(&p, n * sizeof(T)));
  return Device<T>(p);
}
template <class T>
Device<T> upload(const std::vector<T>& v) {
  Device<T> p = raw<T>(v.size());
  check(cudaMemcpy(p.get(), v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}
Device<float> filled(std::size_t n, float value) { return upload(std::vector<float>(n, value)); }

template <class T>
std::vector<T> download(const Device<T>& p, std::size_t n) {
  check(cudaDeviceSynchronize());
  std::vector<T> v(n);
  check(cudaMemcpy(v.data(), p.get(), n * sizeof(T), cudaMemcpyDeviceToHost));
  return v;
}

// Ends the program with 1 unless the results are the expected ones.
template <class T>
void expect(const std::vector<T>& got, const std::vector<T>& wanted) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (got[i] == wanted[i]) continue;
    std::printf("wrong: element %zu is %g, not %g\n", i, double(got[i]), double(wanted[i]));
    std::exit(1);
  }
}

// ---- block_sum, and what can go wrong in it ------------------------------------------------------------------

enum class Fault { none, no_barrier, no_first_barrier, one_warp_too_many };

template <Fault fault>
__device__ float faulty_block_sum(float v) {
  ELBO_SHARED(float, warp_sums, 32);
  const unsigned lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size, warps = blockDim.x / warp_size;
  v = warp_sum(v);
  if (fault != Fault::no_first_barrier) __syncthreads();
  if (lane == 0) warp_sums[warp] = v;
  if (fault != Fault::no_barrier) __syncthreads();
  const unsigned read = warps + (fault == Fault::one_warp_too_many ? 1 : 0);
  if (warp == 0) v = warp_sum(lane < read ? warp_sums[lane] : 0.0f);
  return v;
}

template <Fault fault>
__global__ void two_sums(float* out) {
  const float first = faulty_block_sum<fault>(1.0f), second = faulty_block_sum<fault>(2.0f);
  if (threadIdx.x == 0) out[blockIdx.x] = first + second;
}

template <Fault fault>
void block_sums() {
  const Device<float> out = raw(4);
  launch("two_sums", two_sums<fault>, {4, 128}, out.get());
  expect(download(out, 4), std::vector<float>(4, 384.0f));
}

// The warp sum of old GPUs, whose lanes ran in step.
template <bool synced>
__global__ void sum_in_step(float* out) {
  ELBO_SHARED(float, v, 32);
  v[threadIdx.x] = 1.0f;
  for (unsigned distance = 16; distance > 0; distance /= 2) {
    if (synced) __syncwarp();
    if (threadIdx.x < distance) v[threadIdx.x] += v[threadIdx.x + distance];
  }
  if (threadIdx.x == 0) out[0] = v[0];
}

template <bool synced>
void warp_in_step() {
  const Device<float> out = raw(1);
  launch("sum_in_step", sum_in_step<synced>, {1, 32}, out.get());
  expect(download(out, 1), {32.0f});
}

// ---- The last block to come sums what all of them left --------------------------------------------------------

__global__ void sum_by_the_last_block(float* partial, unsigned* done, float* out) {
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = 1.0f;
  __threadfence();
  if (atomicInc(done, gridDim.x - 1) != gridDim.x - 1) return;
  __threadfence();
  float sum = 0.0f;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += partial[i];
  *out = sum;
}

void total_by_the_last_block(const cusim::Planted& planted) {
  cusim::plant(planted);
  const Device<float> partial = raw(8), out = raw(1);
  const Device<unsigned> done = upload(std::vector<unsigned>{0});
  launch("sum_by_the_last_block", sum_by_the_last_block, {8, 32}, partial.get(), done.get(), out.get());
  expect(download(out, 1), {8.0f});
}

// The project's own: the kernel that ends a training step, of which the last block to come moves the state on. Blocks
// enough that some start when others have ended.
void finish_step(const cusim::Planted& planted) {
  cusim::plant(planted);
  constexpr std::int64_t count = 8 * 256 * 6, latent = 3;
  const Schedule schedule{.batches_per_epoch = 4, .beta1 = 0.9, .beta2 = 0.999};
  const Device<float> parameters = filled(count, 1.0f), gradients = filled(count, 0.5f), first = filled(count, 0.0f),
                      second = filled(count, 0.0f), nll = filled(33, 2.0f), kl = filled(2 * latent, 3.0f);
  const Device<double> sums = upload(std::vector<double>(2 + latent, 1.0));
  const Device<std::uint64_t> fault = upload(std::vector<std::uint64_t>{StepState::none});
  const Device<StepState> state = upload(std::vector<StepState>{state_at(1, 6, schedule)});
  const kernels::Accumulate losses{.losses = {{nll.get(), 33, 0, 1}, {kl.get(), 2 * latent, latent, 1}},
                                   .count = 2,
                                   .state = state.get(),
                                   .sums = sums.get(),
                                   .rows = 33};
  const kernels::OptimizerStep update{.parameters = parameters.get(),
                                      .gradients = gradients.get(),
                                      .first = first.get(),
                                      .second = second.get(),
                                      .state = state.get(),
                                      .settings = {.learning_rate = 0.1f},
                                      .count = count};
  kernels::finish_step(losses, update, schedule, fault.get(), 2, nullptr);  // room for 8 blocks
  const StepState got = download(state, 1)[0], wanted = state_at(1, 7, schedule);
  expect<double>({double(got.step), double(got.epoch), double(got.batch), got.correction1, got.correction2,
                  double(got.bad_step), double(got.bad_update), double(got.blocks_done)},
                 {double(wanted.step), double(wanted.epoch), double(wanted.batch), wanted.correction1,
                  wanted.correction2, double(wanted.bad_step), double(wanted.bad_update), 0.0});
  expect(download(sums, 2 + latent), {34, 67, 7, 7, 7});
  const std::vector<float> moved = download(parameters, count);
  if (moved[0] == 1.0f) expect(moved, {0.9f});
  expect(moved, std::vector<float>(count, moved[0]));
}

// ---- Who takes part in a barrier or a shuffle -------------------------------------------------------------------

__global__ void barriers_in_branches(float* out) {
  ELBO_SHARED(float, v, 64);
  v[threadIdx.x] = 1.0f;
  if (threadIdx.x < 32) {
    __syncthreads();
    v[threadIdx.x] += v[63 - threadIdx.x];
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = v[threadIdx.x];
}

// Column sums by row groups, as in dense.cu; `early` returns before the barrier, which a GPU allows.
template <bool early>
__global__ void group_sums(float* out, unsigned columns) {
  ELBO_SHARED(float, partial, 64);
  if (early && threadIdx.x % 32 >= columns) return;
  partial[threadIdx.x] = 1.0f;
  __syncthreads();
  if (threadIdx.x < columns) out[threadIdx.x] = partial[threadIdx.x] + partial[32 + threadIdx.x];
}

__global__ void shuffle_after_exit(float* out, unsigned columns) {
  if (threadIdx.x >= columns) return;
  const float sum = warp_sum(1.0f);
  if (threadIdx.x == 0) out[0] = sum;
}

__global__ void shuffle_in_branch(float* out) {
  float v = 1.0f;
  if (threadIdx.x % 2) v += __shfl_xor_sync(0xffffffffu, v, 2);
  out[threadIdx.x] = v;
}

// ---- Races on global memory -----------------------------------------------------------------------------------

// Every block adds its sum to the total, without the second stage.
__global__ void add_block_sums(float* total) {
  const float sum = kernels::block_sum(1.0f);
  if (threadIdx.x == 0) total[0] += sum;
}

// Two row groups of a block add to one column.
__global__ void add_row_groups(float* sum) { sum[threadIdx.x % 32] += 1.0f; }

// Each thread shifts an element, in place.
__global__ void shift(float* x) { x[threadIdx.x] = x[threadIdx.x + 1]; }

// The last block to finish sums the partial results; without a fence and an atomic it only seems to work.
__global__ void atomic_total(const float* x, float* total, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) atomicAdd(total, x[i]);
}

// ---- Bounds, alignment, lifetime ---------------------------------------------------------------------------------

// Doubles quads; `aligned` is a lie where n is no multiple of 4.
template <bool aligned>
__global__ void double_quads(const float* x, float* y, std::int64_t n) {
  const std::int64_t i = 4 * (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x), left = n - i;
  if (left <= 0) return;
  Quad<float> q = kernels::load_quad<aligned>(x + i, aligned ? 4 : left);
  for (float& v : q.v) v *= 2.0f;
  kernels::store_quad<aligned>(y + i, q, aligned ? 4 : left);
}

template <bool lie>
void quads(std::size_t x_elements, std::size_t y_elements, int n, std::size_t offset) {
  const Device<float> x = filled(x_elements, 3.0f), y = raw(y_elements);
  launch("double_quads", double_quads<lie>, {1, 32}, x.get() + offset, y.get(), n);
  expect(download(y, n), std::vector<float>(n, 6.0f));
}

__global__ void past_a_shared_array(float* out) {
  ELBO_SHARED(float, v, 64);
  v[threadIdx.x + 1] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = v[1];
}

// A tile of rows, of which the last has fewer: the sum runs over all.
__global__ void tile_sum(float* out, unsigned rows, unsigned summed) {
  ELBO_SHARED(float, kl, 32);
  if (threadIdx.x < rows) kl[threadIdx.x] = 1.0f;
  __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = 0.0f;
  for (unsigned r = 0; r < summed; ++r) sum += kl[r];
  out[0] = sum;
}

__global__ void sum_partials(const float* partial, float* out) {
  const float sum = kernels::block_sum(partial[threadIdx.x]);
  if (threadIdx.x == 0) out[0] = sum;
}

__global__ void flat_index(float* out, int rows, int columns) {
  const int i = rows * columns * static_cast<int>(blockDim.x);  // more than 2^31
  out[threadIdx.x] = i == 0 ? 0.0f : 1.0f;
}

__global__ void add_one(float* x) { x[threadIdx.x] += 1.0f; }

// ---- Streams and graphs --------------------------------------------------------------------------------------------

struct Streams {
  Streams() {
    check(cudaStreamCreateWithFlags(&compute, cudaStreamNonBlocking));
    check(cudaStreamCreateWithFlags(&copy, cudaStreamNonBlocking));
    check(cudaEventCreateWithFlags(&copied, cudaEventDisableTiming));
    check(cudaEventCreateWithFlags(&used, cudaEventDisableTiming));
    check(cudaHostAlloc(&pinned, 32 * sizeof(float), cudaHostAllocDefault));
  }
  ~Streams() {
    cudaFreeHost(pinned);
    cudaEventDestroy(used);
    cudaEventDestroy(copied);
    cudaStreamDestroy(copy);
    cudaStreamDestroy(compute);
  }
  cudaStream_t compute = nullptr, copy = nullptr;
  cudaEvent_t copied = nullptr, used = nullptr;
  float* pinned = nullptr;
};

__global__ void add_batch(float* sum, const float* batch) { sum[threadIdx.x] += batch[threadIdx.x]; }

// A ring of one slot: the host fills it, it travels, it is used; three times. Each wait can be left out.
void ring(bool wait_for_copy, bool wait_for_use, bool hold_copy_back) {
  Streams s;
  const Device<float> slot = raw(32), sum = filled(32, 0.0f);
  for (int batch = 1; batch <= 3; ++batch) {
    if (wait_for_use) check(cudaEventSynchronize(s.used));
    for (int i = 0; i < 32; ++i) s.pinned[i] = static_cast<float>(batch);
    if (hold_copy_back) check(cudaStreamWaitEvent(s.copy, s.used, 0));
    check(cudaMemcpyAsync(slot.get(), s.pinned, 32 * sizeof(float), cudaMemcpyHostToDevice, s.copy));
    check(cudaEventRecord(s.copied, s.copy));
    if (wait_for_copy) check(cudaStreamWaitEvent(s.compute, s.copied, 0));
    launch("add_batch", add_batch, {1, 32, s.compute}, sum.get(), slot.get());
    check(cudaEventRecord(s.used, s.compute));
  }
  check(cudaStreamSynchronize(s.compute));
  expect(download(sum, 32), std::vector<float>(32, 6.0f));
}

__global__ void add_scaled(float* x, float scale) { x[0] += scale; }
__global__ void add_step(float* x, float* step) {
  x[0] += *step;
  *step += 1.0f;
}

// A step that is recorded once and replayed: what changes from step to step must lie on the device.
void replayed_step(bool baked) {
  Streams s;
  const Device<float> x = filled(1, 0.0f), step = filled(1, 1.0f);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  float now = 1.0f;
  check(cudaStreamBeginCapture(s.compute, cudaStreamCaptureModeRelaxed));
  if (baked) {
    launch("add_scaled", add_scaled, {1, 1, s.compute}, x.get(), now);
  } else {
    launch("add_step", add_step, {1, 1, s.compute}, x.get(), step.get());
  }
  check(cudaStreamEndCapture(s.compute, &graph));
  check(cudaGraphInstantiate(&exec, graph, 0));
  for (; now <= 3.0f; now += 1.0f) check(cudaGraphLaunch(exec, s.compute));
  check(cudaStreamSynchronize(s.compute));
  const std::vector<float> got = download(x, 1);
  check(cudaGraphExecDestroy(exec));
  check(cudaGraphDestroy(graph));
  expect(got, {6.0f});
}

// Two branches of a captured step; the second needs what the first writes.
void forked_step(bool forked_too_early) {
  Streams s;
  const Device<float> x = filled(32, 0.0f), y = filled(32, 0.0f);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  check(cudaStreamBeginCapture(s.compute, cudaStreamCaptureModeRelaxed));
  if (forked_too_early) check(cudaEventRecord(s.copied, s.compute));
  launch("add_one", add_one, {1, 32, s.compute}, x.get());
  if (!forked_too_early) check(cudaEventRecord(s.copied, s.compute));
  check(cudaStreamWaitEvent(s.copy, s.copied, 0));
  launch("add_batch", add_batch, {1, 32, s.copy}, y.get(), x.get());
  check(cudaEventRecord(s.used, s.copy));
  check(cudaStreamWaitEvent(s.compute, s.used, 0));
  check(cudaStreamEndCapture(s.compute, &graph));
  check(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 3; ++i) check(cudaGraphLaunch(exec, s.compute));
  check(cudaStreamSynchronize(s.compute));
  const std::vector<float> got = download(y, 32);
  check(cudaGraphExecDestroy(exec));
  check(cudaGraphDestroy(graph));
  expect(got, std::vector<float>(32, 6.0f));
}

// ---- The list ------------------------------------------------------------------------------------------------------

const std::map<std::string, std::function<void()>> bugs{
    // Nothing is wrong with these.
    {"control_last_block", [] { total_by_the_last_block({}); }},
    {"control_finish_step", [] { finish_step({}); }},
    {"control_block_sum", block_sums<Fault::none>},
    {"control_warp_in_step", warp_in_step<true>},
    {"control_exit_before_barrier",
     [] {
       const Device<float> out = raw(20);
       launch("group_sums", group_sums<true>, {1, 64}, out.get(), 20u);
       expect(download(out, 20), std::vector<float>(20, 2.0f));
     }},
    {"control_quads", [] { quads<false>(31, 31, 31, 0); }},
    {"control_ring", [] { ring(true, true, false); }},
    {"control_replayed_step", [] { replayed_step(false); }},
    {"control_forked_step", [] { forked_step(false); }},

    {"missing_barrier", block_sums<Fault::no_barrier>},
    {"shared_memory_reused", block_sums<Fault::no_first_barrier>},
    {"warp_in_step", warp_in_step<false>},
    {"divergent_barrier",
     [] {
       const Device<float> out = raw(64);
       launch("barriers_in_branches", barriers_in_branches, {1, 64}, out.get());
       download(out, 64);
     }},
    {"shuffle_after_exit",
     [] {
       const Device<float> out = raw(1);
       launch("shuffle_after_exit", shuffle_after_exit, {1, 32}, out.get(), 20u);
       download(out, 1);
     }},
    {"shuffle_in_branch",
     [] {
       const Device<float> out = raw(32);
       launch("shuffle_in_branch", shuffle_in_branch, {1, 32}, out.get());
       download(out, 32);
     }},
    {"race_between_blocks",
     [] {
       const Device<float> total = filled(1, 0.0f);
       launch("add_block_sums", add_block_sums, {8, 64}, total.get());
       expect(download(total, 1), {512.0f});
     }},
    {"race_between_threads",
     [] {
       const Device<float> sum = filled(32, 0.0f);
       launch("add_row_groups", add_row_groups, {1, 64}, sum.get());
       expect(download(sum, 32), std::vector<float>(32, 2.0f));
     }},
    {"race_in_place",
     [] {
       std::vector<float> x(65), shifted(64);
       std::iota(x.begin(), x.end(), 0.0f);
       std::iota(shifted.begin(), shifted.end(), 1.0f);
       const Device<float> p = upload(x);
       launch("shift", shift, {1, 64}, p.get());
       expect(download(p, 64), shifted);
     }},
    {"float_atomics",
     [] {
       std::vector<float> x(1000);
       for (std::size_t i = 0; i < x.size(); ++i) x[i] = 1.0f / static_cast<float>(i + 1);
       float in_order = 0.0f;
       for (float v : x) in_order += v;
       const Device<float> in = upload(x), total = filled(1, 0.0f);
       launch("atomic_total", atomic_total, {8, 128}, in.get(), total.get(), 1000);
       expect(download(total, 1), {in_order});
     }},
    {"global_written_past_its_end", [] { quads<true>(32, 30, 30, 0); }},
    {"global_read_past_its_end", [] { quads<true>(30, 32, 30, 0); }},
    {"shared_written_past_its_end",
     [] {
       const Device<float> out = raw(64);
       launch("past_a_shared_array", past_a_shared_array, {1, 64}, out.get());
       expect(download(out, 64), std::vector<float>(64, 1.0f));
     }},
    {"uninitialised_shared",
     [] {
       const Device<float> out = raw(1);
       launch("tile_sum", tile_sum, {1, 32}, out.get(), 20u, 32u);
       expect(download(out, 1), {20.0f});
     }},
    {"uninitialised_global",
     [] {
       const Device<float> partial = raw(64), out = raw(1);
       check(cudaMemset(partial.get(), 0, 63 * sizeof(float)));
       launch("sum_partials", sum_partials, {1, 64}, partial.get(), out.get());
       expect(download(out, 1), {0.0f});
     }},
    {"misaligned_vector", [] { quads<true>(40, 32, 32, 1); }},
    {"integer_overflow",
     [] {
       const Device<float> out = raw(64);
       launch("flat_index", flat_index, {1, 64}, out.get(), 60000, 4096);
       download(out, 64);
     }},
    {"use_after_free",
     [] {
       float* gone = nullptr;
       {
         const Device<float> x = filled(64, 0.0f);
         gone = x.get();
       }
       const Device<float> out = filled(64, 0.0f);
       launch("add_batch", add_batch, {1, 64}, out.get(), gone);
       expect(download(out, 64), std::vector<float>(64, 0.0f));
     }},
    {"freed_twice",
     [] {
       float* p = nullptr;
       check(cudaMalloc(&p, 64));
       cudaFree(p);
       cudaFree(p);
       check(cudaDeviceSynchronize());
     }},
    {"copy_past_the_end",
     [] {
       const Device<float> x = filled(64, 0.0f), y = raw(60);
       check(cudaMemcpy(y.get(), x.get(), 64 * sizeof(float), cudaMemcpyDeviceToDevice));
     }},
    {"last_block_without_its_first_fence", [] { total_by_the_last_block({.without_fence = 1}); }},
    {"last_block_without_its_second_fence", [] { total_by_the_last_block({.without_fence = 2}); }},
    {"last_block_without_an_atomic", [] { total_by_the_last_block({.plain_atomics = true}); }},
    {"finish_step_without_its_first_fence", [] { finish_step({.without_fence = 1}); }},
    {"finish_step_without_its_second_fence", [] { finish_step({.without_fence = 2}); }},
    {"finish_step_without_an_atomic", [] { finish_step({.plain_atomics = true}); }},
    {"no_wait_for_the_copy", [] { ring(false, true, true); }},
    {"slot_refilled_too_early", [] { ring(true, false, false); }},
    {"baked_scalar", [] { replayed_step(true); }},
    {"missing_edge_in_a_graph", [] { forked_step(true); }},
    {"allocation_in_a_capture",
     [] {
       Streams s;
       check(cudaStreamBeginCapture(s.compute, cudaStreamCaptureModeGlobal));
       raw(4);
     }},
};

}  // namespace
}  // namespace elbo

int main(int argc, char** argv) {
  if (argc != 2) {
    for (const auto& [name, run] : elbo::bugs) std::puts(name.c_str());
    return 0;
  }
  cusim::set_strict(false);  // a capture below is the first to launch what it launches
  try {
    elbo::bugs.at(argv[1])();
  } catch (const std::exception& e) {
    std::printf("refused: %s\n", e.what());
    return 2;
  }
}
