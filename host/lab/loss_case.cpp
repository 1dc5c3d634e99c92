#include "host/lab/loss_case.h"

#include <algorithm>
#include <cmath>

#include "elbo/math/latent.h"
#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"
#include "host/base/memory.h"
#include "host/base/parallel.h"

namespace elbo {
namespace {

constexpr double variance = 0.25;  // of the Gaussian
constexpr Posterior posterior = Posterior::log_variance;

const StepState& step_state() {
  static const StepState state = state_at(1, 0, {});
  return state;
}

math::Normals4 noise(std::int64_t row, std::int64_t quad, std::int64_t sample = 0) {
  const StepState& s = step_state();
  return math::normals({s.seed, Purpose::latent, s.noise_step, s.row0 + static_cast<std::uint32_t>(row),
                        static_cast<std::uint32_t>(sample)},
                       static_cast<std::uint32_t>(quad));
}

std::vector<float> normal_values(std::int64_t count, std::uint32_t stream, float deviation) {
  std::vector<float> values;
  reserve_memory(values, static_cast<std::uint64_t>(count), "the inputs (a smaller --shape needs less)");
  values.resize(static_cast<std::size_t>(count));
  parallel_for(count, [&](std::int64_t begin, std::int64_t end) {
    constexpr std::uint32_t lanes = 64;  // quads side by side, so that the loop over them becomes one of vectors
    float quads[4][lanes];
    for (; begin < end; begin += 4 * lanes) {
      const auto first = static_cast<std::uint32_t>(begin / 4);
      for (std::uint32_t i = 0; i < lanes; ++i) {
        const math::Normals4 n = math::normals({1, Purpose::prior, stream, 0, 0}, first + i);
        for (std::uint32_t j = 0; j < 4; ++j) quads[j][i] = deviation * n.v[j];
      }
      const std::int64_t here = std::min<std::int64_t>(4 * lanes, end - begin);
      for (std::int64_t i = 0; i < here; ++i) values[static_cast<std::size_t>(begin + i)] = quads[i % 4][i / 4];
    }
  });
  return values;
}

template <class T>
std::vector<T> contents(Backend& device, const Tensor& t) {
  std::vector<T> values(static_cast<std::size_t>(t.count()));
  device.download(values.data(), t);
  return values;
}

double sum(Backend& device, const Tensor& partial) {
  double total = 0;
  for (const float p : contents<float>(device, partial)) total += static_cast<double>(p);
  return total;
}

// The latent kernels are fused unless they are unfused.
LossVariant latent_kernels(LossVariant k) { return k == LossVariant::unfused ? k : LossVariant::fused; }

}  // namespace

LossInputs::LossInputs(const LossShape& shape, int outputs_each)
    : outputs(normal_values(shape.rows * outputs_each * shape.pixels, 0, 3)),
      stats(normal_values(shape.rows * 2 * shape.latent, 1, 1)),
      dz(normal_values(shape.rows * shape.latent, 2, 1)) {
  pixels.resize(static_cast<std::size_t>(shape.rows * shape.pixels));
  targets.resize(pixels.size());
  parallel_for(static_cast<std::int64_t>(pixels.size()), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; i += 4) {
      const math::Words w = math::random_words({1, Purpose::binarize, 0, 0, 0}, static_cast<std::uint32_t>(i / 4));
      const std::uint32_t words[] = {w.x, w.y, w.z, w.w};
      for (std::int64_t j = 0; j < std::min<std::int64_t>(4, end - i); ++j) {
        const auto at = static_cast<std::size_t>(i + j);
        pixels[at] = static_cast<std::uint8_t>(words[j] >> 24);
        targets[at] = math::pixel_value<float>(pixels[at]);
      }
    }
  });
}

