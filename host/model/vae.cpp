#include "host/model/vae.h"

#include <algorithm>
#include <cmath>

#include "elbo/math/random.h"
#include "host/base/memory.h"
#include "host/base/parallel.h"

namespace elbo {
namespace {

struct LayerPlan {
  std::string name;
  std::int64_t in, out;
  Activation activation;
};

// nn.Sequential counts activation modules, too: Linear, ReLU, Linear are numbers 0, 1, 2.
std::vector<LayerPlan> plan(const std::string& name, std::int64_t in, const std::vector<LayerSpec>& hidden,
                            std::int64_t out) {
  std::vector<LayerPlan> layers;
  int module = 0;
  for (const LayerSpec& layer : hidden) {
    layers.push_back({name + "." + std::to_string(module), in, layer.units, layer.activation});
    module += layer.activation == Activation::identity ? 1 : 2;
    in = layer.units;
  }
  layers.push_back({name + "." + std::to_string(module), in, out, Activation::identity});
  return layers;
}

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

// Rows of a batch of encode() and decode(): fewer of large images, so that they take less than 512 MiB.
std::int64_t host_rows(const Spec& spec, std::int64_t pixels) {
  constexpr std::int64_t most_bytes = std::int64_t{512} << 20;
  const std::int64_t bytes = 3 * pixels * static_cast<std::int64_t>(sizeof(float));  // input, output, both on the host
  return std::clamp<std::int64_t>(most_bytes / bytes, 1, rows_outside_training(spec, 256));
}

}  // namespace

std::int64_t rows_outside_training(const Spec& spec, std::int64_t most) {
  return std::min(most, tiles(std::max<std::int64_t>(spec.train.batch_size, 1), latent_tile) * latent_tile);
}

Vae::Vae(Backend& device, const Spec& spec, std::int64_t pixels)
    : device_(device),
      pixels_(pixels),
      latent_(spec.model.latent),
      likelihood_(spec.model.likelihood),
      host_batch_(host_rows(spec, pixels)) {
  const std::vector<LayerPlan> encoder = plan("encoder", pixels, spec.model.encoder, 2 * latent_);
  const std::vector<LayerPlan> decoder = plan("decoder", latent_, spec.model.decoder, pixels);

  std::int64_t total = 0;
  const auto lay_out = [&](const LayerPlan& l) {
    layout_.push_back({l.name + ".weight", {l.out, l.in}, total, l.in, l.out});
    total += l.in * l.out;
    layout_.push_back({l.name + ".bias", {l.out}, total, l.in, l.out});
    total += l.out;
    total = (total + 3) / 4 * 4;  // every weight begins on 16 bytes, for vector loads; the gaps stay zero
  };
  std::ranges::for_each(encoder, lay_out);
  std::ranges::for_each(decoder, lay_out);

  const auto take = [&](Arena& arena) {
    for (Tensor* t : {&parameters, &gradients, &first, &second}) *t = arena.take({total});
  };
  Arena measure;
  take(measure);
  arena_ = Arena(device, measure.used(), "parameters and optimiser state (fewer model.*.units need less)");
  take(arena_);

  const auto view = [](const Tensor& flat, const Parameter& p) {
    return Tensor{flat.as<float>() + p.offset, DType::f32, p.shape};
  };
  std::size_t next = 0;
  for (const auto& [plans, layers] : {std::pair{&encoder, &encoder_}, std::pair{&decoder, &decoder_}}) {
    for (const LayerPlan& l : *plans) {
      const Parameter &weight = layout_[next++], &bias = layout_[next++];
      layers->push_back({view(parameters, weight), view(parameters, bias), view(gradients, weight),
                         view(gradients, bias), l.activation});
    }
  }

  std::vector<float> values;
  reserve_memory(values, static_cast<std::uint64_t>(total), "the initial weights (fewer model.*.units need less)");
  values.resize(static_cast<std::size_t>(total));
  for (std::size_t i = 0; i < layout_.size(); ++i)
    initialise(spec, static_cast<std::uint32_t>(i), layout_[i], values.data() + layout_[i].offset);
  device.upload(parameters, values.data());
  for (Tensor* t : {&gradients, &first, &second}) device.fill(*t, 0);
}

std::vector<float> Vae::encode(std::int64_t n, const std::function<const std::uint8_t*(std::int64_t i)>& image) {
  Pass pass(*this, std::min(n, host_batch_), 1, Kernels::fused, Direction::forward);
  std::vector<float> stats(static_cast<std::size_t>(n * 2 * latent_));
  std::vector<float> input(static_cast<std::size_t>(pass.input.count()));
  for (std::int64_t done = 0; done < n; done += pass.input.rows()) {
    const std::int64_t rows = std::min(pass.input.rows(), n - done);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::uint8_t* const pixels = image(done + row);
      std::transform(pixels, pixels + pixels_, input.begin() + row * pixels_,
                     [](std::uint8_t p) { return static_cast<float>(p) * (1.0f / 255.0f); });
    }
    device_.upload(pass.input.first(rows), input.data());
    device_.download(stats.data() + done * 2 * latent_, pass.encode(*this, rows));
  }
  return stats;
}

void Vae::decode(const float* z, std::int64_t n, const std::function<void(const float* means)>& take) {
  Pass pass(*this, std::min(n, host_batch_), 1, Kernels::fused, Direction::forward);
  std::vector<float> means(static_cast<std::size_t>(pass.input.count()));
  for (std::int64_t done = 0; done < n; done += pass.input.rows()) {
    const std::int64_t rows = std::min(pass.input.rows(), n - done);
    device_.upload(pass.z.first(rows), z + done * latent_);
    device_.download(means.data(), pass.decode(*this, rows));
    if (likelihood_ == Likelihood::bernoulli)
      parallel_for(rows * pixels_, [&](std::int64_t begin, std::int64_t end) {
        std::transform(means.begin() + begin, means.begin() + end, means.begin() + begin,
                       [](float m) { return 1.0f / (1.0f + math::exp(-m)); });
      });
    for (std::int64_t row = 0; row < rows; ++row) take(means.data() + row * pixels_);
  }
}

