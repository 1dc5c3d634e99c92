// The ring of the CUDA device: pinned slots, a copy stream, two events a slot.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "cuda/handles.h"
#include "elbo/backend.h"

namespace elbo::cuda {

// compute: the stream whose calls read the slots. copy: one for the way to them.
std::unique_ptr<Ring> open_cuda_ring(Backend&, cudaStream_t compute, Stream copy, std::int64_t slots, std::int64_t rows,
                                     std::int64_t pixels);

}  // namespace elbo::cuda
