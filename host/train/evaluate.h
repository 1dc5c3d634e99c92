// The figures of a set of images under a trained model.
#pragma once
#include <cstdint>
#include <memory>

#include "elbo/backend.h"
#include "host/data/dataset.h"
#include "host/model/vae.h"
#include "host/train/metrics.h"
#include "host/train/step.h"

namespace elbo {

// Walks through a whole set, last incomplete batch included, with one draw of z for each image (as many as in training
// where the bound is of several) and one of the pixels where they are binarised dynamically: the same draws each time,
// whatever the batches and the device. How the set is cut depends on the spec and the kind of device alone, so that a
// run has the same figures each time. Another cut would change the last bits of the figures: by the order of the sums
// in double, and by the order in which a product of another number of rows may add.
class Evaluator {
 public:
  // `images` must outlive the evaluator. Device memory for everything is taken here, none later.
  Evaluator(Vae&, const Spec&, const ImageSet& images);

  // Waits once, for the sums. Throws Diverged where they are not finite: what was trained has come to nothing.
  Figures run();

  std::size_t graph_nodes() const {
    return whole_batch_.recording->nodes();
  }  // of a whole batch; 0 where it is no graph

  // Images of a whole batch. Where calls are launches, so many that the launches take little of the time; beyond 256
  // MiB of activations they take next to none, and the memory is better left to training. Elsewhere about as many as in
  // a training batch, whose activations the caches hold.
  static std::int64_t choose_batch(const Vae&, const Spec&, std::int64_t images, const DeviceInfo&);

 private:
  // The calls for a batch, and their recording.
  struct Recorded {
    std::unique_ptr<Program> program;
    std::unique_ptr<Recording> recording;
  };
  Recorded record(std::unique_ptr<Graph>, const std::shared_ptr<const Buffer>& memory);
  void start();

  Vae& vae_;
  const Spec spec_;
  const ImageSet& images_;
  std::int64_t batch_;
  bool resident_;
  Schedule schedule_;
  StepBlocks blocks_;   // the source: all images, or a batch where they do not live on the device
  Tensor start_state_;  // StepState of the first batch
  Arena arena_;
  Buffer fault_memory_;
  Recorded whole_batch_, rest_;  // rest_: the incomplete last one, if there is one
};

}  // namespace elbo
