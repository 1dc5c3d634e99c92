// What the fused kernels share with the unfused ones: the loss of a pixel, the draw of a latent variable, and the
// launchers' checks.
#pragma once
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"
#include "elbo/sizes.h"
#include "elbo/step_state.h"
#include "kernels/importance.h"
#include "kernels/latent.h"
#include "kernels/launcher.h"
#include "kernels/likelihood.h"

namespace elbo::kernels {

// ---- Likelihood -------------------------------------------------------------------------------------

ELBO_HD float pixel(std::uint8_t stored) { return math::pixel_value<float>(stored); }
ELBO_HD float pixel(float stored) { return stored; }

// A loss, called with what the decoder says of a pixel and the target, gives value and gradient. parts() gives them
// with value = linear + log_part * log(factor), factor in [1, 2].
template <int n>
using PixelOutput = math::PixelOutput<float, n>;

template <int n>
struct PixelLoss {
  float value;
  PixelOutput<n> grad;
};

template <int n>
struct PixelLossParts {
  float linear, factor;
  PixelOutput<n> grad;
};

template <class Arithmetic>
struct Bernoulli {
  static constexpr int outputs = 1;
  static constexpr float log_part = 1.0f;

  ELBO_HD PixelLoss<1> operator()(PixelOutput<1> logit, float x) const {
    const math::ValueGrad<float> p = math::bernoulli(logit.first, x, Arithmetic{});
    return {p.value, {p.grad}};
  }
  ELBO_HD PixelLossParts<1> parts(PixelOutput<1> logit, float x) const {
    const math::BernoulliParts<float> p = math::bernoulli_parts(logit.first, x, Arithmetic{});
    return {p.linear, p.factor, {p.grad}};
  }
};

template <class Arithmetic>
struct Gaussian {
  static constexpr int outputs = 1;
  float half_precision, half_log;

  explicit Gaussian(float variance)
      : half_precision(static_cast<float>(0.5 / variance)),
        half_log(static_cast<float>(0.5 * std::log(6.283185307179586 * variance))) {}
  ELBO_HD PixelLoss<1> operator()(PixelOutput<1> mean, float x) const {
    const math::ValueGrad<float> p = math::gaussian(mean.first, x, half_precision, half_log, Arithmetic{});
    return {p.value, {p.grad}};
  }
};

template <class Arithmetic, PixelMean mean>
struct GaussianLearned {
  static constexpr int outputs = 2;
  static constexpr float log_part = 0.5f;

  ELBO_HD PixelLoss<2> operator()(PixelOutput<2> o, float x) const {
    const math::LearnedGaussian<float> p = math::gaussian_learned<mean>(o, x, Arithmetic{});
    return {p.value, p.grad};
  }
  ELBO_HD PixelLossParts<2> parts(PixelOutput<2> o, float x) const {
    const math::LearnedGaussianParts<float> p = math::gaussian_learned_parts<mean>(o, x, Arithmetic{});
    return {p.linear, p.factor, p.grad};
  }
};

inline void check_variance(const char* launcher, float variance) {
  require(variance > 0, launcher, ": a variance of ", variance);
}

// Calls f(loss), one of the above.
template <class Arithmetic, class Target, class Output, class F>
void with_loss(const char* launcher, Likelihood likelihood, const LikelihoodLoss<Target, Output>& a, const F& f) {
  switch (likelihood) {
    case Likelihood::bernoulli: return f(Bernoulli<Arithmetic>{});
    case Likelihood::gaussian: check_variance(launcher, a.variance); return f(Gaussian<Arithmetic>(a.variance));
    case Likelihood::gaussian_learned:
      switch (a.mean) {
        case PixelMean::identity: return f(GaussianLearned<Arithmetic, PixelMean::identity>{});
        case PixelMean::sigmoid: return f(GaussianLearned<Arithmetic, PixelMean::sigmoid>{});
      }
  }
}

template <class Target, class Output>
void check(const char* launcher, const LikelihoodLoss<Target, Output>& a) {
  require(a.output && a.target && (a.nll_partial || a.grad), launcher, ": a null buffer");
  require(a.rows > 0 && a.samples > 0 && a.pixels > 0, launcher, ": ", a.rows, " rows, ", a.samples, " samples, ",
          a.pixels, " pixels; each should be at least 1");
}

// ---- Latent variable --------------------------------------------------------------------------------

// What epsilon of (row, sample) is drawn for.
ELBO_HD math::Draw draw_of(const StepState& state, std::int64_t row, std::int64_t sample) {
  return {.seed = state.seed,
          .purpose = Purpose::latent,
          .step = state.noise_step,
          .row = state.row0 + static_cast<std::uint32_t>(row),
          .sample = static_cast<std::uint32_t>(sample)};
}

// z: the samples or their gradient. Without it there are 0 samples.
inline void check_latent(const char* launcher, const void* stats, const void* z, const StepState* state,
                         const void* out, std::int64_t rows, std::int64_t samples, std::int64_t latent) {
  require(stats && state && out, launcher, ": a null buffer");
  require(rows > 0 && (z ? samples > 0 : samples == 0) && latent > 0, launcher, ": ", rows, " rows, ", samples,
          " samples, ", latent, " latent dimensions; each should be at least 1");
}
inline void check(const char* launcher, const SampleLatent& a) {
  check_latent(launcher, a.stats, a.z, a.state, a.z ? a.z : a.kl_partial, a.rows, a.samples, a.latent);
  require(a.z || !a.sampled_kl, launcher, ": a KL divergence of draws without z");
}
inline void check(const char* launcher, const SampleLatentBackward& a) {
  check_latent(launcher, a.stats, a.dz, a.state, a.dstats, a.rows, a.samples, a.latent);
  require(a.dz || !a.has_sampled_kl(), launcher, ": the gradient of a sampled KL divergence without dz");
}

// ---- Importance weights -----------------------------------------------------------------------------

inline void check(const char* launcher, const ImportanceBound& a) {
  require(a.nll_partial && a.sampled_kl, launcher, ": a null buffer");
  require(a.rows > 0 && a.samples > 0 && a.chunks > 0, launcher, ": ", a.rows, " rows, ", a.samples, " samples, ",
          a.chunks, " parts of a loss; each should be at least 1");
}

}  // namespace elbo::kernels
