// Streams, events and graphs of the simulated device: when queued work runs, and what may be recorded.
// Built without ThreadSanitizer's instrumentation: a strand and its caller share what they hand over here.
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <utility>

#include "tests/sim/state.h"

namespace cusim {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string last_reason;

CUstream_st& default_stream() {
  static auto* stream = new CUstream_st;
  return *stream;
}
CUstream_st& stream_of(cudaStream_t s) { return s ? *s : default_stream(); }

bool known(cudaStream_t s) { return !s || state().streams.count(s) > 0; }
cudaError_t no_such(const char* what) {
  return refuse(cudaErrorInvalidResourceHandle, std::string("no such ") + what + ", or not any more");
}

// ---- Running what is queued ------------------------------------------------------------------------------

void step(CUstream_st&);

std::uint64_t nanoseconds() {
  return static_cast<std::uint64_t>(
      std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

// Runs `work` on the strand and tells the watcher.
void run_labelled(Strand& strand, const std::function<void()>& work, const Label& label, CUstream_st& stream,
                  std::uint32_t correlation, std::uint64_t node) {
  const std::uint64_t begin = nanoseconds();
  strand.run(work);
  if (label.kind != Label::Kind::none && state().watcher && state().fault.empty())
    state().watcher->ran(label, &stream, correlation, node, begin, nanoseconds());
}

void reach(Marker& m) {
  while (!m.reached && !m.stream->tasks.empty()) step(*m.stream);
}

// Runs the first task of a stream that has one.
void step(CUstream_st& s) {
  std::shared_ptr<Task> task = std::move(s.tasks.front());
  s.tasks.pop_front();
  const std::shared_ptr<Marker> reached = task->reach;
  const Label label = task->label;
  const std::uint32_t correlation = task->correlation;
  if (task->wait) reach(*task->wait);
  try {
    const auto work = [&] {
      const std::shared_ptr<Task> own = std::move(task);  // destroyed by the strand, which uses what it holds
      acquire(&own->order);
      if (own->wait) acquire(&own->wait->order);
      if (own->work && state().fault.empty()) own->work();
      if (reached) release(&reached->order);
      release(&s.order);
    };
    run_labelled(s.strand, work, label, s, correlation, 0);
  } catch (const std::exception& e) {
    state().fault = e.what();
  }
  if (reached) {
    reached->reached = true;
    reached->time = std::chrono::steady_clock::now();
  }
}

void run_all(CUstream_st& s) {
  while (!s.tasks.empty()) step(s);
}

void drop_work(CUstream_st& s) {
  for (const auto& task : s.tasks)
    if (task->reach) task->reach->reached = true;
  s.tasks.clear();
}

// In random order, some of the queued work runs early.
void run_some() {
  if (order() != Order::random) return;
  for (CUstream_st* s : state().streams)
    while (!s->tasks.empty() && draw() % 4 == 0) step(*s);
}

void add(CUstream_st& s, std::shared_ptr<Task> task) {
  // The default stream and the blocking ones wait for each other.
  if (&s == &default_stream()) {
    for (CUstream_st* other : state().streams) {
      if (other->flags & cudaStreamNonBlocking) continue;
      run_all(*other);
      acquire(&other->order);
    }
  } else if (!(s.flags & cudaStreamNonBlocking)) {
    run_all(default_stream());
    acquire(&default_stream().order);
  }
  release(&task->order);
  s.tasks.push_back(std::move(task));
  if (schedule().order == Order::forward) run_all(s);
  run_some();
}

// ---- Capture ---------------------------------------------------------------------------------------------

cudaError_t invalidate(Capture& c, cudaError_t error, std::string why) {
  c.valid = false;
  return refuse(error, std::move(why));
}

// The default stream must not be used while a stream is captured that it would wait for.
cudaError_t implicit_dependency(const char* call) {
  for (const auto& c : state().captures)
    for (const CUstream_st* s : c->streams)
      if (!(s->flags & cudaStreamNonBlocking))
        return invalidate(
            *c, cudaErrorStreamCaptureImplicit,
            std::string(call) + " on the default stream, which waits for a stream that is being captured");
  return cudaSuccess;
}

void leave(Capture& c) {
  for (CUstream_st* s : c.streams) {
    s->capture = nullptr;
    s->tips.clear();
    s->branch = 0;
  }
  std::erase_if(state().captures, [&](const auto& other) { return other.get() == &c; });
}

bool is_strict() {
  if (state().strict) return *state().strict;
  const char* given = std::getenv("ELBO_SIM_STRICT");
  return !given || std::string(given) != "0";
}

bool all_joined(const Capture& c) {
  std::set<const CUgraphNode_st*> found;
  std::vector<const CUgraphNode_st*> open(c.origin->tips.begin(), c.origin->tips.end());
  while (!open.empty()) {
    const CUgraphNode_st* node = open.back();
    open.pop_back();
    if (found.insert(node).second) open.insert(open.end(), node->after.begin(), node->after.end());
  }
  return found.size() == c.nodes.size();
}

// ---- Graphs ----------------------------------------------------------------------------------------------

void run_node(CUgraphExec_st& exec, CUgraphNode_st& node, CUstream_st& stream) {
  const auto work = [&] {
    acquire(&exec.order);
    for (CUgraphNode_st* before : node.after) acquire(&before->order);
    node.work();
    release(&node.order);
  };
  run_labelled(*exec.branches[node.branch], work, node.label, stream, 0, node.number);
  node.ran = true;
}

// In an order that the dependencies allow: as recorded, or the last or any one of those that are ready.
void run_graph(CUgraphExec_st& exec, CUstream_st& stream) {
  release(&exec.order);
  for (const auto& node : exec.nodes) node->ran = false;
  const Order chosen = order();
  for (std::size_t n = exec.nodes.size(); n > 0; --n) {
    std::vector<CUgraphNode_st*> ready;
    for (const auto& node : exec.nodes) {
      if (node->ran) continue;
      if (std::all_of(node->after.begin(), node->after.end(), [](const auto* b) { return b->ran; }))
        ready.push_back(node.get());
      if (chosen == Order::forward && !ready.empty()) break;
    }
    run_node(exec, *ready[chosen == Order::random ? draw() % ready.size() : ready.size() - 1], stream);
  }
  for (const auto& node : exec.nodes) acquire(&node->order);
}

}  // namespace

State& state() {
  static auto* s = new State;
  return *s;
}

cudaError_t refuse(cudaError_t error, std::string why) {
  last_error = error;
  last_reason = std::move(why);
  return error;
}

cudaError_t outcome() { return state().fault.empty() ? cudaSuccess : refuse(cudaErrorLaunchFailure, state().fault); }

void finish(cudaStream_t stream) {
  CUstream_st& s = stream_of(stream);
  run_all(s);
  acquire(&s.order);
}

void finish_all() {
  finish(nullptr);
  for (CUstream_st* s : state().streams) finish(s);
}

bool is_capturing(cudaStream_t s) { return s && s->capture; }

cudaError_t forbidden_in_capture(const char* call) {
  for (const auto& c : state().captures) {
    if (c->mode == cudaStreamCaptureModeRelaxed && !is_strict()) continue;
    if (c->mode != cudaStreamCaptureModeGlobal && c->thread != std::this_thread::get_id()) continue;
    return invalidate(*c, cudaErrorStreamCaptureUnsupported,
                      std::string(call) + " is not permitted while a stream is being captured");
  }
  return cudaSuccess;
}

void set_strict(std::optional<bool> strict) {
  std::lock_guard lock(state().mutex);
  state().strict = strict;
}

cudaError_t use(const std::string& what, const void* function) {
  std::lock_guard lock(state().mutex);
  std::pair key{what, function};
  if (state().used.count(key)) return cudaSuccess;
  for (const auto& c : state().captures)
    if (is_strict() && c->thread == std::this_thread::get_id())
      return invalidate(*c, cudaErrorStreamCaptureUnsupported,
                        what +
                            " is used for the first time while a stream is being captured: on a GPU it would be "
                            "loaded or looked up now; do the calls once before they are recorded");
  state().used.insert(std::move(key));
  return cudaSuccess;
}

namespace {
std::map<const void*, Bounds>& promises() {
  static auto* all = new std::map<const void*, Bounds>;
  return *all;
}
}  // namespace

bool promise(const void* kernel, Bounds bounds) { return promises().insert_or_assign(kernel, bounds).second; }

cudaError_t keep_bounds(const void* kernel, unsigned threads, const char* name) {
  const auto promised = promises().find(kernel);
  if (promised == promises().end() || threads <= promised->second.threads) return cudaSuccess;
  return refuse(cudaErrorInvalidValue, std::string(name) + " is launched with " + std::to_string(threads) +
                                           " threads a block; its launch bounds promise " +
                                           std::to_string(promised->second.threads) + " at most");
}

void watch(Watcher* watcher) {
  std::lock_guard lock(state().mutex);
  state().watcher = watcher;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work, const Label& label) {
  std::lock_guard lock(state().mutex);
  if (!known(stream)) return no_such("stream");
  CUstream_st& s = stream_of(stream);
  if (s.capture) {
    if (!s.capture->valid) return refuse(cudaErrorStreamCaptureInvalidated, "the capture has failed before");
    auto node = std::make_shared<CUgraphNode_st>();
    node->work = std::move(work);
    node->label = label;
    node->number = ++state().nodes;
    node->after = std::exchange(s.tips, {node.get()});
    node->branch = s.branch;
    s.capture->nodes.push_back(std::move(node));
    ++state().enqueued;
    return outcome();
  }
  if (!stream) {
    if (const cudaError_t e = implicit_dependency("work")) return e;
  }
  auto task = std::make_shared<Task>();
  task->work = std::move(work);
  task->label = label;
  if (label.kind != Label::Kind::none) {
    task->correlation = ++state().correlations;
    if (state().watcher) state().watcher->queued(task->correlation);
  }
  add(s, std::move(task));
  ++state().enqueued;
  return outcome();
}

std::uint64_t enqueued() {
  std::lock_guard lock(state().mutex);
  return state().enqueued;
}

std::vector<std::string> leaks() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  std::vector<std::string> lines;
  for (const auto& [address, a] : s.allocations)
    lines.push_back(std::to_string(a.bytes) + " bytes of " + (a.pinned ? "pinned" : "device") +
                    " memory were never freed");
  const auto count = [&](std::size_t n, const char* what) {
    if (n > 0) lines.push_back(std::to_string(n) + " " + what + (n > 1 ? "s were" : " was") + " never destroyed");
  };
  count(s.streams.size(), "stream");
  count(s.events.size(), "event");
  count(s.graphs.size(), "graph");
  count(s.execs.size(), "executable graph");
  return lines;
}

void reset() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  while (!s.captures.empty()) leave(*std::shared_ptr(s.captures.back()));
  drop_work(default_stream());
  for (CUstream_st* stream : s.streams) drop_work(*stream);
  s.fault.clear();
  last_error = cudaSuccess;
}

}  // namespace cusim

