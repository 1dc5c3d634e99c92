// -log p(x | decoder output) of one pixel, in nats, with its gradient. Constants are included.
#pragma once
#include "elbo/math/arithmetic.h"
#include "elbo/math/elementary.h"

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

}  // namespace elbo::math
