// The ring of the CUDA device: pinned slots, a copy stream, two events a slot.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "elbo/backend.h"

namespace elbo {

// compute: the stream whose calls read the slots.
std::unique_ptr<Ring> open_cuda_ring(Backend&, cudaStream_t compute, std::int64_t slots, std::int64_t rows,
                                     std::int64_t pixels);

}  // namespace elbo
