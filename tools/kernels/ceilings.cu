// What a GPU can do at best, measured: the figures that everything else is judged by. tools/gpu_check.sh runs it.
//
//   ceilings [FILE]      JSON, to FILE or to standard output
//
// Copies of random data, matrix products, launches, barriers: for each the median, the 10th and the 90th percentile of
// 30 timings or more. One that fails has its error instead, and the others are measured. All loops are bounded. Exit
// status: 0, or 1 where there is no GPU or FILE cannot be written.
#include <cooperative_groups.h>
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr int warmups = 3, repeats = 30;

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

// Milliseconds that the stream takes for `work`, each time.
template <class Work>
std::vector<double> stream_times(cudaStream_t stream, const Work& work) {
  const Event begin, end;
  std::vector<double> times;
  for (int i = 0; i < warmups + repeats; ++i) {
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    work();
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "the work on the GPU");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (i >= warmups) times.push_back(milliseconds);
  }
  return times;
}

// Milliseconds by the host's clock until `work` is done, each time.
template <class Work>
std::vector<double> host_times(cudaStream_t stream, const Work& work) {
  std::vector<double> times;
  for (int i = 0; i < warmups + 10 * repeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    check(cudaStreamSynchronize(stream), "the work on the GPU");
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    if (i >= warmups) times.push_back(time.count());
  }
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

std::vector<double> copy_rates(bool by_kernel) {
  const Stream stream;
  const Memory from(copied_bytes), to(copied_bytes);
  fill<std::uint32_t>(from, copied_bytes / 4, stream);
  constexpr std::size_t block = sizeof(uint4) * copy_threads * quads_per_thread;
  static_assert(copied_bytes % block == 0);
  const std::vector<double> times = stream_times(stream, [&] {
    if (by_kernel) {
      copy_quads<<<copied_bytes / block, copy_threads, 0, stream>>>(static_cast<const uint4*>(static_cast<void*>(from)),
                                                                    static_cast<uint4*>(static_cast<void*>(to)));
      check(cudaGetLastError(), "copy_quads");
    } else {
      check(cudaMemcpyAsync(to, from, copied_bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
    }
  });
  return each(times, [](double ms) { return 2e-6 * copied_bytes / ms; });
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

struct Graph : Owner<cudaGraph_t, cudaGraphDestroy> {
  Graph(int nodes, cudaStream_t stream)
      : Owner("the capture of a graph", [=](cudaGraph_t* graph) {
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

// A line of JSON: what `measure` gives, or its error.
template <class Measure>
std::string figure(const char* name, const char* unit, const Measure& measure) {
  std::string json = "{\"name\": " + quoted(name) + ", ";
  try {
    std::vector<double> values = measure();
    std::sort(values.begin(), values.end());
    const auto quantile = [&](double q) {  // by the nearest rank
      return number(values[static_cast<std::size_t>(std::lround(q * static_cast<double>(values.size() - 1)))]);
    };
    json += "\"unit\": " + quoted(unit) + ", \"median\": " + quantile(0.5) + ", \"p10\": " + quantile(0.1) +
            ", \"p90\": " + quantile(0.9) + ", \"timings\": " + std::to_string(values.size()) + "}";
  } catch (const std::exception& e) {
    cudaGetLastError();  // the next measurement shall not find it
    json += "\"error\": " + quoted(e.what()) + "}";
  }
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

std::string measure_all() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "there is no GPU that CUDA can use");
  cudaDeviceProp gpu;
  check(cudaGetDeviceProperties(&gpu, 0), "cudaGetDeviceProperties");
  std::vector<std::string> figures = {
      figure("copy by cudaMemcpyAsync", "GB/s", [] { return copy_rates(false); }),
      figure("copy by a kernel", "GB/s", [] { return copy_rates(true); }),
      figure("product in fp32", "TFLOP/s", [] { return product_rates<float>(CUDA_R_32F, CUBLAS_COMPUTE_32F); }),
      figure("product in TF32", "TFLOP/s",
             [] { return product_rates<float>(CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32); }),
      figure("product in bf16", "TFLOP/s",
             [] { return product_rates<__nv_bfloat16>(CUDA_R_16BF, CUBLAS_COMPUTE_32F); }),
      figure("launch in a stream", "us", stream_launches),
      figure("launch of one kernel, and the wait", "us", one_launch),
      figure("node of a graph", "us", graph_nodes),
      figure("launch of a graph of one node, and the wait", "us", one_node),
      figure("grid barrier", "us", [&] { return grid_barrier(gpu); }),
  };
  for (const unsigned size : {2u, 4u, 8u, 16u})
    figures.push_back(figure(("cluster barrier of " + std::to_string(size) + " blocks").c_str(), "us",
                             [&] { return cluster_barrier(gpu, size); }));
  std::string json = "{\n  \"gpu\": " + describe(gpu) + ",\n  \"figures\": [";
  for (std::size_t i = 0; i < figures.size(); ++i) json += (i ? ",\n    " : "\n    ") + figures[i];
  return json + "\n  ]\n}\n";
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const std::string json = measure_all();
    std::FILE* file = count > 1 ? std::fopen(arguments[1], "w") : stdout;
    if (!file) throw std::runtime_error(std::string("cannot write ") + arguments[1]);
    const bool written = std::fputs(json.c_str(), file) >= 0 && std::fflush(file) == 0;
    if (!written) throw std::runtime_error("the figures could not be written");
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ceilings: %s\n", e.what());
    return 1;
  }
}
