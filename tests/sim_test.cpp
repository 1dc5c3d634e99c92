// The simulated device itself: threads and their order, barriers, shuffles, shared memory, streams, events,
// captured graphs, memory. What a GPU would do is NVIDIA's documentation; that bugs are caught is the
// business of planted_bugs.cpp.
#include <cuda_runtime.h>
#include <gtest/gtest.h>
#include <nvtx3/nvToolsExt.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/launcher.h"
#include "kernels/reduce.h"

namespace elbo {
namespace {

using cusim::Blocks;
using cusim::Order;

#define EXPECT_CUDA(expected, call) EXPECT_STREQ(cudaGetErrorName(expected), cudaGetErrorName(call))

void succeed(cudaError_t e) { ASSERT_EQ(e, cudaSuccess) << cudaGetErrorString(e); }

// Device memory of n elements.
template <class T>
class Device {
 public:
  explicit Device(std::size_t n) : n_(n) { check_cuda(cudaMalloc(&p_, n * sizeof(T)), "cudaMalloc"); }
  explicit Device(const std::vector<T>& v) : Device(v.size()) {
    check_cuda(cudaMemcpy(p_, v.data(), n_ * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  ~Device() { cudaFree(p_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  T* get() const { return p_; }
  std::vector<T> read() const {
    check_cuda(cudaDeviceSynchronize(), "read");
    std::vector<T> v(n_);
    check_cuda(cudaMemcpy(v.data(), p_, n_ * sizeof(T), cudaMemcpyDeviceToHost), "read");
    return v;
  }

 private:
  T* p_ = nullptr;
  std::size_t n_;
};

// Every test runs in every order, with blocks in turn and with blocks that let others go on.
class Sim : public testing::TestWithParam<cusim::Schedule> {
 protected:
  void SetUp() override {
    cusim::set_schedule(GetParam());
    cusim::set_strict(false);
    succeed(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    succeed(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    succeed(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    succeed(cudaEventCreateWithFlags(&joined, cudaEventDisableTiming));
  }
  void TearDown() override {
    cusim::reset();
    succeed(cudaStreamDestroy(stream));
    succeed(cudaStreamDestroy(other));
    succeed(cudaEventDestroy(event));
    succeed(cudaEventDestroy(joined));
    EXPECT_EQ(cusim::leaks(), std::vector<std::string>());
    cusim::set_schedule(std::nullopt);
    cusim::set_strict(std::nullopt);
  }

  // The graph of what `calls` queues in `stream`.
  template <class Calls>
  cudaGraphExec_t capture(const Calls& calls) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    succeed(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    calls();
    succeed(cudaStreamEndCapture(stream, &graph));
    succeed(cudaGraphGetNodes(graph, nullptr, &nodes));
    succeed(cudaGraphInstantiate(&exec, graph, 0));
    succeed(cudaGraphDestroy(graph));
    return exec;
  }

  cudaStream_t stream = nullptr, other = nullptr;
  cudaEvent_t event = nullptr, joined = nullptr;
  std::size_t nodes = 0;
};
std::string name_of_schedule(const testing::TestParamInfo<cusim::Schedule>& info) {
  constexpr const char *orders[] = {"forward", "reverse", "random"}, *blocks[] = {"", "_together", "_apart"};
  return cat(orders[static_cast<int>(info.param.order)], blocks[static_cast<int>(info.param.blocks)]);
}
INSTANTIATE_TEST_SUITE_P(Orders, Sim,
                         testing::Values(cusim::Schedule{Order::forward}, cusim::Schedule{Order::reverse},
                                         cusim::Schedule{Order::random, 7},
                                         cusim::Schedule{Order::forward, 1, Blocks::together},
                                         cusim::Schedule{Order::reverse, 1, Blocks::apart},
                                         cusim::Schedule{Order::random, 7, Blocks::apart}),
                         name_of_schedule);

// ---- LossVariant -------------------------------------------------------------------------------------------------

__global__ void write_index(unsigned* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = i + 1000 * gridDim.x;
}

TEST_P(Sim, EveryThreadRunsOnce) {
  const Device<unsigned> out(5 * 96);
  launch("write_index", write_index, {5, 96, stream}, out.get());
  const std::vector<unsigned> got = out.read();
  for (unsigned i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], i + 5000);
}

__global__ void note_order(unsigned* order, unsigned* count) {
  order[atomicAdd(count, 1u)] = 64 * blockIdx.x + threadIdx.x;
}

TEST_P(Sim, ThreadsAndBlocksRunInTheOrderAskedFor) {
  const Device<unsigned> order(256), count(std::vector<unsigned>{0});
  launch("note_order", note_order, {4, 64, stream}, order.get(), count.get());
  std::vector<unsigned> got = order.read(), sorted(256);
  std::iota(sorted.begin(), sorted.end(), 0u);
  if (GetParam().blocks == Blocks::in_turn) {
    EXPECT_EQ(got == sorted, GetParam().order == Order::forward);
    EXPECT_EQ(got == std::vector<unsigned>(sorted.rbegin(), sorted.rend()), GetParam().order == Order::reverse);
  }
  std::sort(got.begin(), got.end());
  EXPECT_EQ(got, sorted);
}

// Rotates shared memory by one thread, `times` times: wrong as soon as one barrier lets one thread through.
__global__ void rotate(int* out, int times) {
  ELBO_SHARED(int, value, 128);
  value[threadIdx.x] = static_cast<int>(threadIdx.x);
  for (int i = 0; i < times; ++i) {
    __syncthreads();
    const int next = value[(threadIdx.x + 1) % blockDim.x];
    __syncthreads();
    value[threadIdx.x] = next;
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = value[threadIdx.x];
}

TEST_P(Sim, BarriersHoldEveryThread) {
  const Device<int> out(3 * 128);
  launch("rotate", rotate, {3, 128, stream}, out.get(), 37);
  const std::vector<int> got = out.read();
  for (int i = 0; i < 3 * 128; ++i) ASSERT_EQ(got[i], (i + 37) % 128);
}

__global__ void leave_early(int* out, unsigned stay) {
  if (threadIdx.x >= stay) return;
  __syncthreads();  // as on a GPU since sm_70, those who left do not count
  out[threadIdx.x] = 1;
}

TEST_P(Sim, ABarrierDoesNotWaitForThreadsThatHaveExited) {
  const Device<int> out(40);
  launch("leave_early", leave_early, {1, 96, stream}, out.get(), 40u);
  EXPECT_EQ(out.read(), std::vector<int>(40, 1));
}

__global__ void shuffles(unsigned* out) {
  const unsigned lane = threadIdx.x % 32, value = 100 + threadIdx.x;
  unsigned* const mine = out + 6 * threadIdx.x;
  mine[0] = __shfl_xor_sync(~0u, value, 5);
  mine[1] = __shfl_down_sync(~0u, value, 7);
  mine[2] = __shfl_up_sync(~0u, value, 7);
  mine[3] = __shfl_sync(~0u, value, 9);
  mine[4] = __ballot_sync(~0u, lane % 3 == 0);
  mine[5] = lane < 16 ? static_cast<unsigned>(__all_sync(0xffffu, lane < 16)) : 7u;
}

TEST_P(Sim, WarpOperationsAreThoseOfCuda) {
  const Device<unsigned> out(64 * 6);
  launch("shuffles", shuffles, {1, 64, stream}, out.get());
  const std::vector<unsigned> got = out.read();
  for (unsigned t = 0; t < 64; ++t) {
    const unsigned lane = t % 32, warp = 100 + t - lane;
    const std::vector<unsigned> mine(got.begin() + 6 * t, got.begin() + 6 * (t + 1));
    EXPECT_EQ(mine,
              (std::vector<unsigned>{warp + (lane ^ 5), warp + (lane < 25 ? lane + 7 : lane),
                                     warp + (lane < 7 ? lane : lane - 7), warp + 9, 0x49249249u, lane < 16 ? 1u : 7u}));
  }
}

template <class T>
__global__ void sum_blocks(const T* x, T* out) {
  const T first = kernels::block_sum(x[blockIdx.x * blockDim.x + threadIdx.x]);
  const T second = kernels::block_sum(T(1));
  if (threadIdx.x == 0) {
    out[2 * blockIdx.x] = first;
    out[2 * blockIdx.x + 1] = second;
  }
}

TEST_P(Sim, BlockSumIsRightForEveryNumberOfWarps) {
  for (const unsigned threads : {32u, 64u, 96u, 256u, 1024u}) {
    std::vector<double> x(2 * threads);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i * i);
    const Device<double> in(x), out(4);
    launch("sum_blocks", sum_blocks<double>, {2, threads, stream}, in.get(), out.get());
    const double first = std::accumulate(x.begin(), x.begin() + threads, 0.0),
                 second = std::accumulate(x.begin() + threads, x.end(), 0.0);
    EXPECT_EQ(out.read(), (std::vector<double>{first, double(threads), second, double(threads)})) << threads;
  }
}

__global__ void read_shared(float* out) {
  ELBO_SHARED(float, fresh, 32);
  out[blockIdx.x * 32 + threadIdx.x] = fresh[threadIdx.x];
  fresh[threadIdx.x] = 1.0f;
}

TEST_P(Sim, MemoryStartsAsNan) {
  const Device<float> out(96), untouched(5);
  launch("read_shared", read_shared, {3, 32, stream}, out.get());
  for (float v : out.read()) EXPECT_TRUE(std::isnan(v));
  for (float v : untouched.read()) EXPECT_TRUE(std::isnan(v));
}

__global__ void atomics(unsigned long long* least, unsigned* greatest, int* sum, unsigned* locked) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicMin(least, static_cast<unsigned long long>((i * 37 + 5) % 512));
  atomicMax(greatest, (i * 37 + 5) % 512);
  atomicAdd(sum, static_cast<int>(i));
  if (atomicCAS(locked, 0u, i + 1) == 0u) atomicExch(locked, i + 1);
}

TEST_P(Sim, Atomics) {
  const Device<unsigned long long> least(std::vector<unsigned long long>{~0ull});
  const Device<unsigned> greatest(std::vector<unsigned>{0}), locked(std::vector<unsigned>{0});
  const Device<int> sum(std::vector<int>{0});
  launch("atomics", atomics, {4, 128, stream}, least.get(), greatest.get(), sum.get(), locked.get());
  EXPECT_EQ(least.read().at(0), 0u);
  EXPECT_EQ(greatest.read().at(0), 511u);
  EXPECT_EQ(sum.read().at(0), 511 * 512 / 2);
  EXPECT_GE(locked.read().at(0), 1u);
}

// ---- Blocks among each other ---------------------------------------------------------------------------------

// Nobody leaves before all have come.
__global__ void wait_for_all_blocks(unsigned* come, unsigned* left) {
  ELBO_SHARED(unsigned, seen, 1);
  if (threadIdx.x == 0) {
    atomicAdd(come, 1u);
    while (atomicAdd(come, 0u) < gridDim.x) {
    }
    seen[0] = atomicAdd(left, 1u);
  }
  __syncthreads();
  if (threadIdx.x + 1 == blockDim.x) atomicMax(left + 1, seen[0]);
}

TEST_P(Sim, ABarrierAmongBlocksNeedsThemTogether) {
  const auto fault_of = [&](unsigned blocks) {
    const Device<unsigned> come(std::vector<unsigned>{0}), left(std::vector<unsigned>{0, 0});
    cusim::launch(wait_for_all_blocks, blocks, 256, stream, {come.get(), left.get()});
    const bool failed = cudaStreamSynchronize(stream) != cudaSuccess;
    const std::string what = failed ? cudaGetErrorString(cudaErrorLaunchFailure) : "";
    cusim::reset();
    if (!failed) {
      EXPECT_EQ(left.read(), (std::vector<unsigned>{blocks, blocks - 1}));
    }
    return what;
  };
  const bool together = GetParam().blocks != Blocks::in_turn;
  EXPECT_EQ(fault_of(1), "");
  EXPECT_EQ(fault_of(4).find("a loop spins") != std::string::npos, !together);
  const std::string what = fault_of(5);  // more threads than run together
  EXPECT_NE(what.find("a loop spins"), std::string::npos);
  EXPECT_NE(what.find("sim_test.cpp:"), std::string::npos) << what;
  EXPECT_NE(what.find(together ? "4 blocks run at a time" : "one after another"), std::string::npos) << what;
}

// Each block counts in shared memory of its own, between barriers at which others go on; more blocks than run together.
__global__ void count_in_shared(unsigned* out) {
  ELBO_SHARED(unsigned, mine, 64);
  ELBO_SHARED(unsigned, sum, 1);
  mine[threadIdx.x] = blockIdx.x;
  if (threadIdx.x == 0) sum[0] = 0;
  __syncthreads();
  atomicAdd(&sum[0], mine[63 - threadIdx.x]);
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = sum[0];
}

TEST_P(Sim, EveryBlockHasItsOwnSharedMemory) {
  const Device<unsigned> out(100);
  launch("count_in_shared", count_in_shared, {100, 64, stream}, out.get());
  const std::vector<unsigned> got = out.read();
  for (unsigned i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], 64 * i);
}

// Block 0 tells block 1 that there is something to read.
__global__ void tell(int* data, unsigned* told, int* got) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    *data = 1;
    __threadfence();
    atomicExch(told, 1u);
  } else {
    while (atomicCAS(told, 1u, 1u) == 0) {
    }
    __threadfence();
    *got = *data;
  }
}

TEST_P(Sim, ApartABlockSeesWhatIsFencedOnBothSides) {
  if (GetParam().blocks == Blocks::in_turn) GTEST_SKIP() << "a block that waits for another spins";
  [[maybe_unused]] const bool apart = GetParam().blocks == Blocks::apart;
  const auto got_without = [&](unsigned fence) {
    cusim::plant({.without_fence = fence});
    const Device<int> data(std::vector<int>{0}), got(std::vector<int>{-1});
    const Device<unsigned> told(std::vector<unsigned>{0});
    launch("tell", tell, {2, 32, stream}, data.get(), told.get(), got.get());
    const int read = got.read().at(0);
    EXPECT_EQ(data.read().at(0), 1) << "at the end everything is there";
    cusim::plant({});
    return read;
  };
  EXPECT_EQ(got_without(0), 1);
#if !defined(__SANITIZE_THREAD__)  // the race that it is
  // Neither of the two has its fence then: block 0 keeps its store to itself.
  EXPECT_EQ(got_without(1), apart ? 0 : 1);
#endif
}

// What a block has stored it sees itself, fenced or not, and an atomic operation of its own comes after it.
__global__ void store_then_add(int* p, int* seen) {
  p[blockIdx.x] = 5;
  atomicAdd(p + blockIdx.x, 1);
  seen[blockIdx.x] = p[blockIdx.x];
  p[blockIdx.x] += 10;
  __threadfence();
  seen[blockIdx.x] += p[blockIdx.x];
}

TEST_P(Sim, ABlockSeesItsOwnStores) {
  const Device<int> p(5), seen(5);
  launch("store_then_add", store_then_add, {5, 1, stream}, p.get(), seen.get());
  EXPECT_EQ(p.read(), std::vector<int>(5, 16));
  EXPECT_EQ(seen.read(), std::vector<int>(5, 22));
}

__global__ void count_blocks(unsigned* count) {
  if (threadIdx.x == 0) atomicInc(count, 1000u);
}

TEST_P(Sim, ApartAPlainIncrementLosesCounts) {
  const auto counted = [&](bool plain) {
    cusim::plant({.plain_atomics = plain});
    const Device<unsigned> count(std::vector<unsigned>{0});
    launch("count_blocks", count_blocks, {20, 32, stream}, count.get());
    const unsigned all = count.read().at(0);
    cusim::plant({});
    return all;
  };
  EXPECT_EQ(counted(false), 20u);
#if !defined(__SANITIZE_THREAD__)
  if (GetParam().blocks == Blocks::apart) {
    EXPECT_EQ(counted(true), 1u);
  }
#endif
}

TEST_P(Sim, ALaunchThatNoGpuWouldTakeIsRefused) {
  EXPECT_CUDA(cudaErrorInvalidConfiguration, cusim::launch(write_index, 1, 1025, stream, {nullptr}));
  EXPECT_CUDA(cudaErrorInvalidConfiguration, cusim::launch(write_index, 1, 0, stream, {nullptr}));
  EXPECT_THROW(launch("write_index", write_index, {1, 2048, stream}, nullptr), Error);
}

template <unsigned most>
__global__ void promising(unsigned* out) {
  CUSIM_LAUNCH_BOUNDS(promising<most>, (most, 2));
  if (threadIdx.x == 0) *out = blockDim.x;
}

TEST_P(Sim, ALaunchKeepsTheKernelsBounds) {
  const Device<unsigned> out(1);
  launch("promising", promising<96>, {1, 96, stream}, out.get());
  EXPECT_EQ(out.read().at(0), 96u);
  EXPECT_CUDA(cudaErrorInvalidValue, cusim::launch(promising<96>, 1, 97, stream, {out.get()}, "promising"));
  EXPECT_STREQ(cudaGetErrorString(cudaErrorInvalidValue),
               "promising is launched with 97 threads a block; its launch bounds promise 96 at most");
  launch("promising", promising<128>, {1, 97, stream}, out.get());
  EXPECT_EQ(out.read().at(0), 97u);
}

// ---- Faults --------------------------------------------------------------------------------------------------

__global__ void half_a_barrier() {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncwarp(0xffff0000u);
    __syncthreads();
  }
}
__global__ void lonely_shuffle(int* out) {
  if (threadIdx.x < 20) *out = __shfl_xor_sync(~0u, 1, 1);
}

TEST_P(Sim, AFaultSaysWhereAndStays) {
  cusim::launch(half_a_barrier, 3, 32, stream, {});
  EXPECT_CUDA(cudaErrorLaunchFailure, cudaStreamSynchronize(stream));
  const std::string what = cudaGetErrorString(cudaErrorLaunchFailure);
  EXPECT_NE(what.find("__syncthreads"), std::string::npos) << what;
  EXPECT_NE(what.find("sim_test.cpp:"), std::string::npos) << what;
  EXPECT_NE(what.find("block "), std::string::npos) << what;
  EXPECT_CUDA(cudaErrorLaunchFailure, cudaDeviceSynchronize());

  cusim::reset();
  EXPECT_CUDA(cudaSuccess, cudaDeviceSynchronize());
  const Device<int> out(1);
  cusim::launch(lonely_shuffle, 1, 32, stream, {out.get()});
  EXPECT_CUDA(cudaErrorLaunchFailure, cudaStreamSynchronize(stream));
  EXPECT_NE(std::string(cudaGetErrorString(cudaErrorLaunchFailure)).find("has exited"), std::string::npos)
      << cudaGetErrorString(cudaErrorLaunchFailure);
  cusim::reset();

  launch("write_index", write_index, {1, 1, stream}, reinterpret_cast<unsigned*>(out.get()));
  EXPECT_EQ(out.read().at(0), 1000);  // it works again
}

// ---- Streams and events ----------------------------------------------------------------------------------------

__global__ void add_to(int* p, int v) { *p += v; }
__global__ void copy_int(int* to, const int* from) { *to = *from; }

TEST_P(Sim, WorkWaitsUntilSomethingWaitsForIt) {
  const Device<int> a(std::vector<int>{1});
  std::atomic<int> ran = 0;
  EXPECT_CUDA(cudaSuccess, cusim::enqueue(stream, [&] { ++ran; }));
  if (GetParam().order != Order::random) {
    EXPECT_EQ(ran, GetParam().order == Order::forward ? 1 : 0);
  }
  EXPECT_CUDA(cudaSuccess, cudaStreamSynchronize(stream));
  EXPECT_EQ(ran, 1);
}

TEST_P(Sim, AnEventOrdersStreams) {
  const Device<int> a(std::vector<int>{1}), b(1);
  launch("add_to", add_to, {1, 1, stream}, a.get(), 5);
  EXPECT_CUDA(cudaSuccess, cudaEventRecord(event, stream));
  EXPECT_CUDA(cudaSuccess, cudaStreamWaitEvent(other, event, 0));
  launch("copy_int", copy_int, {1, 1, other}, b.get(), a.get());
  EXPECT_CUDA(cudaSuccess, cudaStreamSynchronize(other));
  EXPECT_EQ(b.read().at(0), 6);
}

TEST_P(Sim, AnEventQueryEnds) {
  const Device<int> a(std::vector<int>{1});
  EXPECT_CUDA(cudaSuccess, cudaEventQuery(event));  // never recorded
  for (int i = 0; i < 3; ++i) launch("add_to", add_to, {1, 1, stream}, a.get(), 5);
  EXPECT_CUDA(cudaSuccess, cudaEventRecord(event, stream));
  int asked = 0;
  while (cudaEventQuery(event) == cudaErrorNotReady) ASSERT_LT(++asked, 100);
  EXPECT_EQ(a.read().at(0), 16);
}

TEST_P(Sim, TheDefaultStreamAndBlockingStreamsWaitForEachOther) {
  cudaStream_t blocking = nullptr;
  succeed(cudaStreamCreate(&blocking));
  const Device<int> a(std::vector<int>{1}), b(1), c(1);
  launch("add_to", add_to, {1, 1, blocking}, a.get(), 5);
  launch("copy_int", copy_int, {1, 1, nullptr}, b.get(), a.get());
  launch("copy_int", copy_int, {1, 1, blocking}, c.get(), b.get());
  succeed(cudaStreamDestroy(blocking));
  EXPECT_EQ(c.read().at(0), 6);
}

// ---- Copies ----------------------------------------------------------------------------------------------------

TEST_P(Sim, PageableMemoryIsReadAtOnceAndPinnedMemoryLater) {
  int* pinned = nullptr;
  succeed(cudaHostAlloc(&pinned, sizeof(int), cudaHostAllocDefault));
  const Device<int> a(1), b(1);
  int pageable = *pinned = 1;
  EXPECT_CUDA(cudaSuccess, cudaMemcpyAsync(a.get(), &pageable, sizeof(int), cudaMemcpyHostToDevice, stream));
  if (GetParam().order != Order::forward) {
    EXPECT_CUDA(cudaSuccess, cudaMemcpyAsync(b.get(), pinned, sizeof(int), cudaMemcpyHostToDevice, stream));
#if !defined(__SANITIZE_THREAD__)  // the race that it is
    pageable = *pinned = 2;
#endif
  }
  EXPECT_EQ(a.read().at(0), 1);
#if !defined(__SANITIZE_THREAD__)
  if (GetParam().order == Order::reverse) {
    EXPECT_EQ(b.read().at(0), 2);
  }
#endif
  succeed(cudaFreeHost(pinned));
}

TEST_P(Sim, CopiesAreChecked) {
  const Device<int> a(4), b(4);
  int host[8] = {};
  EXPECT_CUDA(cudaErrorInvalidValue, cudaMemcpy(a.get(), host, 20, cudaMemcpyHostToDevice));
  EXPECT_STREQ(cudaGetErrorString(cudaErrorInvalidValue), "the copy runs over the end of the allocation it writes");
  EXPECT_CUDA(cudaErrorInvalidValue, cudaMemcpy(host, a.get() + 2, 12, cudaMemcpyDeviceToHost));
  EXPECT_CUDA(cudaErrorInvalidValue, cudaMemcpy(host, host + 4, 16, cudaMemcpyHostToDevice));
  EXPECT_CUDA(cudaErrorInvalidValue, cudaMemcpy(a.get(), b.get(), 16, cudaMemcpyHostToDevice));
  EXPECT_CUDA(cudaErrorInvalidValue, cudaMemcpy(host, a.get(), 16, cudaMemcpyHostToHost));
  EXPECT_CUDA(cudaErrorInvalidValue, cudaMemsetAsync(host, 0, 16, stream));
  EXPECT_CUDA(cudaErrorInvalidValue, cudaMemsetAsync(a.get() + 1, 0, 16, stream));
  EXPECT_CUDA(cudaSuccess, cudaMemcpy(a.get(), b.get(), 16, cudaMemcpyDeviceToDevice));
  EXPECT_CUDA(cudaSuccess, cudaMemset(a.get(), 0x01, 16));
  EXPECT_EQ(a.read(), std::vector<int>(4, 0x01010101));
}

// ---- Memory ----------------------------------------------------------------------------------------------------

TEST_P(Sim, FreeingTwiceIsAFault) {
  int* p = nullptr;
  succeed(cudaMalloc(&p, 16));
  EXPECT_EQ(cusim::leaks().front(), "16 bytes of device memory were never freed");
  EXPECT_CUDA(cudaSuccess, cudaFree(p));
  EXPECT_CUDA(cudaErrorInvalidValue, cudaFree(p));
  EXPECT_CUDA(cudaErrorLaunchFailure, cudaDeviceSynchronize());  // whoever frees may not look
  cusim::reset();
  int host = 0;
  EXPECT_CUDA(cudaErrorInvalidValue, cudaFreeHost(&host));
}

TEST_P(Sim, MemoryHasAnEnd) {
  setenv("ELBO_SIM_MEMORY", "1000", 1);
  std::size_t free = 0, total = 0;
  void *p = nullptr, *q = nullptr;
  EXPECT_CUDA(cudaSuccess, cudaMalloc(&p, 600));
  EXPECT_CUDA(cudaSuccess, cudaMemGetInfo(&free, &total));
  EXPECT_EQ(free, 400u);
  EXPECT_EQ(total, 1000u);
  EXPECT_CUDA(cudaErrorMemoryAllocation, cudaMalloc(&q, 401));
  EXPECT_EQ(q, nullptr);
  EXPECT_CUDA(cudaSuccess, cudaFree(p));
  unsetenv("ELBO_SIM_MEMORY");
}

// ---- Graphs ----------------------------------------------------------------------------------------------------

TEST_P(Sim, ACaptureRecordsAndDoesNotRun) {
  const Device<int> a(std::vector<int>{0});
  const cudaGraphExec_t exec = capture([&] { launch("add_to", add_to, {1, 1, stream}, a.get(), 3); });
  EXPECT_EQ(nodes, 1u);
  EXPECT_EQ(a.read().at(0), 0);
  for (int i = 0; i < 4; ++i) EXPECT_CUDA(cudaSuccess, cudaGraphLaunch(exec, stream));
  EXPECT_EQ(a.read().at(0), 12);
  EXPECT_CUDA(cudaSuccess, cudaGraphExecDestroy(exec));
}

TEST_P(Sim, ValuesOfTheHostAreBakedIn) {
  const Device<int> a(std::vector<int>{0});
  int value = 3;
  const cudaGraphExec_t exec = capture([&] {
    launch("add_to", add_to, {1, 1, stream}, a.get(), value);
    check_cuda(cudaMemcpyAsync(a.get(), a.get(), sizeof(int), cudaMemcpyDeviceToDevice, stream), "copy");
  });
  EXPECT_EQ(nodes, 2u);
  value = 100;
  EXPECT_CUDA(cudaSuccess, cudaGraphLaunch(exec, stream));
  EXPECT_CUDA(cudaSuccess, cudaGraphLaunch(exec, stream));
  EXPECT_EQ(a.read().at(0), 6);
  EXPECT_CUDA(cudaSuccess, cudaGraphExecDestroy(exec));
}

TEST_P(Sim, AForkJoinsThroughEvents) {
  const Device<int> a(std::vector<int>{1}), b(std::vector<int>{0}), c(std::vector<int>{0});
  const cudaGraphExec_t exec = capture([&] {
    launch("add_to", add_to, {1, 1, stream}, a.get(), 1);
    check_cuda(cudaEventRecord(event, stream), "fork");
    check_cuda(cudaStreamWaitEvent(other, event, 0), "fork");
    launch("copy_int", copy_int, {1, 1, other}, b.get(), a.get());  // beside...
    launch("add_to", add_to, {1, 1, stream}, c.get(), 10);          // ...this
    check_cuda(cudaEventRecord(joined, other), "join");
    check_cuda(cudaStreamWaitEvent(stream, joined, 0), "join");
    launch("add_to", add_to, {1, 1, stream}, b.get(), 100);
  });
  EXPECT_EQ(nodes, 4u);
  cudaStreamCaptureStatus status{};
  EXPECT_CUDA(cudaSuccess, cudaStreamIsCapturing(other, &status));
  EXPECT_EQ(status, cudaStreamCaptureStatusNone);
  EXPECT_CUDA(cudaSuccess, cudaGraphLaunch(exec, stream));
  EXPECT_CUDA(cudaSuccess, cudaGraphLaunch(exec, stream));
  EXPECT_EQ(b.read().at(0), 103);
  EXPECT_EQ(c.read().at(0), 20);
  EXPECT_CUDA(cudaSuccess, cudaGraphExecDestroy(exec));
}

// A call that a capture forbids fails, and so does the capture.
TEST_P(Sim, WhatIsForbiddenInACaptureEndsIt) {
  const Device<int> a(std::vector<int>{0});
  int host = 0;
  void* p = nullptr;
  EXPECT_CUDA(cudaSuccess, cudaEventRecord(event, other));
  const std::vector<std::pair<cudaError_t, std::function<cudaError_t()>>> calls{
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaMalloc(&p, 4); }},
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaHostAlloc(&p, 4, 0); }},
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaFree(a.get()); }},
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaMemcpy(&host, a.get(), 4, cudaMemcpyDeviceToHost); }},
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaStreamSynchronize(stream); }},
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaStreamQuery(stream); }},
      {cudaErrorStreamCaptureUnsupported, [&] { return cudaDeviceSynchronize(); }},
      {cudaErrorStreamCaptureIsolation, [&] { return cudaStreamWaitEvent(stream, event, 0); }},
  };
  for (const auto& [error, call] : calls) {
    cudaGraph_t graph = nullptr;
    succeed(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    EXPECT_CUDA(error, call());
    EXPECT_CUDA(cudaErrorStreamCaptureInvalidated, cusim::launch(add_to, 1, 1, stream, {a.get(), 1}));
    EXPECT_CUDA(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &graph));
    EXPECT_EQ(graph, nullptr);
  }
  EXPECT_EQ(a.read().at(0), 0);
}

