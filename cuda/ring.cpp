#include "cuda/ring.h"

#include <utility>
#include <vector>

namespace elbo::cuda {
namespace {

class CudaRing : public Ring {
 public:
  CudaRing(Backend& backend, cudaStream_t compute, Stream copy, std::int64_t slots, std::int64_t rows,
           std::int64_t pixels)
      : compute_(compute), slot_bytes_(static_cast<std::size_t>(rows * pixels)), shape_{slots * rows, pixels} {
    require(slots > 0 && rows > 0 && pixels > 0, "open_ring: ", slots, " slots of ", rows, " rows of ", pixels,
            " pixels");
    const std::size_t bytes = slot_bytes_ * static_cast<std::size_t>(slots);
    pinned_ = Buffer(backend, bytes, Memory::pinned, "the ring of batches (a smaller train.batch_size needs less)");
    device_ = Buffer(backend, bytes, Memory::device, "the ring of batches (a smaller train.batch_size needs less)");
    copy_ = std::move(copy);
    for (std::int64_t i = 0; i < slots; ++i) slots_.push_back({make_event(), make_event()});
  }
  ~CudaRing() override {
    cudaStreamSynchronize(copy_.get());
    cudaStreamSynchronize(compute_);
  }

  std::byte* acquire(std::uint64_t batch) override {
    require(stage_ == Stage::free, "ring: acquire() before the slot before was submitted and released");
    stage_ = Stage::acquired;
    slot_ = batch % slots_.size();
    // The copy from this slot came before its use, so the use's end is the end of both. An event that was
    // never recorded does not wait.
    check_cuda(cudaEventSynchronize(slot().used.get()), "ring: acquire");
    return pinned_.data() + offset();
  }
  void submit() override {
    require(stage_ == Stage::acquired, "ring: submit() without acquire()");
    stage_ = Stage::submitted;
    check_cuda(cudaMemcpyAsync(device_.data() + offset(), pinned_.data() + offset(), slot_bytes_,
                               cudaMemcpyHostToDevice, copy_.get()),
               "ring: submit");
    check_cuda(cudaEventRecord(slot().copied.get(), copy_.get()), "ring: submit");
    check_cuda(cudaStreamWaitEvent(compute_, slot().copied.get(), 0), "ring: submit");
  }
  void release() override {
    require(stage_ == Stage::submitted, "ring: release() without submit()");
    stage_ = Stage::free;
    check_cuda(cudaEventRecord(slot().used.get(), compute_), "ring: release");
  }
  Tensor device() const override { return {device_.data(), DType::u8, shape_}; }

 private:
  enum class Stage { free, acquired, submitted };
  struct Slot {
    Event copied, used;
  };
  Slot& slot() { return slots_[slot_]; }
  std::size_t offset() const { return slot_ * slot_bytes_; }

  cudaStream_t compute_;
  std::size_t slot_bytes_;
  Shape shape_;
  Buffer pinned_, device_;
  Stream copy_;
  std::vector<Slot> slots_;
  std::size_t slot_ = 0;  // the one in use, unless free
  Stage stage_ = Stage::free;
};

}  // namespace

std::unique_ptr<Ring> open_cuda_ring(Backend& backend, cudaStream_t compute, Stream copy, std::int64_t slots,
                                     std::int64_t rows, std::int64_t pixels) {
  return std::make_unique<CudaRing>(backend, compute, std::move(copy), slots, rows, pixels);
}

}  // namespace elbo::cuda
