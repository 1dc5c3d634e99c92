// Memory of a device: a block with an owner, and tensors cut from it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "elbo/tensor.h"

namespace elbo {

class Backend;

enum class Memory : std::uint8_t {
  device,  // where kernels work; the host must not touch it
  pinned,  // host memory that the device can read and write, too
};

// Owns a block of a device's memory, aligned to 256 bytes. The backend must outlive it.
class Buffer {
 public:
  Buffer() = default;
  // Throws Error naming `what` where the device has no such memory.
  Buffer(Backend& backend, std::size_t bytes, Memory kind, std::string_view what);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer();

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(kind_, other.kind_);
  }
  Backend* backend_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  Memory kind_ = Memory::device;
};

// Cuts one Buffer into tensors, each at a multiple of this many bytes.
class Arena {
 public:
  static constexpr std::size_t alignment = 256;

  // One without memory: its tensors have no address, and used() is the size that they take.
  Arena() = default;
  Arena(Backend& backend, std::size_t bytes, std::string_view what) : buffer_(backend, bytes, Memory::device, what) {}

  // An arena in which layout(arena) takes its tensors, just as large as it needs to be.
  template <class Layout>
  static Arena of(Backend& backend, std::string_view what, const Layout& layout) {
    Arena measure;
    layout(measure);
    Arena arena(backend, measure.used(), what);
    layout(arena);
    return arena;
  }

  Tensor take(Shape shape, DType dtype = DType::f32);
  std::size_t used() const { return used_; }

 private:
  Buffer buffer_;
  std::size_t used_ = 0;
};

}  // namespace elbo