using namespace cusim;

// ---- Errors --------------------------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
#define NAME(error) \
  case error: return #error;
    NAME(cudaSuccess)
    NAME(cudaErrorInvalidValue)
    NAME(cudaErrorMemoryAllocation)
    NAME(cudaErrorInvalidConfiguration)
    NAME(cudaErrorInvalidMemcpyDirection)
    NAME(cudaErrorInsufficientDriver)
    NAME(cudaErrorNoDevice)
    NAME(cudaErrorInvalidDevice)
    NAME(cudaErrorInvalidResourceHandle)
    NAME(cudaErrorIllegalState)
    NAME(cudaErrorNotReady)
    NAME(cudaErrorLaunchFailure)
    NAME(cudaErrorStreamCaptureUnsupported)
    NAME(cudaErrorStreamCaptureInvalidated)
    NAME(cudaErrorStreamCaptureMerge)
    NAME(cudaErrorStreamCaptureUnmatched)
    NAME(cudaErrorStreamCaptureUnjoined)
    NAME(cudaErrorStreamCaptureIsolation)
    NAME(cudaErrorStreamCaptureImplicit)
    NAME(cudaErrorCapturedEvent)
#undef NAME
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t e) {
  if (e == cudaSuccess) return "no error";
  return e == last_error && !last_reason.empty() ? last_reason.c_str() : cudaGetErrorName(e);
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
// ---- Streams -------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreate(cudaStream_t* s) { return cudaStreamCreateWithFlags(s, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned flags) {
  std::lock_guard lock(state().mutex);
  *s = new CUstream_st;
  (*s)->flags = flags;
  state().streams.insert(*s);
  return outcome();
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
  std::lock_guard lock(state().mutex);
  if (!s || !known(s)) return no_such("stream");
  if (s->capture) leave(*std::shared_ptr(s->capture));
  finish(s);
  state().streams.erase(s);
  if (state().streams.empty()) state().used.clear();
  delete s;
  return outcome();
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  std::lock_guard lock(state().mutex);
  if (!known(s)) return no_such("stream");
  if (is_capturing(s))
    return invalidate(*s->capture, cudaErrorStreamCaptureUnsupported,
                      "the stream is being captured: nothing to wait for");
  if (!s) {
    if (const cudaError_t e = implicit_dependency("a wait")) return e;
  }
  finish(s);
  return outcome();
}

