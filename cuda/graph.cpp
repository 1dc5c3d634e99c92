#include "cuda/graph.h"

#include <vector>

#include "cuda/handles.h"

namespace elbo {
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

class GraphRecording : public Recording {
 public:
  GraphRecording(cudaStream_t stream, const std::function<void()>& calls, std::size_t under_way)
      : stream_(stream), done_(under_way) {
    Capture capture(stream);
    calls();
    const Graph graph = capture.finish();
    check_cuda(cudaGraphGetNodes(graph.get(), nullptr, &nodes_), "cudaGraphGetNodes");
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

 private:
  cudaStream_t stream_;
  GraphExec exec_;
  std::vector<Event> done_;  // the ends of the last replays
  std::size_t nodes_ = 0;
  std::size_t replays_ = 0;
};

}  // namespace

std::unique_ptr<Recording> capture_graph(cudaStream_t stream, const std::function<void()>& calls,
                                         std::size_t under_way) {
  return std::make_unique<GraphRecording>(stream, calls, under_way);
}

}  // namespace elbo