std::vector<std::uint32_t> random_bits(std::size_t words) {
  std::vector<std::uint32_t> bits(words);
  parallel_for(static_cast<std::int64_t>(words), [&](std::int64_t begin, std::int64_t end) {
    for (; begin < end; begin += 4) {
      const math::Words w = math::random_words({1, Purpose::shuffle, 0, 0, 0}, static_cast<std::uint32_t>(begin / 4));
      const std::uint32_t quad[] = {w.x, w.y, w.z, w.w};
      std::copy_n(quad, std::min<std::int64_t>(4, end - begin), bits.begin() + begin);
    }
  });
  return bits;
}

LossCase::LossCase(const LossKind& kind, const LossShape& shape, DType output, const LossInputs& inputs)
    : kind_(kind), shape_(shape), inputs_(inputs) {
  if (output == DType::bf16) {
    halves_.resize(inputs.outputs.size());
    parallel_for(static_cast<std::int64_t>(halves_.size()), [&](std::int64_t begin, std::int64_t end) {
      std::transform(inputs.outputs.begin() + begin, inputs.outputs.begin() + end, halves_.begin() + begin,
                     [](float o) { return math::to_bf16(o); });
    });
  }
}

// ---- On a device ------------------------------------------------------------------------------------------------

void LossCase::layout(Arena& arena, Buffers& b, DType target) const {
  const auto [rows, pixels, latent, samples] = shape_;
  const std::int64_t images = shape_.images();
  if (kind_.likelihood) {
    const DType output = halves_.empty() ? DType::f32 : DType::bf16;
    b.output = arena.take({rows, outputs_each() * pixels}, output);
    b.target = arena.take({images, pixels}, target);
    b.grad = arena.take(b.output.shape, output);
    b.nll = arena.take({rows, ceil_div(pixels, pixel_chunk)});
  }
  if (kind_.has_latent) {
    b.state = arena.take({sizeof(StepState)}, DType::u8);
    b.stats = arena.take({images, 2 * latent});
    b.z = arena.take({images, samples, latent});
    b.kl = arena.take({ceil_div(images, latent_tile), latent});
    b.dz = arena.take({images, samples, latent});
    b.dstats = arena.take({images, 2 * latent});
  }
  if (kind_.is_weighted()) {
    b.sampled_kl = arena.take({images, samples});
    b.bound = arena.take({images});
    b.dnll = arena.take(b.nll.shape);
    b.dsampled_kl = arena.take({images, samples});
  }
}

void LossCase::upload(Backend& device, const Buffers& b) const {
  if (kind_.likelihood) {
    const void* const outputs = halves_.empty() ? static_cast<const void*>(inputs_.outputs.data()) : halves_.data();
    device.upload(b.output, outputs);
    const void* const pixels = inputs_.pixels.data();
    device.upload(b.target, b.target.dtype == DType::u8 ? pixels : inputs_.targets.data());
  }
  if (kind_.has_latent) {
    device.upload(b.state, &step_state());
    device.upload(b.stats, inputs_.stats.data());
    device.upload(b.dz, inputs_.dz.data());
  }
}

void LossCase::copy_inputs(Backend& device, const Buffers& to, const Buffers& from) const {
  if (kind_.likelihood) {
    device.copy(to.output, from.output);
    device.copy(to.target, from.target);
  }
  if (kind_.has_latent) {
    device.copy(to.state, from.state);
    device.copy(to.stats, from.stats);
    device.copy(to.dz, from.dz);
  }
}

void LossCase::call(Backend& device, const Buffers& b, LossVariant kernels, const Tensor& scratch) const {
  if (kind_.is_weighted()) return call_weighted(device, b, kernels, scratch);
  const LossVariant latent = latent_kernels(kernels);
  if (kind_.has_latent)
    device.run(SampleLatent{.stats = b.stats,
                            .state = b.state,
                            .posterior = posterior,
                            .variant = latent,
                            .z = b.z,
                            .kl_partial = b.kl,
                            .scratch = scratch});
  if (kind_.likelihood)
    device.run(LikelihoodLoss{.output = b.output,
                              .target = b.target,
                              .likelihood = *kind_.likelihood,
                              .variant = kernels,
                              .variance = static_cast<float>(variance),
                              .nll_partial = b.nll,
                              .grad = b.grad,
                              .scratch = scratch});
  if (kind_.has_latent)
    device.run(SampleLatentBackward{.stats = b.stats,
                                    .dz = b.dz,
                                    .state = b.state,
                                    .posterior = posterior,
                                    .variant = latent,
                                    .dstats = b.dstats,
                                    .scratch = scratch});
}

