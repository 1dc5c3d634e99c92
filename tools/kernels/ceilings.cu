// What a GPU can do at best, measured: the figures that everything else is judged by. tools/gpu_check.sh runs it.
//
//   ceilings [FILE] [--only WORD...] [--warmup SECONDS]      JSON, to FILE or to standard output
//
// Copies of random data, launches, barriers, what a persistent kernel would be made of, matrix products: for each the
// median, the 10th and the 90th percentile of 30 timings or more, and the clock of the multiprocessors meanwhile. One
// that fails has its error instead, and the others are measured. FILE is whole after each of them. --only measures
// those in whose name one of the words is; the most telling ones come first. The GPU is warmed up for half a second, or
// for SECONDS, and for a twentieth by each measurement. All loops are bounded. Exit status: 0, or 1 where there is no
// GPU, FILE cannot be written, or nothing has such a name.
#include <cooperative_groups.h>
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/nvml.h"

namespace {

constexpr int repeats = 30;
constexpr double warmup_seconds = 0.05;  // of each measurement

void check(cudaError_t e, const char* what) {
  if (e != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(e));
}

void check(cublasStatus_t s, const char* what) {
  if (s != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(std::string(what) + ": " + cublasLtGetStatusString(s));
}

// Of a handle that one function makes and another destroys.
template <class T, auto destroy>
class Owner {
 public:
  template <class Make>
  explicit Owner(const char* what, const Make& make) {
    check(make(&handle_), what);
  }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;
  ~Owner() { destroy(handle_); }
  operator T() const { return handle_; }

 private:
  T handle_ = nullptr;
};

struct Stream : Owner<cudaStream_t, cudaStreamDestroy> {
  Stream() : Owner("cudaStreamCreate", [](cudaStream_t* s) { return cudaStreamCreate(s); }) {}
};
struct Event : Owner<cudaEvent_t, cudaEventDestroy> {
  Event() : Owner("cudaEventCreate", [](cudaEvent_t* e) { return cudaEventCreate(e); }) {}
};
struct Memory : Owner<void*, cudaFree> {
  explicit Memory(std::size_t bytes) : Owner("cudaMalloc", [=](void** p) { return cudaMalloc(p, bytes); }) {}
};

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Queues `work` again and again, at least once, and waits for each.
template <class Work>
void warm_up(cudaStream_t stream, double seconds, const Work& work) {
  const Clock::time_point begin = Clock::now();
  do {
    work();
    check(cudaStreamSynchronize(stream), "the work on the GPU");
  } while (seconds_since(begin) < seconds);
}

// In MHz, of the measurement under way; 0: unknown.
double sm_clock_mhz = 0;

const elbo::cuda::SmClock& sm_clock() {
  static const elbo::cuda::SmClock clock(0);  // NVML takes its time for this
  return clock;
}

// Asks for it while `work` is under way; right after it where that is shorter than the question.
template <class Work>
void ask_for_clock(cudaStream_t stream, const Work& work) {
  work();
  sm_clock_mhz = sm_clock().mhz();
  check(cudaStreamSynchronize(stream), "the work on the GPU");
}

// Milliseconds that the stream takes for `work`, each time.
template <class Work>
std::vector<double> stream_times(cudaStream_t stream, const Work& work) {
  const Event begin, end;
  warm_up(stream, warmup_seconds, work);
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    work();
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "the work on the GPU");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    times.push_back(milliseconds);
  }
  ask_for_clock(stream, work);
  return times;
}

// Milliseconds by the host's clock until `work` is done, each time.
template <class Work>
std::vector<double> host_times(cudaStream_t stream, const Work& work) {
  warm_up(stream, warmup_seconds, work);
  std::vector<double> times;
  for (int i = 0; i < 10 * repeats; ++i) {
    const Clock::time_point begin = Clock::now();
    work();
    check(cudaStreamSynchronize(stream), "the work on the GPU");
    times.push_back(1e3 * seconds_since(begin));
  }
  ask_for_clock(stream, work);
  return times;
}

template <class Convert>
std::vector<double> each(std::vector<double> values, const Convert& convert) {
  for (double& v : values) v = convert(v);
  return values;
}

// ---- Random data: zeros would be copied and multiplied faster --------------------------------------------------

__device__ std::uint32_t scramble(std::uint64_t i) {  // splitmix64
  i += 0x9E3779B97F4A7C15u;
  i = (i ^ (i >> 30)) * 0xBF58476D1CE4E5B9u;
  i = (i ^ (i >> 27)) * 0x94D049BB133111EBu;
  return static_cast<std::uint32_t>(i >> 32);
}

__device__ void set_random(std::uint32_t& to, std::uint32_t random) { to = random; }
__device__ void set_random(float& to, std::uint32_t random) { to = static_cast<float>(random) * 0x1p-31f - 1; }
__device__ void set_random(__nv_bfloat16& to, std::uint32_t random) {
  float value;
  set_random(value, random);
  to = __float2bfloat16(value);
}

