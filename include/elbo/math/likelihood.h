// -log p(x | decoder output) of one pixel, in nats, with its gradient. Constants are included.
#pragma once
#include "elbo/math/elementary.h"

namespace elbo::math {

// A stored pixel as a value in [0, 1]; 0 and 255 exactly.
template <class T>
ELBO_HD T pixel_value(std::uint8_t pixel) {
  return T(pixel) * T(1.0 / 255.0);
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

// Bernoulli from a logit l and a target x in [0, 1] (C.1 of arXiv 1312.6114, in logits):
//   value = max(l, 0) - l x + log(1 + e^-|l|),   grad = d value / d l = sigmoid(l) - x.
template <class T>
ELBO_HD BernoulliParts<T> bernoulli_parts(T l, T x) {
  const T e = exp(-abs(l)), factor = T(1) + e, r = T(1) / factor;
  return {(l > T(0) ? l : T(0)) - l * x, factor, (l >= T(0) ? r : e * r) - x};
}

template <class T>
ELBO_HD ValueGrad<T> bernoulli(T l, T x) {
  const T e = exp(-abs(l)), factor = T(1) + e, r = T(1) / factor;
  // log1p(e) = log(factor) + what the rounding of factor lost, to first order
  const T softplus = log(factor) + (e - (factor - T(1))) * r;
  return {(l > T(0) ? l : T(0)) - l * x + softplus, (l >= T(0) ? r : e * r) - x};
}

// Gaussian with mean m and a given variance: value = ((x - m)^2 / variance + log(2 pi variance)) / 2,
// grad = d value / d m. half_precision = 1 / (2 variance), half_log = log(2 pi variance) / 2.
template <class T>
ELBO_HD ValueGrad<T> gaussian(T m, T x, T half_precision, T half_log) {
  const T d = m - x;
  return {d * d * half_precision + half_log, T(2) * d * half_precision};
}

}  // namespace elbo::math