// The weight of a draw is known when all losses of its image are: the likelihood takes two calls.
void LossCase::call_weighted(Backend& device, const Buffers& b, LossVariant kernels, const Tensor& scratch) const {
  const LossVariant latent = latent_kernels(kernels);
  LikelihoodLoss likelihood{.output = b.output,
                            .target = b.target,
                            .likelihood = *kind_.likelihood,
                            .variant = kernels,
                            .nll_partial = b.nll,
                            .grad = {},
                            .scratch = scratch};
  device.run(SampleLatent{.stats = b.stats,
                          .state = b.state,
                          .posterior = posterior,
                          .variant = latent,
                          .z = b.z,
                          .kl_partial = {},
                          .sampled_kl = b.sampled_kl,
                          .scratch = scratch});
  device.run(likelihood);
  device.run(ImportanceBound{.nll_partial = b.nll,
                             .sampled_kl = b.sampled_kl,
                             .variant = latent,
                             .loss = b.bound,
                             .dnll_partial = b.dnll,
                             .dsampled_kl = b.dsampled_kl,
                             .scratch = scratch});
  likelihood.grad_scale = 0.0f;
  likelihood.dnll_partial = b.dnll;
  likelihood.nll_partial = {};
  likelihood.grad = b.grad;
  device.run(likelihood);
  device.run(SampleLatentBackward{.stats = b.stats,
                                  .dz = b.dz,
                                  .state = b.state,
                                  .posterior = posterior,
                                  .variant = latent,
                                  .kl_scale = 0.0f,
                                  .dsampled_kl = b.dsampled_kl,
                                  .dstats = b.dstats,
                                  .scratch = scratch});
}

LossResult LossCase::download(Backend& device, const Buffers& b) const {
  LossResult result;
  if (kind_.is_weighted()) {
    result.value = sum(device, b.bound);
  } else {
    if (kind_.likelihood) result.value += sum(device, b.nll);
    if (kind_.has_latent) result.value += sum(device, b.kl);
  }
  if (kind_.has_latent) result.dstats = contents<float>(device, b.dstats);
  if (kind_.likelihood && halves_.empty()) result.grad = contents<float>(device, b.grad);
  if (!halves_.empty()) {
    const std::vector<math::Bf16> grad = contents<math::Bf16>(device, b.grad);
    result.grad.resize(grad.size());
    parallel_for(static_cast<std::int64_t>(grad.size()), [&](std::int64_t begin, std::int64_t end) {
      std::transform(grad.begin() + begin, grad.begin() + end, result.grad.begin() + begin,
                     [](math::Bf16 g) { return math::to_float(g); });
    });
  }
  return result;
}

std::int64_t LossCase::scratch(LossVariant kernels) const {
  if (kernels != LossVariant::unfused) return 0;
  return shape_.rows * std::max(shape_.pixels, (kind_.is_weighted() ? 2 : 1) * shape_.latent) +
         (kind_.is_weighted() ? 2 * shape_.images() : 0);  // ImportanceBound's are a row each, and two an image
}

