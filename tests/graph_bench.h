// What tests of graphs have in common: a device whose memory is the host's, blocks on it, and an operation of the
// tests.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "elbo/math/random.h"
#include "host/base/devices.h"
#include "host/graph/program.h"

namespace elbo::test {

using Floats = std::vector<float>;

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

inline Floats normals(std::int64_t n, std::uint32_t stream, float scale = 1.0f) {
  Floats v(at(n));
  for (std::int64_t i = 0; i < n; ++i)
    v[at(i)] = scale * math::normals({5, Purpose::prior, stream, 0, 0}, static_cast<std::uint32_t>(i / 4)).v[i % 4];
  return v;
}

// The CPU, and blocks on it.
struct Bench {
  OpenedDevice opened = open_device("cpu");
  Backend& device = *opened.backend;
  std::vector<Buffer> buffers;

  void allocate(Block& block) {
    const std::size_t bytes = static_cast<std::size_t>(block.shape.count()) * size_of(block.dtype);
    buffers.emplace_back(device, bytes, Memory::device, block.name);
    block.memory = {buffers.back().data(), block.dtype, block.shape};
    device.fill(block.memory, 0);
  }
  Block make(const char* name, const Shape& shape, const Floats& values = {}) {
    Block block{name, shape};
    allocate(block);
    if (!values.empty()) device.upload(block.memory, values.data());
    return block;
  }
  Block make_bytes(const char* name, const Shape& shape) {
    Block block{name, shape, DType::u8};
    allocate(block);
    return block;
  }
  Block make_state(std::uint32_t step) {
    Block block{"state", {sizeof(StepState)}, DType::u8};
    allocate(block);
    const StepState state = state_at(3, step, {});
    device.upload(block.memory, &state);
    return block;
  }
  Floats get(const Tensor& t) {
    Floats values(at(t.count()));
    device.download(values.data(), t);
    return values;
  }
};

// The sum of all elements, as an objective.
inline Objective sum(const Value& v) { return mean({v, 1}); }

// out = a + factor * b: no gradient.
struct Axpy {
  static constexpr const char* name = "axpy";
  Tensor a, b;
  float factor;
  Tensor out;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("a", op.a, Access::read);
    f("b", op.b, Access::read);
    f("out", op.out, Access::write);
  }
  std::string sizes() const { return a.shape.str(); }
  void run(Backend&) const {
    for (std::int64_t i = 0; i < a.count(); ++i) out.as<float>()[i] = a.as<float>()[i] + factor * b.as<float>()[i];
  }
};

inline Value axpy(const Value& a, const Value& b, float factor) {
  const Value out = a.graph().make(a.shape());
  a.graph().add(Axpy{a, b, factor, out});
  return out;
}

}  // namespace elbo::test