template <class T>
__global__ void randomise(T* to, std::size_t count) {
  const std::size_t step = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step)
    set_random(to[i], scramble(i));
}

template <class T>
void fill(void* to, std::size_t count, cudaStream_t stream) {
  randomise<<<1024, 256, 0, stream>>>(static_cast<T*>(to), count);
  check(cudaGetLastError(), "randomise");
}

// ---- Copies --------------------------------------------------------------------------------------------------------

constexpr std::size_t copied_bytes = std::size_t{4} << 30;  // read, and written as well
constexpr unsigned copy_threads = 256, quads_per_thread = 4;

// 16 bytes an access, four loads under way in each thread.
__global__ void __launch_bounds__(copy_threads) copy_quads(const uint4* from, uint4* to) {
  const std::size_t first = std::size_t{blockIdx.x} * (copy_threads * quads_per_thread) + threadIdx.x;
  uint4 quads[quads_per_thread];
#pragma unroll
  for (unsigned k = 0; k < quads_per_thread; ++k) quads[k] = from[first + k * copy_threads];
#pragma unroll
  for (unsigned k = 0; k < quads_per_thread; ++k) to[first + k * copy_threads] = quads[k];
}

// Of `bytes` bytes, which are a multiple of what a block copies.
void launch_copy(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  constexpr std::size_t block = sizeof(uint4) * copy_threads * quads_per_thread;
  copy_quads<<<static_cast<unsigned>(bytes / block), copy_threads, 0, stream>>>(static_cast<const uint4*>(from),
                                                                                static_cast<uint4*>(to));
  check(cudaGetLastError(), "copy_quads");
}

