#include "host/data/batch_stream.h"

#include <cstring>

#include "elbo/math/random.h"

namespace elbo {

bool keep_on_device(Residency residency, const DeviceInfo& device, std::size_t bytes) {
  if (residency == Residency::automatic) return bytes <= device.memory / 4;
  return residency == Residency::device;
}

BatchStream::BatchStream(Backend& device, const ImageSet& images, std::int64_t batch_size, Residency residency,
                         std::uint64_t seed)
    : images_(images),
      batch_size_(batch_size),
      batches_per_epoch_(static_cast<std::uint32_t>(images.count / batch_size)),
      seed_(seed) {
  require(batches_per_epoch_ > 0, "a batch of ", batch_size, " images cannot be made of ", images.count);
  if (keep_on_device(residency, device.info(), images.pixels.size())) {
    memory_ = Buffer(device, images.pixels.size(), Memory::device,
                     "the training images (data.residency \"stream\" needs less)");
    resident_ = {memory_.data(), DType::u8, {images.count, images.height, images.width, images.channels}};
    device.upload(resident_, images.pixels.data());
  } else {
    ring_ = device.open_ring(ring_slots, batch_size, images.image_size());
  }
}

Tensor BatchStream::source() const {
  if (!ring_) return resident_;
  const Tensor slots = ring_->device();
  return slots.reshaped({slots.rows(), images_.height, images_.width, images_.channels});
}

void BatchStream::begin_step(std::uint32_t step) {
  if (!ring_) return;
  const std::uint32_t epoch = step / batches_per_epoch_, batch = step % batches_per_epoch_;
  const auto count = static_cast<std::uint32_t>(images_.count);
  std::byte* slot = ring_->acquire(step);
  for (std::int64_t row = 0; row < batch_size_; ++row) {
    const auto position = static_cast<std::uint32_t>(batch * batch_size_ + row);
    std::memcpy(slot + row * images_.image_size(), images_.image(math::shuffled_index(seed_, epoch, count, position)),
                static_cast<std::size_t>(images_.image_size()));
  }
  ring_->submit();
}

void BatchStream::end_step() {
  if (ring_) ring_->release();
}

}  // namespace elbo