cudaError_t cudaStreamQuery(cudaStream_t s) {
  std::lock_guard lock(state().mutex);
  if (!known(s)) return no_such("stream");
  if (is_capturing(s))
    return invalidate(*s->capture, cudaErrorStreamCaptureUnsupported,
                      "the stream is being captured: nothing to wait for");
  CUstream_st& stream = stream_of(s);
  if (!stream.tasks.empty()) {
    step(stream);
    return cudaErrorNotReady;
  }
  acquire(&stream.order);
  return outcome();
}

cudaError_t cudaDeviceSynchronize() {
  std::lock_guard lock(state().mutex);
  if (!state().captures.empty())
    return invalidate(*state().captures.front(), cudaErrorStreamCaptureUnsupported,
                      "cudaDeviceSynchronize is not permitted while a stream is being captured");
  finish_all();
  return outcome();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  std::lock_guard lock(state().mutex);
  if (!known(stream)) return no_such("stream");
  if (!state().events.count(event)) return no_such("event");
  CUstream_st& s = stream_of(stream);
  if (event->captured) {
    const std::shared_ptr<Capture> capture = event->capture.lock();
    if (!capture || !stream) return refuse(cudaErrorCapturedEvent, "the event was recorded in a capture that is over");
    if (!s.capture) {
      s.capture = capture;
      s.branch = static_cast<unsigned>(capture->streams.size());
      capture->streams.push_back(&s);
    } else if (s.capture != capture) {
      s.capture->valid = false;
      return invalidate(*capture, cudaErrorStreamCaptureMerge, "a wait would join two captures");
    }
    for (CUgraphNode_st* tip : event->tips)
      if (std::find(s.tips.begin(), s.tips.end(), tip) == s.tips.end()) s.tips.push_back(tip);
    return outcome();
  }
  if (!event->marker) return outcome();  // never recorded: nothing to wait for
  if (s.capture)
    return invalidate(*s.capture, cudaErrorStreamCaptureIsolation,
                      "a captured stream would wait for an event that was recorded outside the capture");
  auto task = std::make_shared<Task>();
  task->wait = event->marker;
  add(s, std::move(task));
  return outcome();
}

