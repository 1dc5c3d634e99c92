// What ends a step: the update of the weights, the running sums, the move to the next step.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "elbo/math/optimizer.h"
#include "elbo/sizes.h"
#include "elbo/step_state.h"

namespace elbo::kernels {

// One step of the optimiser over flat buffers of `count` elements.
struct OptimizerStep {
  float* parameters;
  const float* gradients;
  float *first, *second;
  StepState* state;
  math::OptimizerSettings settings;
  std::int64_t count;
};
void optimizer_step(const OptimizerStep&, cudaStream_t);

struct PartialLoss {
  const float* partial;  // [count]
  std::int64_t count;
  std::int64_t columns;  // each has a sum of its own; 0: one sum of all
  std::int64_t samples;
};

// sums += {rows, then the sums of each loss / its samples}.
struct Accumulate {
  PartialLoss losses[most_losses];
  int count;  // of losses
  StepState* state;
  double* sums;  // [1 + sums of all losses]
  std::int64_t rows;
};
void accumulate(const Accumulate&, cudaStream_t);

// Moves `state` on to the next step; *fault = the first bad step, if there is one.
void advance(StepState* state, const Schedule&, std::uint64_t* fault, cudaStream_t);

// All three in one launch, whose blocks all fit at once on a GPU of so many multiprocessors.
void finish_step(const Accumulate&, const OptimizerStep&, const Schedule&, std::uint64_t* fault, int multiprocessors,
                 cudaStream_t);

}  // namespace elbo::kernels
