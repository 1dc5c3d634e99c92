// A batch of images from a data set on the device, or from a ring that the host fills.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "elbo/step_state.h"
#include "elbo/types.h"

namespace elbo::kernels {

struct GatherBatch {
  const std::uint8_t* source;  // [images, pixels]; Indexing::ring: [slots * rows, pixels]
  const StepState* state;
  Indexing indexing;
  Binarize binarize;
  float* input;          // [rows, pixels] out
  std::uint8_t* target;  // [rows, pixels] out
  std::int64_t images, rows, pixels;
};

void gather_batch(const GatherBatch&, cudaStream_t);

}  // namespace elbo::kernels
