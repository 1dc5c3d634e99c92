#include "cuda/graph.h"

#include <algorithm>
#include <map>
#include <vector>

#include "cuda/handles.h"

namespace elbo::cuda {
namespace {

// Ends a capture that its owner did not end, so that an exception leaves a usable stream.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    // Relaxed: a library may load a kernel or ask for memory while we capture; neither is queued work.
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  ~Capture() {
    if (open_) end();
  }
  Graph finish() {
    auto [error, graph] = end();
    check_cuda(error, "cudaStreamEndCapture");
    return std::move(graph);
  }

 private:
  std::pair<cudaError_t, Graph> end() {
    open_ = false;
    cudaGraph_t graph = nullptr;
    const cudaError_t error = cudaStreamEndCapture(stream_, &graph);
    return {error, Graph(graph)};
  }
  cudaStream_t stream_;
  bool open_ = true;
};

// The nodes of the longest chain: how many of a graph must run one after another.
std::size_t longest_chain(cudaGraph_t graph) {
  std::size_t count = 0, edges = 0;
  check_cuda(cudaGraphGetNodes(graph, nullptr, &count), "cudaGraphGetNodes");
  check_cuda(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges), "cudaGraphGetEdges");
  std::vector<cudaGraphNode_t> nodes(count), from(edges), to(edges);
  std::vector<cudaGraphEdgeData> data(edges);  // an edge that has some is not told without
  check_cuda(cudaGraphGetNodes(graph, nodes.data(), &count), "cudaGraphGetNodes");
  check_cuda(cudaGraphGetEdges(graph, from.data(), to.data(), data.data(), &edges), "cudaGraphGetEdges");

  struct Place {
    std::size_t chain = 1, waits_for = 0;  // nodes on the longest way here, itself included; edges not yet followed
    std::vector<cudaGraphNode_t> next;
  };
  std::map<cudaGraphNode_t, Place> places;
  for (const cudaGraphNode_t node : nodes) places[node];
  for (std::size_t i = 0; i < edges; ++i) {
    places[from[i]].next.push_back(to[i]);
    ++places[to[i]].waits_for;
  }
  std::vector<cudaGraphNode_t> ready;
  for (const auto& [node, place] : places)
    if (place.waits_for == 0) ready.push_back(node);
  std::size_t longest = 0;
  while (!ready.empty()) {
    const Place& place = places[ready.back()];
    ready.pop_back();
    longest = std::max(longest, place.chain);
    for (const cudaGraphNode_t next : place.next) {
      Place& later = places[next];
      later.chain = std::max(later.chain, place.chain + 1);
      if (--later.waits_for == 0) ready.push_back(next);
    }
  }
  return longest;
}

class GraphRecording : public Recording {
 public:
  GraphRecording(cudaStream_t stream, const std::function<void()>& calls, std::size_t under_way)
      : stream_(stream), done_(under_way) {
    Capture capture(stream);
    calls();
    const Graph graph = capture.finish();
    check_cuda(cudaGraphGetNodes(graph.get(), nullptr, &nodes_), "cudaGraphGetNodes");
    dependent_launches_ = longest_chain(graph.get());
    cudaGraphExec_t exec = nullptr;
    check_cuda(cudaGraphInstantiate(&exec, graph.get(), 0), "cudaGraphInstantiate");
    exec_ = GraphExec(exec);
    for (Event& e : done_) e = make_event();
  }
  ~GraphRecording() override { cudaStreamSynchronize(stream_); }  // it may be under way

  void replay() override {
    const Event& done = done_[replays_ % done_.size()];
    if (replays_ >= done_.size()) check_cuda(cudaEventSynchronize(done.get()), "replay");
    check_cuda(cudaGraphLaunch(exec_.get(), stream_), "replay");
    check_cuda(cudaEventRecord(done.get(), stream_), "replay");
    ++replays_;
  }
  std::size_t nodes() const override { return nodes_; }
  std::size_t dependent_launches() const override { return dependent_launches_; }

 private:
  cudaStream_t stream_;
  GraphExec exec_;
  std::vector<Event> done_;  // the ends of the last replays
  std::size_t nodes_ = 0, dependent_launches_ = 0;
  std::size_t replays_ = 0;
};

}  // namespace

std::unique_ptr<Recording> capture_graph(cudaStream_t stream, const std::function<void()>& calls,
                                         std::size_t under_way) {
  return std::make_unique<GraphRecording>(stream, calls, under_way);
}

}  // namespace elbo::cuda
