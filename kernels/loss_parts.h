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

template <int n>
using PixelOutput = math::PixelOutput<float, n>;

inline void check_variance(const char* launcher, float variance) {
  require(variance > 0, launcher, ": a variance of ", variance);
}

// Calls f(loss), the likelihood as a type (elbo/math/likelihood.h).
template <class Arithmetic, class Target, class Output, class F>
void with_loss(const char* launcher, Likelihood likelihood, const LikelihoodLoss<Target, Output>& a, const F& f) {
  switch (likelihood) {
    case Likelihood::bernoulli: return f(math::Bernoulli<Arithmetic>{});
    case Likelihood::gaussian: check_variance(launcher, a.variance); return f(math::Gaussian<Arithmetic>(a.variance));
    case Likelihood::gaussian_learned:
      return math::with_pixel_mean(a.mean, [&](auto mean) { f(math::GaussianLearned<Arithmetic, mean>{}); });
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