// ---- Events --------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, cudaEventDefault); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) {
  std::lock_guard lock(state().mutex);
  *e = new CUevent_st;
  (*e)->timed = !(flags & cudaEventDisableTiming);
  state().events.insert(*e);
  return outcome();
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
  std::lock_guard lock(state().mutex);
  if (state().events.erase(e) == 0) return no_such("event");
  delete e;
  return outcome();
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  std::lock_guard lock(state().mutex);
  if (!known(stream)) return no_such("stream");
  if (!state().events.count(event)) return no_such("event");
  CUstream_st& s = stream_of(stream);
  event->captured = s.capture != nullptr;
  event->capture = s.capture;
  event->tips = s.tips;
  event->marker = nullptr;
  if (s.capture) return outcome();
  if (!stream) {
    if (const cudaError_t e = implicit_dependency("an event")) return e;
  }
  auto task = std::make_shared<Task>();
  task->reach = event->marker = std::make_shared<Marker>();
  task->reach->stream = &s;
  add(s, std::move(task));
  return outcome();
}

cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  std::lock_guard lock(state().mutex);
  if (!state().events.count(e)) return no_such("event");
  if (e->captured) return refuse(cudaErrorCapturedEvent, "the event was recorded in a capture: nothing to wait for");
  if (e->marker) {
    reach(*e->marker);
    acquire(&e->marker->order);
  }
  return outcome();
}

