// The reconstruction loss and its gradient: Bernoulli from logits, Gaussian with a given variance.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cpu/device.h"
#include "elbo/math/likelihood.h"

namespace elbo::cpu {
namespace {

constexpr std::int64_t lanes = 16;    // running sums of a chunk, so that their order is the source's
constexpr std::int64_t block = 1024;  // pixels between two logarithms of a lane
static_assert(block % lanes == 0 && block / lanes <= 127, "a float holds the product of 127 Bernoulli factors");

ELBO_HD float value_of(std::uint8_t stored) { return math::pixel_value<float>(stored); }
ELBO_HD float value_of(float stored) { return stored; }

// ---- The two likelihoods ------------------------------------------------------------------------------
// pixel: loss and gradient of one pixel. parts: the same, with loss = linear + log(factor), so that one logarithm does
// for the product of many factors.

struct Bernoulli {
  ELBO_HD math::ValueGrad<float> pixel(float logit, float x) const { return math::bernoulli(logit, x); }
  ELBO_HD math::BernoulliParts<float> parts(float logit, float x) const { return math::bernoulli_parts(logit, x); }
};

struct Gaussian {
  float half_precision, half_log;

  ELBO_HD math::ValueGrad<float> pixel(float mean, float x) const {
    return math::gaussian(mean, x, half_precision, half_log);
  }
};

// A loss whose factors are all 1: a logarithm, where the loss has one, is taken for each pixel.
template <class Loss>
struct PixelByPixel {
  Loss loss;

