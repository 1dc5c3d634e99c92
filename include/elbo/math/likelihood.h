// -log p(x | decoder output) of one pixel, in nats, with its gradient. Constants are included.
//
// An output that is NaN makes value and gradient NaN, an infinite one a value that is not finite: no fault of a network
// is hidden. Kernels that differ in how they sum give the same gradients, bit for bit.
#pragma once
#include <cmath>
#include <type_traits>

#include "elbo/math/arithmetic.h"
#include "elbo/math/elementary.h"
#include "elbo/types.h"

namespace elbo::math {

// A stored pixel as a value in [0, 1]; 0 and 255 exactly.
template <class T>
ELBO_HD T pixel_value(std::uint8_t pixel) {
  return T(pixel) * T(1.0 / 255.0);
}

// The same, to the bit, of 2^23 + pixel: what a byte is as the lowest bits of a float. The second product is exact, so
// that the first is rounded as above.
ELBO_HD float pixel_value_of_shifted(float shifted) {
  constexpr float scale = 1.0 / 255.0;
  return exact::fma(shifted, scale, -8388608.0f * scale);
}

template <class T>
struct ValueGrad {
  T value, grad;
};

// What the decoder says of a pixel, or the gradient of that: n numbers. No array, since g++ would not make vectors of
// it.
template <class T, int n>
struct PixelOutput;
template <class T>
struct PixelOutput<T, 1> {
  T first;

  ELBO_HD T operator[](int) const { return first; }
};
template <class T>
struct PixelOutput<T, 2> {
  T first, second;

  ELBO_HD T operator[](int i) const { return i == 0 ? first : second; }
};

// The Bernoulli loss in parts: value = linear + log(factor), so that a sum over up to 127 pixels needs
// one logarithm: every factor lies in [1, 2], and their product below 2^127.
template <class T>
struct BernoulliParts {
  T linear, factor, grad;
};

// e^-|l| and what is made of it.
template <class T>
struct Sigmoid {
  T e, factor, reciprocal;  // factor = 1 + e, reciprocal = 1 / factor

  template <class A>
  ELBO_HD Sigmoid(T l, A arithmetic)
      : e(arithmetic.exp_of_minus_abs(l)), factor(T(1) + e), reciprocal(arithmetic.reciprocal(factor)) {}
};

// Bernoulli from a logit l and a target x in [0, 1] (C.1 of arXiv 1312.6114, in logits):
//   value = max(l, 0) - l x + log(1 + e^-|l|),   grad = d value / d l = sigmoid(l) - x.
template <class T, class A = Exact>
ELBO_HD BernoulliParts<T> bernoulli_parts(T l, T x, A arithmetic = {}) {
  const Sigmoid<T> s(l, arithmetic);
  return {arithmetic.multiply_add(-l, x, l > T(0) ? l : T(0)), s.factor,
          arithmetic.multiply_add(l >= T(0) ? T(1) : s.e, s.reciprocal, -x)};
}

template <class T, class A = Exact>
ELBO_HD ValueGrad<T> bernoulli(T l, T x, A arithmetic = {}) {
  const Sigmoid<T> s(l, arithmetic);
  const T softplus = arithmetic.log1p(s.e, s.factor, s.reciprocal);  // of -|l|
  return {arithmetic.multiply_add(-l, x, l > T(0) ? l : T(0)) + softplus,
          arithmetic.multiply_add(l >= T(0) ? T(1) : s.e, s.reciprocal, -x)};
}

// Gaussian with mean m and a given variance: value = ((x - m)^2 / variance + log(2 pi variance)) / 2,
// grad = d value / d m. half_precision = 1 / (2 variance), half_log = log(2 pi variance) / 2.
template <class T, class A = Exact>
ELBO_HD ValueGrad<T> gaussian(T m, T x, T half_precision, T half_log, A arithmetic = {}) {
  const T d = m - x;
  return {arithmetic.multiply_add(d * d, half_precision, half_log), T(2) * d * half_precision};
}

// The loss of a pixel and its gradient by what the decoder says of it.
template <class T, int n>
struct PixelLoss {
  T value;
  PixelOutput<T, n> grad;
};

// The same, with value = linear + log_part log(factor), factor in [1, 2] and log_part a constant of the likelihood: one
// logarithm does for the product of many pixels' factors.
template <class T, int n>
struct PixelLossParts {
  T linear, factor;
  PixelOutput<T, n> grad;
};

// log(1 / 255^2): a standard deviation of one grey level, the least that a learned one may be. Without a least one the
// density of a pixel that never changes would grow without limit.
inline constexpr double least_log_variance = -11.082527090316852;
inline constexpr double largest_precision = 65025;  // e^-least_log_variance

// A Gaussian whose mean and variance are both learned (C.2 of arXiv 1312.6114), of o = (mean m, or a with
// m = sigmoid(a); raw log variance r) and a target x; log_part is 1/2. With b = least_log_variance and
// t = r - b, log variance v = b + softplus(t) = b + max(t, 0) + log(1 + e^-|t|), e^-v = e^-b sigmoid(-t):
//   value = ((m - x)^2 e^-v + v + log 2 pi) / 2
//   d value / d m = (m - x) e^-v,   d value / d a = d value / d m m (1 - m)
//   d value / d r = (1 - (m - x)^2 e^-v) / 2 sigmoid(t)
template <PixelMean mean, class T, class A>
class LearnedGaussianTerms {
 public:
  ELBO_HD LearnedGaussianTerms(const PixelOutput<T, 2>& o, T x, A arithmetic) : s_(o.second - b, arithmetic) {
    const T t = o.second - b, first = o.first;
    const bool is_least = t < T(0);
    const T precision = T(largest_precision) * ((is_least ? T(1) : s_.e) * s_.reciprocal);
    T m = first, slope = T(1), constant = T(0.5 * (least_log_variance + 1.8378770664093453));  // log 2 pi
    if constexpr (mean == PixelMean::sigmoid) {
      const Sigmoid<T> squashed(first, arithmetic);
      m = (first >= T(0) ? T(1) : squashed.e) * squashed.reciprocal;
      slope = squashed.e * squashed.reciprocal * squashed.reciprocal;
      constant = arithmetic.multiply_add(first, T(0), constant);  // an infinite output, which m hides, is to be seen
    }
    const T d = m - x, scaled = d * precision, half_square = T(0.5) * d * scaled;
    // t + |t| is 2 max(t, 0), and NaN for t = -infinity, which the variance would hide.
    linear_ = arithmetic.multiply_add(t + abs(t), T(0.25), constant) + half_square;
    grad_ = {scaled * slope, (T(0.5) - half_square) * ((is_least ? s_.e : T(1)) * s_.reciprocal)};
  }
  ELBO_HD PixelLossParts<T, 2> parts() const { return {linear_, s_.factor, grad_}; }
  ELBO_HD PixelLoss<T, 2> sum(A arithmetic) const {
    return {arithmetic.multiply_add(arithmetic.log1p(s_.e, s_.factor, s_.reciprocal), T(0.5), linear_), grad_};
  }

