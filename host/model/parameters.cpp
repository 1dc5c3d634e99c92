#include "host/model/parameters.h"

#include <algorithm>
#include <cmath>

#include "elbo/math/random.h"
#include "host/base/memory.h"

namespace elbo {
namespace {

// Initial values of a parameter. "pytorch": nn.Linear's default, U(-b, b) with b = 1 / sqrt(fan_in) for weights
// and biases. "glorot": U(-b, b) with b = sqrt(6 / (fan_in + fan_out)), biases 0. "normal": N(0, std^2), all.
void initialise(const Spec& spec, std::uint32_t index, const Parameter& p, float* values) {
  const bool bias = p.shape.rank() == 1;
  const std::int64_t n = p.shape.count();
  float bound = 1.0f / std::sqrt(static_cast<float>(p.fan_in));
  if (spec.model.initialization == Initialization::glorot)
    bound = bias ? 0.0f : std::sqrt(6.0f / static_cast<float>(p.fan_in + p.fan_out));
  const math::Draw draw{spec.seed, Purpose::initialise, 0, index, 0};
  for (std::int64_t quad = 0; 4 * quad < n; ++quad) {
    const math::Words w = math::random_words(draw, static_cast<std::uint32_t>(quad));
    const std::uint32_t words[4] = {w.x, w.y, w.z, w.w};
    const math::Normals4 normal = math::normals(draw, static_cast<std::uint32_t>(quad));
    for (std::int64_t i = 4 * quad; i < std::min(n, 4 * quad + 4); ++i)
      values[i] = spec.model.initialization == Initialization::normal
                      ? static_cast<float>(spec.model.initialization_std) * normal.v[i % 4]
                      : bound * (2.0f * math::uniform(words[i % 4]) - 1.0f);
  }
}

}  // namespace

std::size_t Parameters::add_layer(const std::string& name, std::int64_t in, std::int64_t out) {
  const std::size_t number = layout_.size();
  layout_.push_back({name + ".weight", {out, in}, count_, in, out});
  count_ += in * out;
  layout_.push_back({name + ".bias", {out}, count_, in, out});
  count_ += out;
  count_ = (count_ + 3) / 4 * 4;  // every weight begins on 16 bytes, for vector loads; the gaps stay zero
  flat_.shape = {count_};
  return number;
}

Value Parameters::value(Graph& graph, std::size_t number) const { return value_in(graph.of(flat_), number); }

Value Parameters::value_in(const Value& flat, std::size_t number) const {
  return flat.part(layout_[number].offset, layout_[number].shape);
}

Tensor Parameters::view(const Tensor& flat, const Parameter& p) const {
  return {flat.as<float>() + p.offset, DType::f32, p.shape};
}

void Parameters::allocate(Backend& device, const Spec& spec) {
  const auto elements = static_cast<std::size_t>(count_);
  buffer_ = Buffer(device, elements * sizeof(float), Memory::device, "the parameters (fewer model.*.units need less)");
  flat_.memory = {buffer_.data(), DType::f32, {count_}};
  std::vector<float> values;
  reserve_memory(values, elements, "the initial weights (fewer model.*.units need less)");
  values.resize(elements);
  for (std::size_t i = 0; i < layout_.size(); ++i)
    initialise(spec, static_cast<std::uint32_t>(i), layout_[i], values.data() + layout_[i].offset);
  device.upload(flat_.memory, values.data());
}

}  // namespace elbo
