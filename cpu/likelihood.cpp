// The reconstruction loss and its gradient: Bernoulli from logits, Gaussian with a given variance or a learned one.
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

// ---- What the loops have in common --------------------------------------------------------------------

using math::Exact;

template <int n>
using Output = math::PixelOutput<float, n>;

// A loss whose factors are all 1: a logarithm, where the loss has one, is taken for each pixel.
template <class Of>
struct PixelByPixel {
  static constexpr int outputs = Of::outputs;
  static constexpr float log_part = 1.0f;
  Of loss;

  ELBO_HD math::PixelLossParts<float, outputs> parts(Output<outputs> o, float x) const {
    const auto p = loss(o, x);
    return {.linear = p.value, .factor = 1.0f, .grad = p.grad};
  }
};

// What the decoder says of the pixel whose first number is *o and whose second, where there is one, is `pixels` behind.
template <int n, class T>
ELBO_HD Output<n> read(const T* o, [[maybe_unused]] std::int64_t pixels) {
  if constexpr (n == 1) {
    return {math::to_float(*o)};
  } else {
    return {math::to_float(*o), math::to_float(o[pixels])};
  }
}

// Writes a gradient, weighed, to where its pixel's numbers are.
template <class T, int n>
ELBO_HD void write(T* to, [[maybe_unused]] std::int64_t pixels, const Output<n>& grad, float weight) {
  *to = math::round_to<T>(grad.first * weight);
  if constexpr (n == 2) to[pixels] = math::round_to<T>(grad.second * weight);
}

// The bodies of the loops over pixels. They are functions, since a struct that is made in the body of an `omp simd`
// loop keeps g++ from making vectors of it.

// The linear part and the factor of a pixel's loss; its gradient, weighed, to `grad` if it is wanted.
template <bool has_grad, class Of, class T>
ELBO_HD void take_parts(const Of& loss, const T* o, float x, std::int64_t pixels, float weight, float* linear,
                        float* factor, [[maybe_unused]] T* grad) {
  const auto p = loss.parts(read<Of::outputs>(o, pixels), x);
  *linear = p.linear;
  *factor = p.factor;
  if constexpr (has_grad) write(grad, pixels, p.grad, weight);
}

template <class Of, class T>
ELBO_HD void take_gradient(const Of& loss, const T* o, float x, std::int64_t pixels, float weight, T* grad) {
  write(grad, pixels, loss.parts(read<Of::outputs>(o, pixels), x).grad, weight);
}

template <class Of>
ELBO_HD float pixel_value(const Of& loss, const float* o, float x, std::int64_t pixels) {
  return loss(read<Of::outputs>(o, pixels), x).value;
}

template <class Of>
ELBO_HD void take_pixel_gradient(const Of& loss, const float* o, float x, std::int64_t pixels, float* grad) {
  write(grad, pixels, loss(read<Of::outputs>(o, pixels), x).grad, 1.0f);
}

// Some neighbouring pixels of a row, as many as are summed up by themselves.
template <class Target>
struct Chunk {
  std::int64_t number;             // among those of all rows
  std::int64_t row, first, count;  // of the output; its first pixel in that; its pixels
  const Target* target;
  float weight;  // of the gradients
};

template <class Target, class F>
void for_each_chunk(Team& team, const LikelihoodLoss& a, const F& f) {
  const std::int64_t outputs = a.output.rows(), pixels = a.target.columns(), samples = outputs / a.target.rows();
  const std::int64_t chunks = ceil_div(pixels, pixel_chunk);
  const Target* const target = a.target.as<Target>();
  const float* const weights = address_of<float>(a.dnll_partial);
  team.run(outputs * chunks, [=, scale = a.grad_scale](std::int64_t i) {
    const std::int64_t row = i / chunks, first = i % chunks * pixel_chunk;
    f(Chunk<Target>{.number = i,
                    .row = row,
                    .first = first,
                    .count = std::min(pixel_chunk, pixels - first),
                    .target = target + row / samples * pixels + first,
                    .weight = weights ? scale + weights[i] : scale});
  });
}

// ---- The gradient alone: the second of two passes ---------------------------------------------------------

template <class Target, class T, class Of>
void likelihood_gradient(Team& team, const Of& loss, const LikelihoodLoss& a) {
  constexpr int each = Of::outputs;
  const T* const output = a.output.as<T>();
  T* const grad = a.grad.as<T>();
  const std::int64_t pixels = a.target.columns();
  for_each_chunk<Target>(team, a, [=](const Chunk<Target>& c) {
    const std::int64_t at = c.row * each * pixels + c.first, count = c.count;
    const Target* const target = c.target;
    const float weight = c.weight;
#pragma omp simd
    for (std::int64_t p = 0; p < count; ++p)
      take_gradient(loss, output + at + p, value_of(target[p]), pixels, weight, grad + at + p);
  });
}

// ---- Fused: one pass --------------------------------------------------------------------------------------

