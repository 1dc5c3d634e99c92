// A stand-in for the part of the CUDA runtime API that cuda/ uses, with its types, values and rules. What
// the calls do is NVIDIA's documentation; what they do here beyond it:
//
// - Work runs on the thread that waits for it. In forward order it runs as soon as it is queued; in reverse
//   and random order as late as the calls allow, so that a missing wait changes the result.
// - Device and pinned memory is filled with 0xFF, and again when it is freed. Freeing twice and a copy
//   that leaves its allocation or goes the wrong way are errors; what is not freed is listed at exit.
// - A kernel's fault (executor.h) is cudaErrorLaunchFailure, whose cudaGetErrorString is what happened and
//   where. Like on a GPU it stays: every later call fails with it.
// - To ThreadSanitizer each stream is a thread, ordered by events and synchronising calls alone.
// - It is strict: while the calling thread captures, in whatever mode, it allocates and frees nothing, and what is used
//   for the first time then is refused: a GPU would load a kernel's code, or choose a library's algorithm, in the
//   middle of the capture. ELBO_SIM_STRICT=0 allows both, as a relaxed capture does.
//
// The memory that the device has is ELBO_SIM_MEMORY bytes, or 4 GiB.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tests/sim/executor.h"
#include "tests/sim/vectors.h"

#define CUDART_VERSION 13000

enum cudaError {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidMemcpyDirection = 21,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorIllegalState = 401,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureMerge = 902,
  cudaErrorStreamCaptureUnmatched = 903,
  cudaErrorStreamCaptureUnjoined = 904,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorStreamCaptureImplicit = 906,
  cudaErrorCapturedEvent = 907,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone,
  cudaStreamCaptureStatusActive,
  cudaStreamCaptureStatusInvalidated
};
using cudaError_t = cudaError;
using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;
using cudaGraphNode_t = struct CUgraphNode_st*;

inline constexpr unsigned cudaStreamDefault = 0, cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2;
inline constexpr unsigned cudaHostAllocDefault = 0, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2;

struct cudaDeviceProp {
  char name[256];
  std::size_t totalGlobalMem, sharedMemPerBlock;
  int major, minor, multiProcessorCount, warpSize, maxThreadsPerBlock, l2CacheSize;
};

// How an edge of a graph was made; here always in the default way.
struct cudaGraphEdgeData {
  unsigned char from_port, to_port, type, reserved[5];
};

const char* cudaGetErrorName(cudaError_t);
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();

cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaSetDevice(int);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int device);
cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device);
cudaError_t cudaDriverGetVersion(int*);
cudaError_t cudaRuntimeGetVersion(int*);
cudaError_t cudaDeviceSynchronize();

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMalloc(void**, std::size_t bytes);
cudaError_t cudaFree(void*);
cudaError_t cudaHostAlloc(void**, std::size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void*);
template <class T>
cudaError_t cudaMalloc(T** p, std::size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(p), bytes);
}
template <class T>
cudaError_t cudaHostAlloc(T** p, std::size_t bytes, unsigned flags) {
  return cudaHostAlloc(reinterpret_cast<void**>(p), bytes, flags);
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t = nullptr);
cudaError_t cudaMemset(void*, int byte, std::size_t bytes);
cudaError_t cudaMemsetAsync(void*, int byte, std::size_t bytes, cudaStream_t = nullptr);

cudaError_t cudaStreamCreate(cudaStream_t*);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t*, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamQuery(cudaStream_t);
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned flags = 0);

cudaError_t cudaEventCreate(cudaEvent_t*);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t);
cudaError_t cudaEventQuery(cudaEvent_t);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*);
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus*);
cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t*, std::size_t* count);
cudaError_t cudaGraphGetEdges(cudaGraph_t, cudaGraphNode_t* from, cudaGraphNode_t* to, cudaGraphEdgeData*,
                              std::size_t* count);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaGraphDestroy(cudaGraph_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);

namespace cusim {

// What a piece of work is, to a profiler; `none` is not told.
struct Label {
  enum class Kind : std::uint8_t { none, kernel, copy, fill };
  Kind kind = Kind::none;
  const char* name = "";  // of a kernel, and its size
  unsigned blocks = 0, threads = 0;
  cudaMemcpyKind direction{};  // of a copy
  std::size_t bytes = 0;       // that are copied or filled
};

// Queues host code in a stream, or records it where the stream is being captured.
cudaError_t enqueue(cudaStream_t, std::function<void()>, const Label& = {});
// How often that was so far; a replayed graph is one.
std::uint64_t enqueued();

// Is told of every labelled piece of work.
class Watcher {
 public:
  virtual ~Watcher() = default;
  // It was queued by this thread. What a capture takes in is not.
  virtual void queued(std::uint32_t correlation) = 0;
  // It ran, in nanoseconds of the host's clock. node: of the graph that was replayed, counted from 1; else 0.
  virtual void ran(const Label&, cudaStream_t, std::uint32_t correlation, std::uint64_t node, std::uint64_t begin,
                   std::uint64_t end) = 0;
};
void watch(Watcher*);  // null: nobody

// Strict from now on, or not; without a word, ELBO_SIM_STRICT is read whenever it matters.
void set_strict(std::optional<bool>);
// Notes that `what` is used (a kernel: its name and function). Fails where a strict device is being captured and this
// is its first use since the last of all streams was destroyed, so that one test does not load for another.
cudaError_t use(const std::string& what, const void* function = nullptr);

// The launch bounds of a kernel, known from when the program starts.
struct Bounds {
  unsigned threads;
  constexpr Bounds(unsigned most_threads, unsigned /*least_blocks*/ = 1) : threads(most_threads) {}
};
bool promise(const void* kernel, Bounds);
template <auto kernel, Bounds bounds>
struct Promise {
  static const bool made;
};
template <auto kernel, Bounds bounds>
const bool Promise<kernel, bounds>::made = promise(reinterpret_cast<const void*>(kernel), bounds);
inline void keep(const bool&) {}
// cudaErrorInvalidValue for a block of more threads than the kernel's bounds promise.
cudaError_t keep_bounds(const void* kernel, unsigned threads, const char* name);

// Queues a kernel with a copy of its parameters.
template <class... P>
cudaError_t launch(void (*kernel)(P...), unsigned blocks, unsigned threads, cudaStream_t stream,
                   std::tuple<P...> parameters, const char* name = "") {
  if (blocks == 0 || threads == 0 || threads > 1024 || blocks > 0x7fffffffu) return cudaErrorInvalidConfiguration;
  if (const cudaError_t e = keep_bounds(reinterpret_cast<const void*>(kernel), threads, name)) return e;
  if (const cudaError_t e = use(name, reinterpret_cast<const void*>(kernel))) return e;
  return enqueue(stream, [=] { run_grid(blocks, threads, kernel, parameters); },
                 {Label::Kind::kernel, name, blocks, threads});
}

// What is still allocated or not destroyed, a line each; empty when there is nothing.
std::vector<std::string> leaks();

// Drops queued work, captures and a fault. Memory, streams and events stay.
void reset();

}  // namespace cusim
