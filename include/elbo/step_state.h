// What changes from one training step to the next, in one struct in device memory. A recorded step
// reads it there, so that nothing is baked into the recording; `advance` moves it on.
#pragma once
#include <cstdint>

#include "elbo/math/optimizer.h"

namespace elbo {

struct StepState {
  static constexpr std::uint64_t none = ~std::uint64_t{0};

  std::uint64_t seed;
  std::uint32_t step;              // optimiser steps done so far
  std::uint32_t epoch;             // 0 at the start
  std::uint32_t batch;             // position in the epoch
  std::uint32_t noise_step;        // the step that draws are keyed by: `step` in training, ~0 in evaluation
  std::uint32_t row0;              // number of the batch's first row: 0 in training, walks in evaluation
  float correction1, correction2;  // Adam's 1 - beta^t, t = step + 1
  // The first step whose loss was not finite; the optimiser does nothing from then on.
  std::uint64_t bad_step;
  // The first step with a gradient, an updated weight or an updated state of the optimiser that was not finite; such a
  // weight and its state stay as they were.
  std::uint64_t bad_update;
  // How many blocks of a kernel are done, so that the last one knows itself; 0 between kernels.
  std::uint32_t blocks_done;
};

// How `advance` moves: the constants of a run. Evaluation draws by the row's number in the data set, so
// that its figures do not depend on how the set was cut into batches.
struct Schedule {
  std::uint32_t batches_per_epoch = 1;
  std::uint32_t rows_per_batch = 0;  // added to row0: evaluation walks through the data set; training: 0
  double beta1 = 0.0, beta2 = 0.0;
};

// The state before step `step` (counted from 0).
ELBO_HD StepState state_at(std::uint64_t seed, std::uint32_t step, const Schedule& s) {
  const double t = static_cast<double>(step) + 1.0;
  return {seed,
          step,
          step / s.batches_per_epoch,
          step % s.batches_per_epoch,
          s.rows_per_batch ? ~0u : step,
          step * s.rows_per_batch,
          static_cast<float>(math::adam_correction(s.beta1, t)),
          static_cast<float>(math::adam_correction(s.beta2, t)),
          StepState::none,
          StepState::none,
          0};
}

}  // namespace elbo