  ELBO_HD math::BernoulliParts<float> parts(float output, float x) const {
    const auto p = loss.pixel(output, x);
    return {.linear = p.value, .factor = 1.0f, .grad = p.grad};
  }
};

Gaussian gaussian(double variance) {
  return {.half_precision = static_cast<float>(0.5 / variance),
          .half_log = static_cast<float>(0.5 * std::log(2.0 * M_PI * variance))};
}

// Calls f(i, at, x, weight, n) for chunk i of all rows' chunks: its n pixels begin at element `at` of the output and at
// the target x, and `weight` is that of their gradients.
template <class Target, class F>
void for_each_chunk(Team& team, const LikelihoodLoss& a, const F& f) {
  const std::int64_t outputs = a.output.rows(), pixels = a.output.columns(), samples = outputs / a.target.rows();
  const std::int64_t chunks = ceil_div(pixels, pixel_chunk);
  const Target* const target = a.target.as<Target>();
  const float* const weights = address_of<float>(a.dnll_partial);
  team.run(outputs * chunks, [=, scale = a.grad_scale](std::int64_t i) {
    const std::int64_t row = i / chunks, first = i % chunks * pixel_chunk;
    f(i, row * pixels + first, target + row / samples * pixels + first, weights ? scale + weights[i] : scale,
      std::min(pixel_chunk, pixels - first));
  });
}

// ---- The gradient alone: the second of two passes ---------------------------------------------------------

template <class Target, class Output, class Loss>
void likelihood_gradient(Team& team, const Loss& loss, const LikelihoodLoss& a) {
  const Output* const output = a.output.as<Output>();
  Output* const grad = a.grad.as<Output>();
  for_each_chunk<Target>(team, a, [=](std::int64_t, std::int64_t at, const Target* x, float weight, std::int64_t n) {
#pragma omp simd
    for (std::int64_t p = 0; p < n; ++p) {
      const float slope = loss.parts(math::to_float(output[at + p]), value_of(x[p])).grad;
      grad[at + p] = math::round_to<Output>(slope * weight);
    }
  });
}

// ---- Fused: one pass --------------------------------------------------------------------------------------

// The loss of n pixels; their gradients, weighed, to `grad` unless it is null. `grad` may be `output`.
template <bool has_grad, class Loss, class Target, class Output>
float likelihood_fused_chunk(const Loss& loss, const Output* output, const Target* target, Output* grad, float weight,
                             std::int64_t n) {
  float x[block], linear[block], factor[block];
  double total = 0;
  for (std::int64_t begin = 0; begin < n; begin += block) {
    const std::int64_t count = std::min(block, n - begin), whole = ceil_div(count, lanes) * lanes;
    for (std::int64_t i = 0; i < count; ++i) x[i] = value_of(target[begin + i]);
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) {
      const auto p = loss.parts(math::to_float(output[begin + i]), x[i]);
      linear[i] = p.linear;
      factor[i] = p.factor;
      if constexpr (has_grad) grad[begin + i] = math::round_to<Output>(p.grad * weight);
    }
    std::fill(linear + count, linear + whole, 0.0f);
    std::fill(factor + count, factor + whole, 1.0f);
    for (std::int64_t i = lanes; i < whole; i += lanes) {
#pragma omp simd
      for (std::int64_t k = 0; k < lanes; ++k) {
        linear[k] += linear[i + k];
        factor[k] *= factor[i + k];
      }
    }
    for (std::int64_t k = 0; k < lanes; ++k) total += double{linear[k]} + double{math::log(factor[k])};
  }
  return static_cast<float>(total);
}

template <class Target, class Output, class Loss>
void likelihood_fused(Team& team, const Loss& loss, const LikelihoodLoss& a) {
  if (!a.nll_partial) return likelihood_gradient<Target, Output>(team, loss, a);
  const Output* const output = a.output.as<Output>();
  float* const nll = a.nll_partial.as<float>();
  Output* const grad = address_of<Output>(a.grad);
  for_each_chunk<Target>(team, a, [=](std::int64_t i, std::int64_t at, const Target* x, float weight, std::int64_t n) {
    nll[i] = grad ? likelihood_fused_chunk<true>(loss, output + at, x, grad + at, weight, n)
                  : likelihood_fused_chunk<false>(loss, output + at, x, grad, weight, n);
  });
}

// ---- Two passes -------------------------------------------------------------------------------------------

template <class Target, class Output, class Loss>
void likelihood_two_pass(Team& team, const Loss& loss, const LikelihoodLoss& a) {
  LikelihoodLoss value = a;
  value.grad = {};
  if (a.nll_partial) likelihood_fused<Target, Output>(team, loss, value);
  if (a.grad) likelihood_gradient<Target, Output>(team, loss, a);
}

// ---- Unfused: one loop over the batch for each operation --------------------------------------------------

template <class Target, class Loss>
void likelihood_unfused(Team& team, const Loss& loss, const LikelihoodLoss& a) {
  const float* const output = a.output.as<float>();
  if (a.nll_partial) {
    float *const values = a.scratch.as<float>(), *const nll = a.nll_partial.as<float>();
    for_each_chunk<Target>(team, a, [=](std::int64_t, std::int64_t at, const Target* x, float, std::int64_t n) {
#pragma omp simd
      for (std::int64_t p = 0; p < n; ++p) values[at + p] = loss.pixel(output[at + p], value_of(x[p])).value;
    });
    for_each_chunk<Target>(team, a, [=](std::int64_t i, std::int64_t at, const Target*, float, std::int64_t n) {
      double sum = 0;
      for (std::int64_t p = 0; p < n; ++p) sum += double{values[at + p]};
      nll[i] = static_cast<float>(sum);
    });
  }
  if (!a.grad) return;
  float* const grad = a.grad.as<float>();
  for_each_chunk<Target>(team, a, [=](std::int64_t, std::int64_t at, const Target* x, float, std::int64_t n) {
#pragma omp simd
    for (std::int64_t p = 0; p < n; ++p) grad[at + p] = loss.pixel(output[at + p], value_of(x[p])).grad;
  });
  for_each_chunk<Target>(team, a, [=](std::int64_t, std::int64_t at, const Target*, float weight, std::int64_t n) {
#pragma omp simd
    for (std::int64_t p = 0; p < n; ++p) grad[at + p] *= weight;
  });
}

}  // namespace

void CpuBackend::do_run(const LikelihoodLoss& a) {
  const auto with_types = [&]<class Target, class Output>(const auto& loss, const auto& fastest) {
    switch (a.variant) {
      case LossVariant::fused: return likelihood_fused<Target, Output>(team_, fastest, a);
      case LossVariant::fused_log:
        return likelihood_fused<Target, Output>(team_, PixelByPixel<std::decay_t<decltype(loss)>>{loss}, a);
      case LossVariant::two_pass: return likelihood_two_pass<Target, Output>(team_, fastest, a);
      case LossVariant::unfused: return likelihood_unfused<Target>(team_, loss, a);
    }
  };
  const auto with_target = [&]<class Target>(const auto& loss, const auto& fastest) {
    a.output.dtype == DType::bf16 ? with_types.template operator()<Target, math::Bf16>(loss, fastest)
                                  : with_types.template operator()<Target, float>(loss, fastest);
  };
  const auto with_loss = [&](const auto& loss, const auto& fastest) {
    a.target.dtype == DType::u8 ? with_target.template operator()<std::uint8_t>(loss, fastest)
                                : with_target.template operator()<float>(loss, fastest);
  };
  switch (a.likelihood) {
    case Likelihood::bernoulli: return with_loss(Bernoulli{}, Bernoulli{});
    case Likelihood::gaussian: return with_loss(gaussian(a.variance), PixelByPixel<Gaussian>{gaussian(a.variance)});
  }
}

}  // namespace elbo::cpu