double LossCase::bytes(LossVariant kernels, DType target) const {
  const auto o = static_cast<double>(size_of(halves_.empty() ? DType::f32 : DType::bf16));
  const auto t = static_cast<double>(size_of(target));
  double bytes = 0;
  if (kind_.is_weighted()) {
    // kernels/likelihood.cu in two passes, latent.cu without the KL divergence in closed form, importance.cu;
    // unfused.cu.
    const auto pixels = static_cast<double>(shape_.pixels), latent = static_cast<double>(shape_.latent);
    const double parts = 8.0 * static_cast<double>(ceil_div(shape_.pixels, pixel_chunk) + 1);
    double draw = 3 * o * pixels + parts + 8 * latent + 8, image = 2 * t * pixels + 24 * latent + 4;
    if (kernels == LossVariant::unfused) {
      draw = (28 + 2 * t) * pixels + parts + 64 * latent + 40;
      image = 32 * latent + 32;
    }
    return static_cast<double>(shape_.rows) * draw + static_cast<double>(shape_.images()) * image;
  }
  if (kind_.likelihood) {
    const double each = outputs_each();
    const double pixel = kernels == LossVariant::unfused    ? 8 + 20 * each + 2 * t
                         : kernels == LossVariant::two_pass ? 3 * each * o + 2 * t
                                                            : 2 * each * o + t;
    bytes += pixel * static_cast<double>(shape_.rows * shape_.pixels);
  }
  if (kind_.has_latent) {
    // With one sample a row: kernels/latent.cu and unfused.cu, both directions.
    const double unit = kernels == LossVariant::unfused ? 36 + 60 : 12 + 20;
    bytes += unit * static_cast<double>(shape_.rows * shape_.latent);
    bytes += 4.0 * static_cast<double>(ceil_div(shape_.rows, latent_tile) * shape_.latent);
  }
  return bytes;
}

int LossCase::launches(const LossRival& rival) const {
  if (kind_.is_weighted()) return rival.weighted_launches;
  return (kind_.likelihood ? rival.likelihood_launches : 0) + (kind_.has_latent ? rival.latent_launches : 0);
}

// ---- The naive loops ----------------------------------------------------------------------------------------------

void LossCase::naive(LossResult& result) const {
  result.value = 0;
  if (kind_.is_weighted()) return naive_weighted(result);
  if (kind_.likelihood) naive_pixels(result);
  if (kind_.has_latent) naive_latent(result);
}

void LossCase::naive_pixels(LossResult& result) const {
  const std::size_t count = inputs_.outputs.size();
  result.grad.resize(count);
  switch (*kind_.likelihood) {
    case Likelihood::bernoulli:
      for (std::size_t i = 0; i < count; ++i) {
        const float o = inputs_.outputs[i], x = inputs_.targets[i];
        result.value += static_cast<double>(std::max(o, 0.0f) - o * x + std::log1p(std::exp(-std::abs(o))));
        result.grad[i] = 1.0f / (1.0f + std::exp(-o)) - x;
      }
      return;
    case Likelihood::gaussian:
      for (std::size_t i = 0; i < count; ++i) {
        const float d = inputs_.outputs[i] - inputs_.targets[i];
        result.value += static_cast<double>(
            0.5f * (d * d / static_cast<float>(variance) + std::log(2 * static_cast<float>(M_PI * variance))));
        result.grad[i] = d / static_cast<float>(variance);
      }
      return;
    case Likelihood::gaussian_learned: return naive_learned(result);
  }
}

void LossCase::naive_learned(LossResult& result) const {
  constexpr auto least = static_cast<float>(math::least_log_variance);
  const auto rows = static_cast<std::size_t>(shape_.rows), pixels = static_cast<std::size_t>(shape_.pixels);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t p = 0; p < pixels; ++p) {
      const std::size_t mean = 2 * row * pixels + p, raw = mean + pixels;
      const float d = inputs_.outputs[mean] - inputs_.targets[row * pixels + p], t = inputs_.outputs[raw] - least;
      const float log_variance = least + std::max(t, 0.0f) + std::log1p(std::exp(-std::abs(t)));
      const float precision = std::exp(-log_variance);
      result.value +=
          static_cast<double>(0.5f * (d * d * precision + log_variance + std::log(2 * static_cast<float>(M_PI))));
      result.grad[mean] = d * precision;
      result.grad[raw] = 0.5f * (1 - d * d * precision) / (1.0f + std::exp(-t));
    }
  }
}