// The loss of a chunk, whose first pixel is at `output` and `grad`; their gradients, weighed, unless `grad` is null.
// `grad` may be `output`.
template <bool has_grad, class Of, class Target, class T>
float likelihood_fused_chunk(const Of& loss, const T* output, T* grad, std::int64_t pixels, const Chunk<Target>& c) {
  float x[block], linear[block], factor[block];
  const float weight = c.weight;
  double total = 0;
  for (std::int64_t begin = 0; begin < c.count; begin += block) {
    const std::int64_t count = std::min(block, c.count - begin), whole = ceil_div(count, lanes) * lanes;
    for (std::int64_t i = 0; i < count; ++i) x[i] = value_of(c.target[begin + i]);
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i)
      take_parts<has_grad>(loss, output + begin + i, x[i], pixels, weight, linear + i, factor + i, grad + begin + i);
    std::fill(linear + count, linear + whole, 0.0f);
    std::fill(factor + count, factor + whole, 1.0f);
    for (std::int64_t i = lanes; i < whole; i += lanes) {
#pragma omp simd
      for (std::int64_t k = 0; k < lanes; ++k) {
        linear[k] += linear[i + k];
        factor[k] *= factor[i + k];
      }
    }
    for (std::int64_t k = 0; k < lanes; ++k) total += double{linear[k]} + double{Of::log_part * math::log(factor[k])};
  }
  return static_cast<float>(total);
}

template <class Target, class T, class Of>
void likelihood_fused(Team& team, const Of& loss, const LikelihoodLoss& a) {
  if (!a.nll_partial) return likelihood_gradient<Target, T>(team, loss, a);
  const T* const output = a.output.as<T>();
  float* const nll = a.nll_partial.as<float>();
  T* const grad = address_of<T>(a.grad);
  const std::int64_t pixels = a.target.columns();
  for_each_chunk<Target>(team, a, [=](const Chunk<Target>& c) {
    const std::int64_t at = c.row * Of::outputs * pixels + c.first;
    nll[c.number] = grad ? likelihood_fused_chunk<true>(loss, output + at, grad + at, pixels, c)
                         : likelihood_fused_chunk<false>(loss, output + at, grad, pixels, c);
  });
}

// ---- Two passes -------------------------------------------------------------------------------------------

template <class Target, class T, class Of>
void likelihood_two_pass(Team& team, const Of& loss, const LikelihoodLoss& a) {
  LikelihoodLoss value = a;
  value.grad = {};
  if (a.nll_partial) likelihood_fused<Target, T>(team, loss, value);
  if (a.grad) likelihood_gradient<Target, T>(team, loss, a);
}

// ---- Unfused: one loop over the batch for each operation --------------------------------------------------

template <class Target, class Of>
void likelihood_unfused(Team& team, const Of& loss, const LikelihoodLoss& a) {
  constexpr int each = Of::outputs;
  const float* const output = a.output.as<float>();
  const std::int64_t pixels = a.target.columns();
  if (a.nll_partial) {
    float *const values = a.scratch.as<float>(), *const nll = a.nll_partial.as<float>();
    for_each_chunk<Target>(team, a, [=](const Chunk<Target>& c) {
      const std::int64_t at = c.row * each * pixels + c.first, to = c.row * pixels + c.first, count = c.count;
      const Target* const target = c.target;
#pragma omp simd
      for (std::int64_t p = 0; p < count; ++p)
        values[to + p] = pixel_value(loss, output + at + p, value_of(target[p]), pixels);
    });
    for_each_chunk<Target>(team, a, [=](const Chunk<Target>& c) {
      double sum = 0;
      for (std::int64_t p = 0; p < c.count; ++p) sum += double{values[c.row * pixels + c.first + p]};
      nll[c.number] = static_cast<float>(sum);
    });
  }
  if (!a.grad) return;
  float* const grad = a.grad.as<float>();
  for_each_chunk<Target>(team, a, [=](const Chunk<Target>& c) {
    const std::int64_t at = c.row * each * pixels + c.first, count = c.count;
    const Target* const target = c.target;
#pragma omp simd
    for (std::int64_t p = 0; p < count; ++p)
      take_pixel_gradient(loss, output + at + p, value_of(target[p]), pixels, grad + at + p);
  });
  for_each_chunk<Target>(team, a, [=](const Chunk<Target>& c) {
    const std::int64_t count = c.count;
    const float weight = c.weight;
    for (int k = 0; k < each; ++k) {
      float* const scaled = grad + (c.row * each + k) * pixels + c.first;
#pragma omp simd
      for (std::int64_t p = 0; p < count; ++p) scaled[p] *= weight;
    }
  });
}

}  // namespace

void CpuBackend::do_run(const LikelihoodLoss& a) {
  const auto with_types = [&]<class Target, class T>(const auto& loss, const auto& fastest) {
    switch (a.variant) {
      case LossVariant::fused: return likelihood_fused<Target, T>(team_, fastest, a);
      case LossVariant::fused_log:
        return likelihood_fused<Target, T>(team_, PixelByPixel<std::decay_t<decltype(loss)>>{loss}, a);
      case LossVariant::two_pass: return likelihood_two_pass<Target, T>(team_, fastest, a);
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
    case Likelihood::bernoulli: return with_loss(math::Bernoulli<Exact>{}, math::Bernoulli<Exact>{});
    case Likelihood::gaussian: {
      const math::Gaussian<Exact> loss(a.variance);
      return with_loss(loss, PixelByPixel<math::Gaussian<Exact>>{loss});
    }
    case Likelihood::gaussian_learned:
      return math::with_pixel_mean(a.mean, [&](auto mean) {
        with_loss(math::GaussianLearned<Exact, mean>{}, math::GaussianLearned<Exact, mean>{});
      });
  }
}

}  // namespace elbo::cpu
