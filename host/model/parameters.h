// The weights of a model: one flat buffer, and the names and shapes of what is in it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "elbo/backend.h"
#include "host/graph/graph.h"
#include "host/spec/spec.h"

namespace elbo {

// One named piece of the flat buffer. Names and layouts are PyTorch's: nn.Sequential of nn.Linear and activation
// modules, "encoder.0.weight" [out, in].
struct Parameter {
  std::string name;
  Shape shape;
  std::int64_t offset = 0, fan_in = 0, fan_out = 0;
};

class Parameters {
 public:
  Parameters() = default;
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  // A dense layer's weight [out, in] and bias [out], NAME.weight and NAME.bias. The number of the weight; the bias's is
  // the next one.
  std::size_t add_layer(const std::string& name, std::int64_t in, std::int64_t out);

  const std::vector<Parameter>& layout() const { return layout_; }
  std::int64_t count() const { return count_; }  // of elements, gaps included

  // In a graph: one of them; a piece of another flat buffer of the same layout.
  Value value(Graph&, std::size_t number) const;
  Value value_in(const Value& flat, std::size_t number) const;
  // The same on the device.
  Tensor view(const Tensor& flat, const Parameter& p) const;

  // Takes memory on a device, and draws the initial values.
  void allocate(Backend&, const Spec&);
  Tensor memory() const { return flat_.memory; }  // f32 [P]
  const Block& block() const { return flat_; }

 private:
  std::vector<Parameter> layout_;
  std::int64_t count_ = 0;
  Block flat_{"the parameters", {0}};
  Buffer buffer_;
};

}  // namespace elbo