std::vector<double> copy_rates(bool by_kernel) {
  const Stream stream;
  const Memory from(copied_bytes), to(copied_bytes);
  fill<std::uint32_t>(from, copied_bytes / 4, stream);
  const std::vector<double> times = stream_times(stream, [&] {
    if (by_kernel) return launch_copy(to, from, copied_bytes, stream);
    check(cudaMemcpyAsync(to, from, copied_bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
  });
  return each(times, [](double ms) { return 2e-6 * copied_bytes / ms; });
}

// Work for a GPU that was idle, whose clock is a fraction of what it can be.
void warm_gpu(double seconds) {
  constexpr std::size_t bytes = std::size_t{256} << 20;
  const Stream stream;
  const Memory from(bytes), to(bytes);
  fill<std::uint32_t>(from, bytes / 4, stream);
  warm_up(stream, seconds, [&] { launch_copy(to, from, bytes, stream); });
}

// ---- Matrix products -----------------------------------------------------------------------------------------------

constexpr std::uint64_t width = 8192;  // of the three matrices
constexpr std::size_t workspace_bytes = std::size_t{64} << 20;

struct LtHandle : Owner<cublasLtHandle_t, cublasLtDestroy> {
  LtHandle() : Owner("cublasLtCreate", cublasLtCreate) {}
};
struct Layout : Owner<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> {
  explicit Layout(cudaDataType_t type)
      : Owner("cublasLtMatrixLayoutCreate", [=](cublasLtMatrixLayout_t* l) {
          return cublasLtMatrixLayoutCreate(l, type, width, width, static_cast<std::int64_t>(width));
        }) {}
};
struct Description : Owner<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> {
  explicit Description(cublasComputeType_t compute)
      : Owner("cublasLtMatmulDescCreate",
              [=](cublasLtMatmulDesc_t* d) { return cublasLtMatmulDescCreate(d, compute, CUDA_R_32F); }) {
    const cublasOperation_t transpose = CUBLAS_OP_T;  // the first factor: both are then read along k
    check(cublasLtMatmulDescSetAttribute(*this, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose), "TRANSA");
  }
};
struct Preference : Owner<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> {
  Preference() : Owner("cublasLtMatmulPreferenceCreate", cublasLtMatmulPreferenceCreate) {
    check(cublasLtMatmulPreferenceSetAttribute(*this, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                               sizeof workspace_bytes),
          "MAX_WORKSPACE_BYTES");
  }
};

// TFLOP/s by the quickest of the algorithms that cuBLASLt proposes.
template <class T>
std::vector<double> product_rates(cudaDataType_t type, cublasComputeType_t compute) {
  const Stream stream;
  const Memory a(width * width * sizeof(T)), b(width * width * sizeof(T)), c(width * width * sizeof(T)),
      workspace(workspace_bytes);
  fill<T>(a, width * width, stream);
  fill<T>(b, width * width, stream);
  const LtHandle lt;
  const Description description(compute);
  const Layout layout(type);
  const Preference preference;
  cublasLtMatmulHeuristicResult_t proposed[8];
  int count = 0;
  check(
      cublasLtMatmulAlgoGetHeuristic(lt, description, layout, layout, layout, layout, preference, 8, proposed, &count),
      "cublasLtMatmulAlgoGetHeuristic");
  const float one = 1, zero = 0;
  const auto multiply = [&](const cublasLtMatmulAlgo_t& algorithm) {
    return cublasLtMatmul(lt, description, &one, a, layout, b, layout, &zero, c, layout, c, layout, &algorithm,
                          workspace, workspace_bytes, stream);
  };
  const Event begin, end;
  const cublasLtMatmulAlgo_t* best = nullptr;
  float best_time = INFINITY;
  for (int i = 0; i < count; ++i) {
    const cublasLtMatmulAlgo_t& algorithm = proposed[i].algo;
    if (proposed[i].state != CUBLAS_STATUS_SUCCESS || multiply(algorithm) != CUBLAS_STATUS_SUCCESS) continue;
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    check(multiply(algorithm), "cublasLtMatmul");
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "cublasLtMatmul");
    float time = 0;
    check(cudaEventElapsedTime(&time, begin, end), "cudaEventElapsedTime");
    if (time < best_time) best = &algorithm, best_time = time;
  }
  if (!best) throw std::runtime_error("cuBLASLt has no algorithm for this product");
  const std::vector<double> times = stream_times(stream, [&] { check(multiply(*best), "cublasLtMatmul"); });
  return each(times, [](double ms) { return 2e-9 * width * width * width / ms; });
}

// ---- Launches ------------------------------------------------------------------------------------------------------

constexpr int chain = 1000;  // launches, nodes or barriers, one after the other

__global__ void nothing() {}

void launch_nothing(int times, cudaStream_t stream) {
  for (int i = 0; i < times; ++i) nothing<<<1, 1, 0, stream>>>();
  check(cudaGetLastError(), "an empty kernel");
}

// Of `nodes` nodes that do nothing.
struct Graph : Owner<cudaGraph_t, cudaGraphDestroy> {
  Graph(int nodes, cudaStream_t stream)
      : Owner("the capture of a graph", [=](cudaGraph_t* graph) {
          launch_nothing(1, stream);  // a kernel is loaded by its first launch, which no capture may be
          check(cudaStreamSynchronize(stream), "an empty kernel");
          const cudaError_t begun = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
          if (begun != cudaSuccess) return begun;
          for (int i = 0; i < nodes; ++i) nothing<<<1, 1, 0, stream>>>();
          return cudaStreamEndCapture(stream, graph);
        }) {}
};
struct Executable : Owner<cudaGraphExec_t, cudaGraphExecDestroy> {
  explicit Executable(const Graph& graph)
      : Owner("cudaGraphInstantiate", [&](cudaGraphExec_t* e) { return cudaGraphInstantiate(e, graph, 0); }) {}
};

double microseconds_each(double ms) { return 1e3 * ms / chain; }
double microseconds(double ms) { return 1e3 * ms; }

std::vector<double> stream_launches() {
  const Stream stream;
  return each(stream_times(stream, [&] { launch_nothing(chain, stream); }), microseconds_each);
}

std::vector<double> one_launch() {
  const Stream stream;
  return each(host_times(stream, [&] { launch_nothing(1, stream); }), microseconds);
}

std::vector<double> graph_nodes() {
  const Stream stream;
  const Graph graph(chain, stream);
  const Executable executable(graph);
  return each(stream_times(stream, [&] { check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch"); }),
              microseconds_each);
}

std::vector<double> one_node() {
  const Stream stream;
  const Graph graph(1, stream);
  const Executable executable(graph);
  return each(host_times(stream, [&] { check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch"); }), microseconds);
}

// ---- Barriers ------------------------------------------------------------------------------------------------------

constexpr unsigned barrier_threads = 256;

// Both leave the number of barriers that they passed: code for an older GPU has no clusters and leaves 0.
__global__ void grid_barriers(int count, int* passed) {
  const cooperative_groups::grid_group grid = cooperative_groups::this_grid();
  for (int i = 0; i < count; ++i) grid.sync();
  if (grid.thread_rank() == 0) *passed = count;
}

__global__ void cluster_barriers([[maybe_unused]] int count, int* passed) {
#if __CUDA_ARCH__ >= 900
  const cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
  for (int i = 0; i < count; ++i) cluster.sync();
  if (cluster.thread_rank() == 0) *passed = count;
#else
  *passed = 0;
#endif
}

// Microseconds a barrier of a kernel that `launch` launches with its two arguments.
template <class Launch>
std::vector<double> barrier_times(const Launch& launch) {
  const Stream stream;
  const Memory memory(sizeof(int));
  int* passed = static_cast<int*>(static_cast<void*>(memory));
  check(cudaMemsetAsync(passed, 0, sizeof(int), stream), "cudaMemsetAsync");
  std::vector<double> times = each(stream_times(stream, [&] { launch(chain, passed, stream); }), microseconds_each);
  int counted = 0;
  check(cudaMemcpy(&counted, passed, sizeof counted, cudaMemcpyDeviceToHost), "cudaMemcpy");
  if (counted != chain) throw std::runtime_error("this program was built for GPUs that have no such barrier");
  return times;
}

std::vector<double> grid_barrier(const cudaDeviceProp& gpu) {
  if (!gpu.cooperativeLaunch) throw std::runtime_error("this GPU has no cooperative launches");
  return barrier_times([&](int count, int* passed, cudaStream_t stream) {
    void* arguments[] = {&count, &passed};
    check(cudaLaunchCooperativeKernel(grid_barriers, dim3(static_cast<unsigned>(gpu.multiProcessorCount)),
                                      dim3(barrier_threads), arguments, 0, stream),
          "cudaLaunchCooperativeKernel");
  });
}

std::vector<double> cluster_barrier(const cudaDeviceProp& gpu, unsigned size) {
  if (gpu.major < 9) throw std::runtime_error("this GPU has no clusters");
  if (size > 8)
    check(cudaFuncSetAttribute(cluster_barriers, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "clusters of more than 8 blocks");
  return barrier_times([&](int count, int* passed, cudaStream_t stream) {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {size, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(size);
    config.blockDim = dim3(barrier_threads);
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    check(cudaLaunchKernelEx(&config, cluster_barriers, count, passed), "cudaLaunchKernelEx");
  });
}

// ---- What a persistent kernel would be made of ---------------------------------------------------------------------

// A training step in one kernel: 32 groups of columns by 4 ranks of rows, a block of 512 threads each, a barrier for
// the 32 blocks of a rank, a cluster for the 4 ranks of a group. Each measurement is of a kernel that does one part of
// it many times over, and checks what arrives.
constexpr unsigned ranks = 4, groups = 32, block_threads = 512;
constexpr int rounds = 500;

struct Faults {
  unsigned timeouts, wrong;  // barriers that were given up; messages that were not those sent
};

__device__ uint4 load_from_l2(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}

// A barrier of the blocks that share `arrived`, which only grows and should reach `expected`. False where it does not
// within some tenths of a second. Called by every thread of a block.
__device__ bool pass_barrier(unsigned* arrived, unsigned expected, Faults* faults) {
  constexpr int most_spins = 1 << 18;
  __shared__ bool passed;
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
    unsigned seen = 0;
    for (int spins = 0; seen < expected && spins < most_spins; ++spins)
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(arrived) : "memory");
    passed = seen >= expected;
    if (!passed) atomicAdd(&faults->timeouts, 1);
  }
  __syncthreads();
  return passed;
}

// What the blocks of one launch share. Everything is 0 before it.
struct Shared {
  unsigned arrived[ranks][32];  // a counter for each rank, in a cache line of its own
  Faults faults;
};

// `quads` quads from every block to the blocks of its rank, as many to each; none: the barrier alone. The places are
// used in turn: who is one barrier ahead writes the other.
template <unsigned quads>
__global__ void __launch_bounds__(block_threads) exchange(Shared* shared, uint4* places) {
  constexpr unsigned share = quads / groups, each_thread = (quads + block_threads - 1) / block_threads;
  const unsigned rank = blockIdx.x / groups, me = blockIdx.x % groups;
  const std::size_t all = std::size_t{gridDim.x} * quads;
  for (unsigned round = 0; round < rounds; ++round) {
    uint4* const place = places + (round % 2) * all;
    if constexpr (quads > 0)
      for (unsigned i = threadIdx.x; i < quads; i += block_threads)
        place[std::size_t{blockIdx.x} * quads + i] = make_uint4(blockIdx.x, round, i, 0);
    if (!pass_barrier(shared->arrived[rank], (round + 1) * groups, &shared->faults)) return;
    if constexpr (quads > 0) {
      uint4 got[each_thread];  // all loads are under way before the first is looked at
      bool wrong = false;
#pragma unroll
      for (unsigned k = 0; k < each_thread; ++k) {
        const unsigned i = min(threadIdx.x + k * block_threads, quads - 1);
        got[k] = load_from_l2(place + std::size_t{rank * groups + i / share} * quads + me * share + i % share);
      }
#pragma unroll
      for (unsigned k = 0; k < each_thread; ++k) {
        const unsigned i = min(threadIdx.x + k * block_threads, quads - 1);
        wrong |= got[k].x != rank * groups + i / share || got[k].y != round || got[k].z != me * share + i % share;
      }
      if (wrong) atomicAdd(&shared->faults.wrong, 1);
    }
  }
}

constexpr unsigned read_quads = 128 * 1024 / 16;

// Every block reads all 128 KB of its rank.
__global__ void __launch_bounds__(block_threads) read_all(const uint4* from, unsigned* sum) {
  const uint4* const mine = from + std::size_t{blockIdx.x / groups} * read_quads + threadIdx.x;
  unsigned bits = 0;
  for (int round = 0; round < rounds; ++round) {
    uint4 got[read_quads / block_threads];
#pragma unroll
    for (unsigned k = 0; k < read_quads / block_threads; ++k) got[k] = load_from_l2(mine + k * block_threads);
#pragma unroll
    for (const uint4& v : got) bits += v.x ^ v.y ^ v.z ^ v.w;
    __syncthreads();
  }
  if (bits == 1) *sum = bits;  // so that the loads are of use
}

constexpr unsigned pushed_quads = 36 * 1024 / 16 / (ranks - 1);  // to each of the others

// Every block of a cluster writes 36 KB into the shared memory of the others; then a barrier of the cluster.
__global__ void __launch_bounds__(block_threads) push([[maybe_unused]] Faults* faults) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ uint4 received[];  // [2][ranks - 1][pushed_quads]
  constexpr unsigned all = (ranks - 1) * pushed_quads;
  const cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
  const unsigned me = cluster.block_rank();
  cluster.sync();  // all are here, so that their memory is, too
  for (unsigned round = 0; round < rounds; ++round) {
    uint4* const place = received + (round % 2) * all;
    for (unsigned i = threadIdx.x; i < all; i += block_threads) {
      const unsigned part = i / pushed_quads, to = (me + 1 + part) % ranks;
      cluster.map_shared_rank(place, static_cast<int>(to))[i] = make_uint4(me, round, i, 0);
    }
    cluster.sync();
    bool wrong = false;
    for (unsigned i = threadIdx.x; i < all; i += block_threads) {
      const unsigned from = (me + ranks - 1 - i / pushed_quads) % ranks;
      const uint4 got = place[i];
      wrong |= got.x != from || got.y != round || got.z != i;
    }
    if (wrong) atomicAdd(&faults->wrong, 1);
  }
#else
  if (threadIdx.x == 0) atomicAdd(&faults->timeouts, 1);
#endif
}

// The product of a block: [32, 500] by [24, 500]', in TF32, both in shared memory. A warp takes every 16th slice of 8
// along k, and the warps' sums are added in their order.
constexpr unsigned product_m = 32, product_n = 24, product_k = 500, warps = 16;
constexpr unsigned pitch = 508;  // floats of a row: those that a warp reads lie in 32 banks
constexpr std::size_t product_bytes = sizeof(float) * ((product_m + product_n) * pitch + warps * product_m * product_n);
static_assert(warps * 32 == block_threads);

__global__ void __launch_bounds__(block_threads)
    block_product([[maybe_unused]] int times, [[maybe_unused]] bool of_ones, [[maybe_unused]] float* result) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ float factors[];
  float *const a = factors, *const b = a + product_m * pitch, *const sums = b + product_n * pitch;
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (unsigned i = threadIdx.x; i < (product_m + product_n) * pitch; i += block_threads) {
    float value = 1;
    if (!of_ones) set_random(value, scramble(i));
    factors[i] = i % pitch < product_k ? value : 0;
  }
  __syncthreads();
  for (int time = 0; time < times; ++time) {
    float c[2][3][4] = {};
    for (unsigned slice = warp; slice < (product_k + 7) / 8; slice += warps) {
      std::uint32_t fa[2][4], fb[3][2];
      const unsigned k = slice * 8 + t;
#pragma unroll
      for (unsigned m = 0; m < 2; ++m) {
        const float* const row = a + (m * 16 + g) * pitch + k;
        fa[m][0] = __float_as_uint(row[0]);
        fa[m][1] = __float_as_uint(row[8 * pitch]);
        fa[m][2] = __float_as_uint(row[4]);
        fa[m][3] = __float_as_uint(row[8 * pitch + 4]);
      }
#pragma unroll
      for (unsigned n = 0; n < 3; ++n) {
        const float* const row = b + (n * 8 + g) * pitch + k;
        fb[n][0] = __float_as_uint(row[0]);
        fb[n][1] = __float_as_uint(row[4]);
      }
#pragma unroll
      for (unsigned m = 0; m < 2; ++m)
#pragma unroll
        for (unsigned n = 0; n < 3; ++n)
          asm volatile(
              "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
              "{%0, %1, %2, %3};"
              : "+f"(c[m][n][0]), "+f"(c[m][n][1]), "+f"(c[m][n][2]), "+f"(c[m][n][3])
              : "r"(fa[m][0]), "r"(fa[m][1]), "r"(fa[m][2]), "r"(fa[m][3]), "r"(fb[n][0]), "r"(fb[n][1]));
    }
    float* const mine = sums + warp * (product_m * product_n);
#pragma unroll
    for (unsigned m = 0; m < 2; ++m)
#pragma unroll
      for (unsigned n = 0; n < 3; ++n)
#pragma unroll
        for (unsigned i = 0; i < 4; ++i)
          mine[(m * 16 + g + (i / 2) * 8) * product_n + n * 8 + 2 * t + i % 2] = c[m][n][i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < product_m * product_n; i += block_threads) {
      float sum = 0;
      for (unsigned w = 0; w < warps; ++w) sum += sums[w * (product_m * product_n) + i];
      if (time + 1 == times) result[i] = sum;             // of every block alike
      if (i < product_k && !of_ones) a[i] = 1e-2f * sum;  // what comes next has to wait for it
    }
    __syncthreads();
  }
#endif
}

void require_clusters(const cudaDeviceProp& gpu) {
  if (gpu.major < 9) throw std::runtime_error("this GPU has no clusters");
}

double microseconds_a_round(double ms) { return 1e3 * ms / rounds; }

void check_faults(const Faults* on_device) {
  Faults faults;
  check(cudaMemcpy(&faults, on_device, sizeof faults, cudaMemcpyDeviceToHost), "the faults of a persistent kernel");
  if (faults.timeouts > 0) throw std::runtime_error("blocks that waited for each other gave up");
  if (faults.wrong > 0) throw std::runtime_error("a message did not arrive as it was sent");
}

template <unsigned quads>
std::vector<double> exchange_times(const cudaDeviceProp& gpu, unsigned blocks) {
  if (!gpu.cooperativeLaunch) throw std::runtime_error("this GPU has no cooperative launches");
  constexpr int bytes = 120 * 1024;  // of shared memory: no use, but that a multiprocessor has one block
  check(cudaFuncSetAttribute(exchange<quads>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "120 KB of shared memory");
  const Stream stream;
  const Memory shared_memory(sizeof(Shared)), places((2 * std::size_t{blocks} * quads + 1) * sizeof(uint4));
  auto* shared = static_cast<Shared*>(static_cast<void*>(shared_memory));
  auto* first = static_cast<uint4*>(static_cast<void*>(places));
  const auto launch = [&] {
    check(cudaMemsetAsync(shared->arrived, 0, sizeof shared->arrived, stream), "cudaMemsetAsync");
    void* arguments[] = {&shared, &first};
    check(cudaLaunchCooperativeKernel(exchange<quads>, dim3(blocks), dim3(block_threads), arguments, bytes, stream),
          "cudaLaunchCooperativeKernel");
  };
  check(cudaMemsetAsync(shared, 0, sizeof(Shared), stream), "cudaMemsetAsync");
  launch();
  check(cudaStreamSynchronize(stream), "blocks that wait for each other");
  check_faults(&shared->faults);  // before it is done many times over
  std::vector<double> times = each(stream_times(stream, launch), microseconds_a_round);
  check_faults(&shared->faults);
  return times;
}

std::vector<double> read_times() {
  const Stream stream;
  const Memory memory(std::size_t{ranks} * read_quads * sizeof(uint4)), sum(sizeof(unsigned));
  fill<std::uint32_t>(memory, std::size_t{ranks} * read_quads * 4, stream);
  const auto launch = [&] {
    read_all<<<ranks * groups, block_threads, 0, stream>>>(static_cast<const uint4*>(static_cast<void*>(memory)),
                                                           static_cast<unsigned*>(static_cast<void*>(sum)));
    check(cudaGetLastError(), "read_all");
  };
  return each(stream_times(stream, launch), microseconds_a_round);
}

std::vector<double> push_times(const cudaDeviceProp& gpu) {
  require_clusters(gpu);
  constexpr int bytes = 2 * (ranks - 1) * pushed_quads * 16;
  check(cudaFuncSetAttribute(push, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "72 KB of shared memory");
  const Stream stream;
  const Memory memory(sizeof(Faults));
  auto* faults = static_cast<Faults*>(static_cast<void*>(memory));
  check(cudaMemsetAsync(faults, 0, sizeof *faults, stream), "cudaMemsetAsync");
  const auto launch = [&] {
    cudaLaunchAttribute cluster{};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim = {ranks, 1, 1};
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(ranks * groups);
    config.blockDim = dim3(block_threads);
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = &cluster;
    config.numAttrs = 1;
    check(cudaLaunchKernelEx(&config, push, faults), "cudaLaunchKernelEx");
  };
  std::vector<double> times = each(stream_times(stream, launch), microseconds_a_round);
  check_faults(faults);
  return times;
}

std::vector<double> block_product_times(const cudaDeviceProp& gpu) {
  if (gpu.major < 8) throw std::runtime_error("this GPU has no products in TF32");
  check(
      cudaFuncSetAttribute(block_product, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(product_bytes)),
      "the shared memory of a product");
  const Stream stream;
  const Memory memory(sizeof(float) * product_m * product_n);
  auto* result = static_cast<float*>(static_cast<void*>(memory));
  const auto launch = [&](unsigned blocks, int times, bool of_ones) {
    block_product<<<blocks, block_threads, product_bytes, stream>>>(times, of_ones, result);
    check(cudaGetLastError(), "block_product");
  };
  check(cudaMemsetAsync(result, 0, sizeof(float) * product_m * product_n, stream), "cudaMemsetAsync");
  launch(1, 1, true);
  std::vector<float> host(product_m * product_n);
  check(cudaMemcpyAsync(host.data(), result, sizeof(float) * host.size(), cudaMemcpyDeviceToHost, stream), "a copy");
  check(cudaStreamSynchronize(stream), "a product of ones");
  for (const float f : host)
    if (f != product_k) throw std::runtime_error("the product of ones is " + std::to_string(f) + ", not 500");
  return each(stream_times(stream, [&] { launch(ranks * groups, rounds, false); }), microseconds_a_round);
}

__global__ void __launch_bounds__(block_threads) roomy() {}

std::vector<double> active_clusters(const cudaDeviceProp& gpu, unsigned size) {
  require_clusters(gpu);
  constexpr int bytes = 203 * 1024;
  check(cudaFuncSetAttribute(roomy, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "203 KB of shared memory");
  if (size > 8)
    check(cudaFuncSetAttribute(roomy, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "clusters of more than 8 blocks");
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {size, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(size * 64);
  config.blockDim = dim3(block_threads);
  config.dynamicSmemBytes = bytes;
  config.attrs = &cluster;
  config.numAttrs = 1;
  int count = 0;
  check(cudaOccupancyMaxActiveClusters(&count, roomy, &config), "cudaOccupancyMaxActiveClusters");
  return {static_cast<double>(count)};
}

// ---- What comes out ------------------------------------------------------------------------------------------------

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    json += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return json + '"';
}

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

struct Measurement {
  std::string name, unit;
  std::function<std::vector<double>()> measure;
};

// A line of JSON: what it gives, or its error.
std::string figure(const Measurement& m) {
  std::string json = "{\"name\": " + quoted(m.name) + ", ";
  sm_clock_mhz = 0;
  try {
    std::vector<double> values = m.measure();
    std::sort(values.begin(), values.end());
    const auto quantile = [&](double q) {  // by the nearest rank
      return number(values[static_cast<std::size_t>(std::lround(q * static_cast<double>(values.size() - 1)))]);
    };
    json += "\"unit\": " + quoted(m.unit) + ", \"median\": " + quantile(0.5) + ", \"p10\": " + quantile(0.1) +
            ", \"p90\": " + quantile(0.9) + ", \"timings\": " + std::to_string(values.size());
    if (sm_clock_mhz > 0) json += ", \"sm_clock_mhz\": " + number(sm_clock_mhz);
  } catch (const std::exception& e) {
    json += "\"error\": " + quoted(e.what());
    cudaGetLastError();  // the next measurement shall not find it
    // A kernel's fault stays with the process; to begin anew is the best that can be tried.
    if (cudaDeviceSynchronize() != cudaSuccess) cudaDeviceReset();
    cudaGetLastError();
  }
  json += "}";
  std::fprintf(stderr, "%s\n", json.c_str());
  return json;
}

std::string describe(const cudaDeviceProp& gpu) {
  int driver = 0, runtime = 0;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  return "{\"name\": " + quoted(gpu.name) + ", \"compute_capability\": \"" + std::to_string(gpu.major) + "." +
         std::to_string(gpu.minor) + "\", \"multiprocessors\": " + std::to_string(gpu.multiProcessorCount) +
         ", \"memory_bytes\": " + std::to_string(gpu.totalGlobalMem) +
         ", \"l2_bytes\": " + std::to_string(gpu.l2CacheSize) + ", \"cuda_of_driver\": " + std::to_string(driver) +
         ", \"cuda_runtime\": " + std::to_string(runtime) + ", \"cublasLt\": " + std::to_string(cublasLtGetVersion()) +
         "}";
}

// The most telling first.
std::vector<Measurement> measurements(const cudaDeviceProp& gpu) {
  constexpr unsigned blocks = ranks * groups;
  std::vector<Measurement> all = {
      {"copy by a kernel", "GB/s", [] { return copy_rates(true); }},
      {"copy by cudaMemcpyAsync", "GB/s", [] { return copy_rates(false); }},
      {"node of a graph", "us", graph_nodes},
      {"launch in a stream", "us", stream_launches},
      {"launch of one kernel, and the wait", "us", one_launch},
      {"launch of a graph of one node, and the wait", "us", one_node},
      {"persistent: barrier of 32 blocks and a message, 1 barrier at a time", "us",
       [=] { return exchange_times<groups>(gpu, groups); }},
      {"persistent: barrier of 32 blocks and a message, 4 barriers at a time", "us",
       [=] { return exchange_times<groups>(gpu, blocks); }},
      {"persistent: barrier of 32 blocks alone, 4 at a time", "us", [=] { return exchange_times<0>(gpu, blocks); }},
      {"persistent: 50 KB from each of 32 blocks to all, and the barrier", "us",
       [=] { return exchange_times<100 * groups>(gpu, blocks); }},
      {"persistent: 128 KB read by each of 128 blocks from L2", "us", read_times},
      {"persistent: 36 KB pushed to the other 3 blocks of a cluster, and its barrier", "us",
       [=] { return push_times(gpu); }},
      {"persistent: product m32n24k500 in TF32 by a block", "us", [=] { return block_product_times(gpu); }},
  };
  for (const unsigned size : {4u, 8u, 16u})
    all.push_back({"persistent: active clusters of " + std::to_string(size) + " blocks with 203 KB each", "clusters",
                   [=] { return active_clusters(gpu, size); }});
  for (const unsigned size : {2u, 4u, 8u, 16u})
    all.push_back(
        {"cluster barrier of " + std::to_string(size) + " blocks", "us", [=] { return cluster_barrier(gpu, size); }});
  all.push_back({"grid barrier", "us", [=] { return grid_barrier(gpu); }});
  all.push_back(
      {"product in TF32", "TFLOP/s", [] { return product_rates<float>(CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32); }});
  all.push_back(
      {"product in bf16", "TFLOP/s", [] { return product_rates<__nv_bfloat16>(CUDA_R_16BF, CUBLAS_COMPUTE_32F); }});
  all.push_back({"product in fp32", "TFLOP/s", [] { return product_rates<float>(CUDA_R_32F, CUBLAS_COMPUTE_32F); }});
  return all;
}

struct Options {
  std::string file;               // empty: standard output
  std::vector<std::string> only;  // empty: everything
  double warmup = 0.5;
};

Options parse(int count, char** arguments) {
  const auto refuse = [](const std::string& why) {
    throw std::runtime_error(why + "; usage: ceilings [FILE] [--only WORD...] [--warmup SECONDS]");
  };
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string word = arguments[i];
    if (word == "--only") {
      while (i + 1 < count && std::string(arguments[i + 1]).rfind("--", 0) != 0) options.only.push_back(arguments[++i]);
      if (options.only.empty()) refuse("--only: of what?");
    } else if (word == "--warmup") {
      char* end = nullptr;
      const char* const text = i + 1 < count ? arguments[++i] : "";
      options.warmup = std::strtod(text, &end);
      if (end == text || *end || !(options.warmup >= 0 && options.warmup <= 60)) refuse("--warmup: 0 to 60 seconds");
    } else if (word.rfind("--", 0) != 0 && options.file.empty()) {
      options.file = word;
    } else {
      refuse(word + ": what is that?");
    }
  }
  return options;
}

// All or nothing, so that a file that is there is whole.
void write(const std::string& path, const std::string& text) {
  const std::string unfinished = path + ".tmp";
  std::FILE* file = std::fopen(unfinished.c_str(), "w");
  if (!file) throw std::runtime_error("cannot write " + path);
  const bool written = std::fputs(text.c_str(), file) >= 0;
  if (std::fclose(file) != 0 || !written || std::rename(unfinished.c_str(), path.c_str()) != 0)
    throw std::runtime_error("cannot write " + path);
}

void measure_all(const Options& options) {
  int count = 0;
  check(cudaGetDeviceCount(&count), "there is no GPU that CUDA can use");
  cudaDeviceProp gpu;
  check(cudaGetDeviceProperties(&gpu, 0), "cudaGetDeviceProperties");
  std::string names;
  std::vector<Measurement> chosen;
  for (Measurement& m : measurements(gpu)) {
    names += "\n  " + m.name;
    const auto named = [&](const std::string& word) { return m.name.find(word) != std::string::npos; };
    if (options.only.empty() || std::any_of(options.only.begin(), options.only.end(), named)) chosen.push_back(m);
  }
  if (chosen.empty()) throw std::runtime_error("nothing of that name is measured; there are" + names);

  std::string figures;
  const std::string begin = "{\n  \"gpu\": " + describe(gpu) + ",\n  \"figures\": [", end = "\n  ]\n}\n";
  if (!options.file.empty()) write(options.file, begin + end);
  sm_clock();  // before anything is timed
  if (options.warmup > 0) warm_gpu(options.warmup);
  for (const Measurement& m : chosen) {
    figures += (figures.empty() ? "\n    " : ",\n    ") + figure(m);
    if (!options.file.empty()) write(options.file, begin + figures + end);
  }
  if (options.file.empty() && (std::fputs((begin + figures + end).c_str(), stdout) < 0 || std::fflush(stdout) != 0))
    throw std::runtime_error("the figures could not be written");
}

}  // namespace

int main(int count, char** arguments) {
  try {
    measure_all(parse(count, arguments));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ceilings: %s\n", e.what());
    return 1;
  }
}
