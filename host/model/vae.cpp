#include "host/model/vae.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "host/base/parallel.h"
#include "host/graph/program.h"

namespace elbo {
namespace {

// Rows of a batch of encode() and decode(): fewer of large images, so that they take less than 512 MiB.
std::int64_t host_rows(const Spec& spec, std::int64_t pixels, std::int64_t outputs) {
  constexpr std::int64_t most_bytes = std::int64_t{512} << 20;
  // input, output, both on the host
  const std::int64_t bytes = (pixels + 2 * outputs) * static_cast<std::int64_t>(sizeof(float));
  return std::clamp<std::int64_t>(most_bytes / bytes, 1, batch_outside_training(spec, 256));
}

// A graph from a value that the host writes to one that it reads.
struct MappingGraph {
  template <class Forward>
  MappingGraph(const char* name, const Shape& shape, const Forward& forward) : graph(std::make_unique<Graph>(name)) {
    from = graph->input(shape);
    to = forward(from);
    graph->keep(to);
  }

  std::unique_ptr<Graph> graph;
  Value from, to;
};

MappingGraph encoding(const Vae& vae, std::int64_t rows) {
  const Shape& image = vae.image();
  return {"encode_images", {rows, image[0], image[1], image[2]}, [&](const Value& x) { return vae.encode(x); }};
}

MappingGraph decoding(const Vae& vae, std::int64_t rows) {
  return {"decode_latents", {rows, 1, vae.latent()}, [&](const Value& z) { return vae.decode(z); }};
}

class Mapping {
 public:
  Mapping(Backend& device, MappingGraph mapping)
      : program_(std::move(mapping.graph), device, activations_name),
        from_(program_.tensor(mapping.from)),
        to_(program_.tensor(mapping.to)) {}

  std::int64_t rows() const { return from_.rows(); }
  void run(const float* from, float* to) const {
    program_.device().upload(from_, from);
    program_.run();
    program_.device().download(to, to_);
  }

 private:
  Program program_;
  Tensor from_, to_;
};

}  // namespace

std::int64_t batch_outside_training(const Spec& spec, std::int64_t most) {
  return std::min(most, ceil_div(std::max<std::int64_t>(spec.train.batch_size, 1), latent_tile) * latent_tile);
}

Vae::Vae(const Spec& spec, const Shape& image)
    : posterior(spec),
      likelihood(spec),
      image_(image),
      latent_(spec.model.latent),
      host_batch_(host_rows(spec, image.count(), likelihood.outputs(image.count()))),
      encoder_(parameters, "encoder", "encode", image.count(), spec.model.encoder,
               GaussianPosterior::statistics(latent_)),
      decoder_(parameters, "decoder", "decode", latent_, spec.model.decoder, likelihood.outputs(image.count())) {}

Vae::Vae(Backend& device, const Spec& spec, const Shape& image) : Vae(spec, image) {
  device_ = &device;
  parameters.allocate(device, spec);
}

std::vector<float> Vae::encode(std::int64_t n, const std::function<const std::uint8_t*(std::int64_t i)>& image) const {
  const std::int64_t d = pixels(), statistics = GaussianPosterior::statistics(latent_);
  std::vector<float> stats(static_cast<std::size_t>(n * statistics));
  std::vector<float> input(static_cast<std::size_t>(std::min(n, host_batch_) * d));
  std::optional<Mapping> mapping;
  for (std::int64_t first = 0; first < n; first += mapping->rows()) {
    const std::int64_t rows = std::min(host_batch_, n - first);
    if (!mapping || mapping->rows() != rows) mapping.emplace(device(), encoding(*this, rows));
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::uint8_t* const from = image(first + row);
      std::transform(from, from + d, input.begin() + row * d,
                     [](std::uint8_t p) { return static_cast<float>(p) * (1.0f / 255.0f); });
    }
    mapping->run(input.data(), stats.data() + first * statistics);
  }
  return stats;
}

// An infinite output has a finite mean, if it is squashed, and comes of weights that have diverged.
void Vae::decode(const float* z, std::int64_t n, const std::function<void(const float* means)>& take) const {
  constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
  const std::int64_t d = pixels(), outputs = likelihood.outputs(d);
  std::vector<float> said(static_cast<std::size_t>(std::min(n, host_batch_) * outputs));  // a row: the means come first
  std::optional<Mapping> mapping;
  for (std::int64_t first = 0; first < n; first += mapping->rows()) {
    const std::int64_t rows = std::min(host_batch_, n - first);
    if (!mapping || mapping->rows() != rows) mapping.emplace(device(), decoding(*this, rows));
    mapping->run(z + first * latent_, said.data());
    parallel_for(rows * outputs, [&](std::int64_t begin, std::int64_t end) {
      std::transform(said.begin() + begin, said.begin() + end, said.begin() + begin,
                     [&](float output) { return std::isfinite(output) ? likelihood.mean(output) : not_a_number; });
    });
    for (std::int64_t row = 0; row < rows; ++row) take(said.data() + row * outputs);
  }
}

Vae::Bytes Vae::bytes_to_map(std::int64_t n) const {
  const std::int64_t rows = std::min(n, host_batch_);
  return {std::max(MemoryPlan(*encoding(*this, rows).graph).bytes, MemoryPlan(*decoding(*this, rows).graph).bytes),
          static_cast<std::uint64_t>(rows * likelihood.outputs(pixels())) * sizeof(float)};
}

}  // namespace elbo