TEST_P(Sim, ARelaxedCaptureAllowsAllocation) {
  void* p = nullptr;
  cudaGraph_t graph = nullptr;
  succeed(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  EXPECT_CUDA(cudaSuccess, cudaMalloc(&p, 4));
  succeed(cudaStreamEndCapture(stream, &graph));
  EXPECT_CUDA(cudaSuccess, cudaGraphDestroy(graph));
  EXPECT_CUDA(cudaSuccess, cudaFree(p));
}

// A strict device refuses in any mode what a GPU may allow, and is better done before.
TEST_P(Sim, AStrictCaptureRefusesAllocationsAndFirstLaunches) {
  cusim::set_strict(true);
  const Device<int> a(std::vector<int>{0});
  const auto capture_of = [&](const auto& call) {
    cudaGraph_t graph = nullptr;
    succeed(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    const cudaError_t error = call();
    const std::string why = cudaGetErrorString(error);
    EXPECT_CUDA(error ? cudaErrorStreamCaptureInvalidated : cudaSuccess, cudaStreamEndCapture(stream, &graph));
    if (graph) succeed(cudaGraphDestroy(graph));
    return std::pair{error, why};
  };
  void* p = nullptr;
  const std::function<cudaError_t()> memory[] = {
      [&] { return cudaMalloc(&p, 4); }, [&] { return cudaHostAlloc(&p, 4, 0); }, [&] { return cudaFree(a.get()); }};
  for (const auto& call : memory) EXPECT_CUDA(cudaErrorStreamCaptureUnsupported, capture_of(call).first);
  const auto launch_it = [&] { return cusim::launch(add_to, 1, 1, stream, {a.get(), 1}, "add_to"); };
  const auto [error, why] = capture_of(launch_it);
  EXPECT_CUDA(cudaErrorStreamCaptureUnsupported, error);
  EXPECT_NE(why.find("add_to is used for the first time"), std::string::npos) << why;
  EXPECT_CUDA(cudaErrorStreamCaptureUnsupported,  // wherever it would run
              capture_of([&] {
                return cusim::launch(add_to, 1, 1, other, {a.get(), 1}, "add_to");
              }).first);
  // Another thread is not concerned.
  std::thread([&] { EXPECT_CUDA(cudaSuccess, cusim::use("a library's algorithm")); }).join();

  EXPECT_CUDA(cudaSuccess, launch_it());
  EXPECT_CUDA(cudaSuccess, capture_of(launch_it).first);
  cusim::set_strict(false);
  EXPECT_CUDA(cudaSuccess, capture_of([&] { return cusim::launch(copy_int, 1, 1, stream, {a.get(), a.get()}); }).first);
}

TEST_P(Sim, CapturesEndWhereTheyBeganAndWhole) {
  const Device<int> a(std::vector<int>{0});
  cudaGraph_t graph = nullptr;
  EXPECT_CUDA(cudaErrorIllegalState, cudaStreamEndCapture(stream, &graph));
  // Not joined
  succeed(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  EXPECT_CUDA(cudaErrorIllegalState, cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  succeed(cudaEventRecord(event, stream));
  succeed(cudaStreamWaitEvent(other, event, 0));
  EXPECT_CUDA(cudaErrorCapturedEvent, cudaEventSynchronize(event));
  launch("add_to", add_to, {1, 1, other}, a.get(), 1);
  EXPECT_CUDA(cudaErrorStreamCaptureUnjoined, cudaStreamEndCapture(stream, &graph));
  // Ended elsewhere
  succeed(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  succeed(cudaEventRecord(event, stream));
  succeed(cudaStreamWaitEvent(other, event, 0));
  EXPECT_CUDA(cudaErrorStreamCaptureUnmatched, cudaStreamEndCapture(other, &graph));
  EXPECT_CUDA(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(stream, &graph));
  // The default stream would wait for the captured one
  cudaStream_t blocking = nullptr;
  succeed(cudaStreamCreate(&blocking));
  succeed(cudaStreamBeginCapture(blocking, cudaStreamCaptureModeRelaxed));
  EXPECT_CUDA(cudaErrorStreamCaptureImplicit, cusim::launch(add_to, 1, 1, nullptr, {a.get(), 1}));
  EXPECT_CUDA(cudaErrorStreamCaptureInvalidated, cudaStreamEndCapture(blocking, &graph));
  succeed(cudaStreamDestroy(blocking));
  EXPECT_EQ(a.read().at(0), 0);
}

// ---- Ranges ----------------------------------------------------------------------------------------------------

TEST(Ranges, Nest) {
  cusim::ranges().remember = true;
  {
    const kernels::Range step("step");
    const kernels::Range encode("encode");
  }
  { const kernels::Range step("step"); }
  kernels::pop_range();
  EXPECT_EQ(cusim::ranges().seen, (std::vector<std::string>{"step", "step/encode", "step"}));
  EXPECT_TRUE(cusim::ranges().open.empty());
  EXPECT_EQ(cusim::ranges().unmatched_pops, 1);
  cusim::ranges() = {};
}

TEST(Order, ComesFromTheEnvironment) {
  setenv("ELBO_SIM_ORDER", "reverse", 1);
  EXPECT_EQ(cusim::schedule().order, Order::reverse);
  setenv("ELBO_SIM_ORDER", "random:12", 1);
  EXPECT_EQ(cusim::schedule().order, Order::random);
  EXPECT_EQ(cusim::schedule().seed, 12u);
  setenv("ELBO_SIM_ORDER", "backwards", 1);
  EXPECT_THROW(cusim::schedule(), std::invalid_argument);
  unsetenv("ELBO_SIM_ORDER");
  EXPECT_EQ(cusim::schedule().order, Order::forward);
  EXPECT_EQ(cusim::schedule().blocks, Blocks::in_turn);
  setenv("ELBO_SIM_BLOCKS", "apart", 1);
  EXPECT_EQ(cusim::schedule().blocks, Blocks::apart);
  setenv("ELBO_SIM_BLOCKS", "alone", 1);
  EXPECT_THROW(cusim::schedule(), std::invalid_argument);
  unsetenv("ELBO_SIM_BLOCKS");
  EXPECT_EQ(cusim::schedule().blocks, Blocks::in_turn);
}

}  // namespace
}  // namespace elbo