void LossCase::naive_latent(LossResult& result) const {
  const std::int64_t latent = shape_.latent;
  result.z.resize(inputs_.dz.size());
  result.dstats.resize(inputs_.stats.size());
  for (std::int64_t row = 0; row < shape_.rows; ++row) {
    math::Normals4 drawn{};
    for (std::int64_t d = 0; d < latent; ++d) {
      if (d % 4 == 0) drawn = noise(row, d / 4);
      const auto at = static_cast<std::size_t>(row * latent + d), mu = static_cast<std::size_t>(2 * row * latent + d),
                 s = mu + static_cast<std::size_t>(latent);
      const float m = inputs_.stats[mu], log_variance = inputs_.stats[s], g = inputs_.dz[at];
      const float sigma = std::exp(0.5f * log_variance), eps = drawn.v[d % 4];
      result.z[at] = m + sigma * eps;
      result.value += static_cast<double>(0.5f * (std::exp(log_variance) + m * m - 1 - log_variance));
      result.dstats[mu] = g + m;
      result.dstats[s] = g * 0.5f * sigma * eps + 0.5f * (std::exp(log_variance) - 1);
    }
  }
}

void LossCase::naive_weighted(LossResult& result) const {
  const std::int64_t pixels = shape_.pixels, latent = shape_.latent, samples = shape_.samples;
  result.grad.resize(inputs_.outputs.size());
  result.z.resize(inputs_.dz.size());
  result.dstats.assign(static_cast<std::size_t>(2 * shape_.images() * latent), 0);
  std::vector<double> weights(static_cast<std::size_t>(samples));
  for (std::int64_t image = 0; image < shape_.images(); ++image) {
    const float* const x = inputs_.targets.data() + image * pixels;
    const float* const mu = inputs_.stats.data() + image * 2 * latent;
    float* const dmu = result.dstats.data() + image * 2 * latent;
    for (std::int64_t s = 0; s < samples; ++s) {
      double loss = 0;
      for (std::int64_t d = 0; d < latent; ++d) {
        const float eps = noise(image, d / 4, s).v[d % 4], z = mu[d] + std::exp(0.5f * mu[latent + d]) * eps;
        result.z[place(image, s, d)] = z;
        loss += static_cast<double>(0.5f * (z * z - eps * eps - mu[latent + d]));
      }
      const float* const output = inputs_.outputs.data() + (image * samples + s) * pixels;
      for (std::int64_t p = 0; p < pixels; ++p)
        loss += static_cast<double>(std::max(output[p], 0.0f) - output[p] * x[p] +
                                    std::log1p(std::exp(-std::abs(output[p]))));
      weights[static_cast<std::size_t>(s)] = -loss;
    }
    const double largest = *std::ranges::max_element(weights);
    double sum = 0;
    for (double& w : weights) sum += w = std::exp(w - largest);
    result.value -= largest + std::log(sum / static_cast<double>(samples));
    for (std::int64_t s = 0; s < samples; ++s) {
      const auto weight = static_cast<float>(weights[static_cast<std::size_t>(s)] / sum);
      const std::int64_t row = image * samples + s;
      for (std::int64_t p = 0; p < pixels; ++p) {
        const auto at = static_cast<std::size_t>(row * pixels + p);
        result.grad[at] = weight * (1.0f / (1.0f + std::exp(-inputs_.outputs[at])) - x[p]);
      }
      for (std::int64_t d = 0; d < latent; ++d) {
        const float g = inputs_.dz[place(image, s, d)] + weight * result.z[place(image, s, d)];
        dmu[d] += g;
        dmu[latent + d] += 0.5f * (g * (result.z[place(image, s, d)] - mu[d]) - weight);
      }
    }
  }
}