cudaError_t cudaEventQuery(cudaEvent_t e) {
  std::lock_guard lock(state().mutex);
  if (!state().events.count(e)) return no_such("event");
  if (e->captured) return refuse(cudaErrorCapturedEvent, "the event was recorded in a capture: nothing to wait for");
  if (!e->marker) return outcome();
  if (!e->marker->reached) {
    step(*e->marker->stream);  // a loop that asks until it is ready must end
    return cudaErrorNotReady;
  }
  acquire(&e->marker->order);
  return outcome();
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  std::lock_guard lock(state().mutex);
  if (!state().events.count(begin) || !state().events.count(end)) return no_such("event");
  if (!begin->timed || !end->timed || !begin->marker || !end->marker)
    return refuse(cudaErrorInvalidResourceHandle, "both events must be timed and recorded");
  if (!begin->marker->reached || !end->marker->reached) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(end->marker->time - begin->marker->time).count();
  return outcome();
}

// ---- Graphs --------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode) {
  std::lock_guard lock(state().mutex);
  if (!s) return refuse(cudaErrorStreamCaptureUnsupported, "the default stream cannot be captured");
  if (!known(s)) return no_such("stream");
  if (s->capture) return refuse(cudaErrorIllegalState, "the stream is being captured already");
  s->capture = std::make_shared<Capture>();
  s->capture->origin = s;
  s->capture->mode = mode;
  s->capture->streams = {s};
  state().captures.push_back(s->capture);
  return outcome();
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  std::lock_guard lock(state().mutex);
  *graph = nullptr;
  if (!known(s)) return no_such("stream");
  if (!is_capturing(s)) return refuse(cudaErrorIllegalState, "the stream is not being captured");
  const std::shared_ptr<Capture> capture = s->capture;
  if (capture->origin != s)
    return invalidate(*capture, cudaErrorStreamCaptureUnmatched, "the capture was begun in another stream");
  const bool joined = all_joined(*capture);
  leave(*capture);
  if (!capture->valid) return refuse(cudaErrorStreamCaptureInvalidated, "the capture has failed before");
  if (!joined) return refuse(cudaErrorStreamCaptureUnjoined, "a stream that took part was not joined to the first");
  *graph = new CUgraph_st{std::move(capture->nodes), static_cast<unsigned>(capture->streams.size())};
  state().graphs.insert(*graph);
  return outcome();
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
  std::lock_guard lock(state().mutex);
  if (!known(s)) return no_such("stream");
  *status = !is_capturing(s)    ? cudaStreamCaptureStatusNone
            : s->capture->valid ? cudaStreamCaptureStatusActive
                                : cudaStreamCaptureStatusInvalidated;
  return outcome();
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  std::lock_guard lock(state().mutex);
  if (!state().graphs.count(graph)) return no_such("graph");
  if (nodes)
    for (std::size_t i = 0; i < *count; ++i) nodes[i] = i < graph->nodes.size() ? graph->nodes[i].get() : nullptr;
  *count = nodes ? std::min(*count, graph->nodes.size()) : graph->nodes.size();
  return outcome();
}

cudaError_t cudaGraphGetEdges(cudaGraph_t graph, cudaGraphNode_t* from, cudaGraphNode_t* to, cudaGraphEdgeData* data,
                              std::size_t* count) {
  std::lock_guard lock(state().mutex);
  if (!state().graphs.count(graph)) return no_such("graph");
  std::size_t edges = 0;
  for (const auto& node : graph->nodes) {
    for (CUgraphNode_st* before : node->after) {
      if (from && edges == *count) return outcome();
      if (from) from[edges] = before;
      if (to) to[edges] = node.get();
      if (data) data[edges] = {};
      ++edges;
    }
  }
  *count = edges;
  return outcome();
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  std::lock_guard lock(state().mutex);
  if (!state().graphs.count(graph)) return no_such("graph");
  *exec = new CUgraphExec_st;
  (*exec)->nodes = graph->nodes;
  for (unsigned i = 0; i < graph->branches; ++i) (*exec)->branches.push_back(std::make_unique<Strand>());
  state().execs.insert(*exec);
  return outcome();
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
  std::lock_guard lock(state().mutex);
  if (!state().execs.count(exec)) return no_such("executable graph");
  return enqueue(s, [exec, s] { run_graph(*exec, stream_of(s)); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  std::lock_guard lock(state().mutex);
  if (state().graphs.erase(graph) == 0) return no_such("graph");
  delete graph;
  return outcome();
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  std::lock_guard lock(state().mutex);
  if (state().execs.erase(exec) == 0) return no_such("executable graph");
  finish_all();  // it may be queued
  delete exec;
  return outcome();
}
