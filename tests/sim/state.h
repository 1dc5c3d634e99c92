// What the stand-in for the CUDA runtime keeps: shared by memory.cpp and streams.cpp.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/sim/fiber.h"
#include "tests/sim/runtime.h"

namespace cusim {

// A point in a stream's work, made by cudaEventRecord.
struct Marker {
  CUstream_st* stream = nullptr;
  bool reached = false;
  std::chrono::steady_clock::time_point time{};
  char order = 0;  // an address for release() and acquire(), here and below
};

// An entry of a stream: waits for a marker, works, reaches a marker; each may be absent.
struct Task {
  std::shared_ptr<Marker> wait;
  std::function<void()> work;
  Label label;  // of the work
  std::uint32_t correlation = 0;
  std::shared_ptr<Marker> reach;
  char order = 0;
};

// Calls on their way into a graph.
struct Capture {
  CUstream_st* origin = nullptr;
  cudaStreamCaptureMode mode{};
  std::thread::id thread = std::this_thread::get_id();
  bool valid = true;
  std::vector<std::shared_ptr<CUgraphNode_st>> nodes;
  std::vector<CUstream_st*> streams;  // that take part, the origin first
};

struct Allocation {
  std::size_t bytes = 0;
  bool pinned = false;
};

struct State {
  std::recursive_mutex mutex;  // held by every call
  std::string fault;           // of a kernel; empty: none yet
  std::uint64_t enqueued = 0;  // calls of enqueue() that were accepted
  std::map<std::uintptr_t, Allocation> allocations;
  std::size_t device_bytes = 0;
  std::set<CUstream_st*> streams;  // the default stream is not among them
  std::set<CUevent_st*> events;
  std::set<CUgraph_st*> graphs;
  std::set<CUgraphExec_st*> execs;
  std::vector<std::shared_ptr<Capture>> captures;      // under way
  std::optional<bool> strict;                          // as set; else ELBO_SIM_STRICT says
  std::set<std::pair<std::string, const void*>> used;  // see use()
  Watcher* watcher = nullptr;
  std::uint32_t correlations = 0;  // of labelled work, handed out so far
  std::uint64_t nodes = 0;         // of all graphs
};
State& state();

// Remembers, for cudaGetErrorString, why a call fails.
cudaError_t refuse(cudaError_t, std::string why);
// What a call that did its part returns: cudaSuccess, unless a kernel has failed.
cudaError_t outcome();

// Runs all work that is queued, and orders it before what the caller does next.
void finish_all();
void finish(cudaStream_t);

// cudaErrorStreamCapture... where a capture under way forbids `call`, which then fails as well.
cudaError_t forbidden_in_capture(const char* call);
bool is_capturing(cudaStream_t);

// ---- Memory ------------------------------------------------------------------------------------------------

enum class Kind : std::uint8_t { pageable, pinned, device, overrun };  // overrun: begins in an allocation, leaves it
Kind kind_of(const void*, std::size_t bytes);

}  // namespace cusim

struct CUgraphNode_st {
  std::function<void()> work;
  cusim::Label label;
  std::uint64_t number = 0;
  std::vector<CUgraphNode_st*> after;
  unsigned branch = 0;  // which of the capture's streams queued it
  bool ran = false;
  char order = 0;
};

struct CUgraph_st {
  std::vector<std::shared_ptr<CUgraphNode_st>> nodes;
  unsigned branches = 1;
};

struct CUgraphExec_st {
  std::vector<std::shared_ptr<CUgraphNode_st>> nodes;
  std::vector<std::unique_ptr<cusim::Strand>> branches;
  char order = 0;
};

struct CUstream_st {
  unsigned flags = 0;
  std::deque<std::shared_ptr<cusim::Task>> tasks;
  cusim::Strand strand;
  char order = 0;
  // While it is captured: the nodes that its next call comes after.
  std::shared_ptr<cusim::Capture> capture;
  unsigned branch = 0;
  std::vector<CUgraphNode_st*> tips;
};

struct CUevent_st {
  bool timed = true;
  std::shared_ptr<cusim::Marker> marker;  // of its last record; null: none yet
  // Where that was captured.
  std::weak_ptr<cusim::Capture> capture;
  bool captured = false;
  std::vector<CUgraphNode_st*> tips;
};
