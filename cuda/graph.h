// Recordings of the CUDA device: calls captured from a stream into a graph.
#pragma once
#include <cuda_runtime.h>

#include <functional>
#include <memory>

#include "elbo/backend.h"

namespace elbo::cuda {

// Runs `calls` once while `stream` is being captured: they are recorded, not done. What they throw is
// thrown, and the stream is as before.
std::unique_ptr<Recording> capture_graph(cudaStream_t stream, const std::function<void()>& calls,
                                         std::size_t under_way);

}  // namespace elbo::cuda
