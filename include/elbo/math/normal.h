// The standard normal distribution function and its inverse, in double.
#pragma once
#include <cmath>

namespace elbo::math {

inline double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

// x with normal_cdf(x) = p for p in (0, 1), to a few ulp. Newton's method from 0 towards the lower tail: the
// distribution function is convex there, so the steps never pass the root.
inline double inverse_normal_cdf(double p) {
  const double tail = p < 0.5 ? p : 1.0 - p;
  double x = 0, step = 1;
  while (step > 1e-15 * (1.0 - x)) {
    const double density = std::exp(-0.5 * x * x) / std::sqrt(2.0 * M_PI);
    step = (normal_cdf(x) - tail) / density;
    x -= step;
  }
  return p < 0.5 ? x : -x;
}

}  // namespace elbo::math
