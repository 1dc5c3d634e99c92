// The training images on their way to the device: there from the start, where they fit, or a ring of
// batches that the host fills as the device works.
#pragma once
#include <cstdint>
#include <memory>

#include "elbo/backend.h"
#include "host/data/dataset.h"

namespace elbo {

// Whether `bytes` of images should live on the device. `automatic`: if they take at most a quarter of its memory.
bool keep_on_device(Residency, const DeviceInfo&, std::size_t bytes);

class BatchStream {
 public:
  static constexpr std::int64_t ring_slots = 4;

  // Keeps a reference to `images`. Throws Error where there is not one full batch.
  BatchStream(Backend&, const ImageSet& images, std::int64_t batch_size, Residency, std::uint64_t seed);

  // Full batches; the rest waits for the next epoch's shuffle.
  std::uint32_t batches_per_epoch() const { return batches_per_epoch_; }
  bool resident() const { return !ring_; }
  // u8 [N, H, W, C], or the slots of the ring, [slots * R, H, W, C].
  Tensor source() const;
  Indexing indexing() const { return ring_ ? Indexing::ring : Indexing::shuffled; }

  // Around the calls of step `step`, which read source().
  void begin_step(std::uint32_t step);
  void end_step();

 private:
  const ImageSet& images_;
  std::int64_t batch_size_;
  std::uint32_t batches_per_epoch_;
  std::uint64_t seed_;
  Buffer memory_;
  Tensor resident_;  // u8 [N, H, W, C]
  std::unique_ptr<Ring> ring_;
};

}  // namespace elbo