// ---- Pass -----------------------------------------------------------------------------------------------------

Pass::Pass(Vae& vae, std::int64_t rows, std::int64_t samples, Kernels kernels, Direction direction) {
  const auto take = [&](Arena& a) {
    const std::int64_t pixels = vae.pixels(), latent = vae.latent(), outputs = rows * samples;
    input = a.take({rows, pixels});
    target = a.take({rows, pixels}, DType::u8);
    for (std::vector<Tensor>* v : {&encoded, &decoded, &encoded_masks, &decoded_masks}) v->clear();
    const auto take_mask = [&](const DenseLayer& l, std::int64_t r) {
      const bool wanted = direction == Direction::both && l.activation == Activation::relu;
      return wanted ? a.take({r, mask_bytes(l.weight.rows())}, DType::u8) : Tensor{};
    };
    std::int64_t widest = 0;
    for (const DenseLayer& l : vae.encoder()) {
      encoded.push_back(a.take({rows, l.weight.rows()}));
      encoded_masks.push_back(take_mask(l, rows));
      widest = std::max(widest, rows * l.weight.rows());
    }
    z = a.take({rows, samples, latent});
    for (const DenseLayer& l : vae.decoder()) {
      decoded.push_back(a.take({outputs, l.weight.rows()}));
      decoded_masks.push_back(take_mask(l, outputs));
      widest = std::max({widest, outputs * l.weight.columns(), outputs * l.weight.rows()});
    }
    kl_partial = a.take({tiles(rows, latent_tile), latent});
    nll_partial = a.take({outputs, tiles(pixels, pixel_chunk)});
    if (direction == Direction::both)
      for (Tensor& g : gradient) g = a.take({widest});
    scratch =
        a.take({std::max(scratch_size(kernels, rows, samples, latent), scratch_size(kernels, outputs, 1, pixels))});
  };
  Arena measure;
  take(measure);
  arena = Arena(vae.device(), measure.used(), "activations (a smaller train.batch_size needs less)");
  take(arena);
}

namespace {

// Its profiling range's.
std::string name_of_layer(std::size_t i) { return "dense" + std::to_string(i); }

// Walks `layers` from x; returns the last one's output, which has as many rows as x.
Tensor forward(Backend& device, const std::vector<DenseLayer>& layers, Tensor x, const std::vector<Tensor>& outputs,
               const std::vector<Tensor>& masks) {
  const std::int64_t rows = x.rows();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Backend::Range range(device, name_of_layer(i).c_str());
    const DenseLayer& l = layers[i];
    device.dense_forward({.x = x,
                          .weight = l.weight,
                          .bias = l.bias,
                          .activation = l.activation,
                          .y = outputs[i].first(rows),
                          .mask = masks[i] ? masks[i].first(rows) : Tensor{}});
    x = outputs[i].first(rows);
  }
  return x;
}

// Walks `layers` backwards from dz, alternating between two gradient buffers. Returns the gradient of the first
// layer's input, if `want_dx`.
Tensor backward(Backend& device, const std::vector<DenseLayer>& layers, const Tensor& x,
                const std::vector<Tensor>& outputs, const std::vector<Tensor>& masks, Tensor dz,
                const Tensor (&buffers)[2], bool want_dx) {
  for (std::size_t i = layers.size(); i-- > 0;) {
    const Backend::Range range(device, name_of_layer(i).c_str());
    const DenseLayer& l = layers[i];
    DenseBackward a{.x = x, .weight = l.weight, .dz = dz, .dweight = l.dweight, .dbias = l.dbias, .mask = {}, .dx = {}};
    if (i > 0) {
      a.x = outputs[i - 1];
      a.activation = layers[i - 1].activation;
      a.mask = masks[i - 1];
    }
    if (i > 0 || want_dx) {
      a.dx = buffers[dz.data == buffers[0].data ? 1 : 0];
      a.dx.shape = a.x.shape;
    }
    device.dense_backward(a);
    dz = a.dx;
  }
  return dz;
}

}  // namespace

Tensor Pass::encode(Vae& vae, std::int64_t rows) const {
  const Backend::Range range(vae.device(), "encode");
  return forward(vae.device(), vae.encoder(), input.first(rows), encoded, encoded_masks);
}

Tensor Pass::decode(Vae& vae, std::int64_t rows) const {
  const Backend::Range range(vae.device(), "decode");
  const Tensor x = z.first(rows).reshaped({rows * z.shape[1], vae.latent()});
  return forward(vae.device(), vae.decoder(), x, decoded, decoded_masks);
}

Tensor Pass::decode_backward(Vae& vae, const Tensor& doutput) const {
  const Backend::Range range(vae.device(), "decode_backward");
  const Tensor x = z.reshaped({doutput.rows(), vae.latent()});
  return backward(vae.device(), vae.decoder(), x, decoded, decoded_masks, doutput, gradient, true).reshaped(z.shape);
}

void Pass::encode_backward(Vae& vae, const Tensor& dstats) const {
  const Backend::Range range(vae.device(), "encode_backward");
  backward(vae.device(), vae.encoder(), input, encoded, encoded_masks, dstats, gradient, false);
}

}  // namespace elbo