// ---- In float64 ---------------------------------------------------------------------------------------------------

void LossCase::refer() {
  value_ = 0;
  if (kind_.is_weighted()) return refer_to_weighted();
  if (kind_.likelihood) refer_to_pixels();
  if (kind_.has_latent) refer_to_latent();
}

void LossCase::refer_to_pixels() {
  const auto count = static_cast<std::int64_t>(inputs_.pixels.size());
  grad_.resize(inputs_.outputs.size());
  const auto output = [&](std::size_t i) {
    return static_cast<double>(halves_.empty() ? inputs_.outputs[i] : math::to_float(halves_[i]));
  };
  std::vector<double> values(static_cast<std::size_t>(ceil_div(count, parallel_chunk)));
  parallel_for(count, [&](std::int64_t begin, std::int64_t end) {
    double sum = 0;
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      const double x = inputs_.pixels[i] / 255.0;
      const auto add = [&](std::size_t at, const math::ValueGrad<double>& v) {
        sum += v.value;
        grad_[at] = v.grad;
      };
      switch (*kind_.likelihood) {
        case Likelihood::bernoulli: add(i, math::bernoulli(output(i), x)); break;
        case Likelihood::gaussian:
          add(i, math::gaussian(output(i), x, 0.5 / variance, 0.5 * std::log(2 * M_PI * variance)));
          break;
        case Likelihood::gaussian_learned: {
          const auto pixels = static_cast<std::size_t>(shape_.pixels);
          const std::size_t mean = i / pixels * 2 * pixels + i % pixels, raw = mean + pixels;
          const auto v = math::gaussian_learned<PixelMean::identity>({output(mean), output(raw)}, x);
          add(mean, {v.value, v.grad.first});
          grad_[raw] = v.grad.second;
          break;
        }
      }
    }
    values[static_cast<std::size_t>(begin / parallel_chunk)] = sum;
  });
  for (const double v : values) value_ += v;
}

void LossCase::refer_to_latent() {
  const std::int64_t latent = shape_.latent, count = shape_.rows * latent;
  dstats_.assign(static_cast<std::size_t>(2 * count), 0);
  std::vector<double> values(static_cast<std::size_t>(ceil_div(count, parallel_chunk)));
  parallel_for(count, [&](std::int64_t begin, std::int64_t end) {
    double sum = 0;
    math::Normals4 drawn{};
    for (std::int64_t at = begin; at < end; ++at) {
      const std::int64_t row = at / latent, d = at % latent;
      if (at == begin || d % 4 == 0) drawn = noise(row, d / 4);
      const auto mu = static_cast<std::size_t>(2 * row * latent + d), s = mu + static_cast<std::size_t>(latent);
      const double m = inputs_.stats[mu], log_variance = inputs_.stats[s];
      const double g = inputs_.dz[static_cast<std::size_t>(at)], eps = drawn.v[d % 4];
      const math::LatentGrad<double> kl = math::gaussian_kl_grad(posterior, m, log_variance);
      sum += math::gaussian_kl(posterior, m, log_variance);
      dstats_[mu] = g + kl.mu;
      dstats_[s] = g * math::sample_slope(posterior, log_variance, eps) + kl.s;
    }
    values[static_cast<std::size_t>(begin / parallel_chunk)] = sum;
  });
  for (const double v : values) value_ += v;
}