 private:
  static constexpr T b = T(least_log_variance);

  Sigmoid<T> s_;  // of t
  T linear_;
  PixelOutput<T, 2> grad_;
};

template <PixelMean mean, class T, class A = Exact>
ELBO_HD PixelLossParts<T, 2> gaussian_learned_parts(const PixelOutput<T, 2>& o, T x, A arithmetic = {}) {
  return LearnedGaussianTerms<mean, T, A>(o, x, arithmetic).parts();
}

template <PixelMean mean, class T, class A = Exact>
ELBO_HD PixelLoss<T, 2> gaussian_learned(const PixelOutput<T, 2>& o, T x, A arithmetic = {}) {
  return LearnedGaussianTerms<mean, T, A>(o, x, arithmetic).sum(arithmetic);
}

// ---- The likelihoods as types, for loops and kernels that are written once --------------------------------
// Called with what the decoder says of a pixel and the target, one gives a PixelLoss; parts(), where the loss has a
// logarithm, the PixelLossParts.

template <class A>
struct Bernoulli {
  static constexpr int outputs = 1;
  static constexpr float log_part = 1.0f;

  ELBO_HD PixelLoss<float, 1> operator()(PixelOutput<float, 1> logit, float x) const {
    const ValueGrad<float> p = bernoulli(logit.first, x, A{});
    return {p.value, {p.grad}};
  }
  ELBO_HD PixelLossParts<float, 1> parts(PixelOutput<float, 1> logit, float x) const {
    const BernoulliParts<float> p = bernoulli_parts(logit.first, x, A{});
    return {p.linear, p.factor, {p.grad}};
  }
};

template <class A>
struct Gaussian {
  static constexpr int outputs = 1;
  float half_precision, half_log;

  explicit Gaussian(double variance)
      : half_precision(static_cast<float>(0.5 / variance)),
        half_log(static_cast<float>(0.5 * std::log(6.283185307179586 * variance))) {}
  ELBO_HD PixelLoss<float, 1> operator()(PixelOutput<float, 1> mean, float x) const {
    const ValueGrad<float> p = gaussian(mean.first, x, half_precision, half_log, A{});
    return {p.value, {p.grad}};
  }
};

template <class A, PixelMean mean>
struct GaussianLearned {
  static constexpr int outputs = 2;
  static constexpr float log_part = 0.5f;

  ELBO_HD PixelLoss<float, 2> operator()(PixelOutput<float, 2> o, float x) const {
    return gaussian_learned<mean>(o, x, A{});
  }
  ELBO_HD PixelLossParts<float, 2> parts(PixelOutput<float, 2> o, float x) const {
    return gaussian_learned_parts<mean>(o, x, A{});
  }
};

// f(constant), the mean as a constant.
template <class F>
void with_pixel_mean(PixelMean mean, const F& f) {
  switch (mean) {
    case PixelMean::identity: return f(std::integral_constant<PixelMean, PixelMean::identity>{});
    case PixelMean::sigmoid: return f(std::integral_constant<PixelMean, PixelMean::sigmoid>{});
  }
}

}  // namespace elbo::math
