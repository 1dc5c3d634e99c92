// The ELBO of a set of images under a trained model.
#pragma once
#include <cstdint>

#include "elbo/backend.h"
#include "host/data/dataset.h"
#include "host/metrics.h"
#include "host/vae.h"

namespace elbo {

// Walks through a whole set, last incomplete batch included, with one draw of z (and of the pixels, where they are
// binarised dynamically) for each image: the same draws each time, whatever the batches and the device.
class Evaluator {
 public:
  // `images` must outlive the evaluator.
  Evaluator(Vae&, const Spec&, const ImageSet& images);

  Figures run();

 private:
  void queue_batch(std::int64_t first, std::int64_t rows);

  Vae& vae_;
  const Spec spec_;
  const ImageSet& images_;
  std::int64_t batch_;
  bool resident_;
  Pass pass_;
  Arena arena_;
  Tensor source_;  // u8 [N, D], or [batch, D] where the images do not live on the device
  Tensor state_, sums_;
  Buffer fault_memory_;
  Tensor fault_;
  Schedule schedule_;
};

}  // namespace elbo