void LossCase::refer_to_weighted() {
  const std::int64_t pixels = shape_.pixels, latent = shape_.latent, samples = shape_.samples;
  grad_.resize(inputs_.outputs.size());
  dstats_.assign(static_cast<std::size_t>(2 * shape_.images() * latent), 0);
  std::vector<double> values(static_cast<std::size_t>(shape_.images()));
  const auto refer_to_image = [&](std::int64_t image) {
    const float* const stats = inputs_.stats.data() + image * 2 * latent;
    double* const dstats = dstats_.data() + image * 2 * latent;
    std::vector<double> weights(static_cast<std::size_t>(samples)), z(static_cast<std::size_t>(samples * latent));
    for (std::int64_t s = 0; s < samples; ++s) {
      double loss = 0;
      for (std::int64_t d = 0; d < latent; ++d) {
        const double log_variance = stats[latent + d], eps = noise(image, d / 4, s).v[d % 4];
        double& at_z = z[static_cast<std::size_t>(s * latent + d)];
        at_z = math::sample(double{stats[d]}, math::posterior_sigma(posterior, log_variance), eps);
        loss += math::sampled_kl(posterior, log_variance, at_z, eps);
      }
      for (std::int64_t p = 0; p < pixels; ++p) {
        const auto at = static_cast<std::size_t>((image * samples + s) * pixels + p);
        const double o = static_cast<double>(halves_.empty() ? inputs_.outputs[at] : math::to_float(halves_[at]));
        const auto v = math::bernoulli(o, inputs_.pixels[static_cast<std::size_t>(image * pixels + p)] / 255.0);
        loss += v.value;
        grad_[at] = v.grad;
      }
      weights[static_cast<std::size_t>(s)] = -loss;
    }
    const double largest = *std::ranges::max_element(weights);
    double sum = 0;
    for (double& w : weights) sum += w = std::exp(w - largest);
    values[static_cast<std::size_t>(image)] = -(largest + std::log(sum / static_cast<double>(samples)));
    for (std::int64_t s = 0; s < samples; ++s) {
      const double weight = weights[static_cast<std::size_t>(s)] / sum;
      for (std::int64_t p = 0; p < pixels; ++p)
        grad_[static_cast<std::size_t>((image * samples + s) * pixels + p)] *= weight;
      for (std::int64_t d = 0; d < latent; ++d) {
        const double log_variance = stats[latent + d], eps = noise(image, d / 4, s).v[d % 4];
        const double g = inputs_.dz[place(image, s, d)] + weight * z[static_cast<std::size_t>(s * latent + d)];
        dstats[d] += g;
        dstats[latent + d] += g * math::sample_slope(posterior, log_variance, eps) +
                              weight * math::sampled_kl_slope(posterior, log_variance);
      }
    }
  };
  parallel_for(shape_.images(), [&](std::int64_t begin, std::int64_t end) {
    for (; begin < end; ++begin) refer_to_image(begin);
  });
  for (const double v : values) value_ += v;
}

namespace {

// The largest difference, by the largest value; NaN if one of them is.
double error_of(const std::vector<float>& got, const std::vector<double>& expected) {
  require(got.size() == expected.size(), "a gradient has ", got.size(), " elements, its reference ", expected.size());
  const auto count = static_cast<std::int64_t>(expected.size());
  struct Worst {
    double error = 0, largest = 0;
    void take(double e, double value) {
      if (e > error || std::isnan(e)) error = e;  // a NaN stays: nothing is greater
      largest = std::max(largest, value);
    }
  };
  std::vector<Worst> worst(static_cast<std::size_t>(ceil_div(count, parallel_chunk)));
  parallel_for(count, [&](std::int64_t begin, std::int64_t end) {
    Worst here;
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i)
      here.take(std::abs(static_cast<double>(got[i]) - expected[i]), std::abs(expected[i]));
    worst[static_cast<std::size_t>(begin / parallel_chunk)] = here;
  });
  Worst all;
  for (const Worst& w : worst) all.take(w.error, w.largest);
  return expected.empty() ? 0 : all.error / all.largest;
}

}  // namespace

LossCase::Errors LossCase::errors(const LossResult& result) const {
  const double outputs = error_of(result.grad, grad_), stats = error_of(result.dstats, dstats_);
  return {std::abs(result.value - value_) / std::abs(value_), outputs > stats || std::isnan(outputs) ? outputs : stats};
}

}  // namespace elbo
