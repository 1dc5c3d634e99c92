// Activations and their derivatives. A derivative is a function of the output alone, so that only
// outputs need to be kept for the backward pass.
#pragma once
#include "elbo/math/elementary.h"
#include "elbo/types.h"

namespace elbo::math {

template <class T>
ELBO_HD T activate(Activation kind, T x) {
  switch (kind) {
    case Activation::relu: return x < T(0) ? T(0) : x;  // a NaN stays a NaN
    case Activation::tanh: return tanh(x);
    case Activation::softplus: {  // log(1 + e^x), without overflow and exact for x << 0
      const T e = exp(-abs(x)), d = T(1) + e;
      return (x > T(0) ? x : T(0)) + log(d) + (e - (d - T(1))) / d + (x - x);
    }
    case Activation::identity: return x;
  }
  return x;
}

// dy/dx from y = activate(kind, x). ReLU at 0: 0, as PyTorch has it.
template <class T>
ELBO_HD T activation_slope(Activation kind, T y) {
  switch (kind) {
    case Activation::relu: return y > T(0) ? T(1) : T(0);
    case Activation::tanh: return T(1) - y * y;
    case Activation::softplus: return T(1) - exp(-y);
    case Activation::identity: return T(1);
  }
  return T(1);
}

}  // namespace elbo::math
