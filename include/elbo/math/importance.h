// Importance weights and the bound that is made of them (Burda, Grosse and Salakhutdinov, arXiv 1509.00519).
//
// Draw s of a row has the weight w_s = p(x, z_s) / q(z_s|x), of which log w_s = -(nll + kl): its reconstruction loss,
// and log q(z|x) - log p(z). The loss of a row is the negative of its bound (equation 8):
//   -log (1/S sum over s of w_s) = -(m + log (1/S sum over s of e^(log w_s - m))),  m the largest log w_s,
// and its gradient by nll and by kl of a draw is the draw's share of the weights, w_s / sum of w (equation 14).
//
// Logarithms of weights are of the size of a row's loss, hundreds or thousands of nats, and only their differences
// count. So they are added up and subtracted in double, and what is left is float's.
#pragma once
#include <cstdint>

#include "elbo/math/elementary.h"

namespace elbo::math {

// Below the logarithm of every weight whose losses are finite.
inline constexpr double lowest_log_weight = -1e300;

// log w of a draw, of the partial sums of its nll [chunks] and of its kl.
ELBO_HD double log_weight(const float* nll, std::int64_t chunks, float kl) {
  double loss = static_cast<double>(kl);
#if defined(__CUDA_ARCH__)
#pragma unroll 1
#endif
  for (std::int64_t c = 0; c < chunks; ++c) loss += static_cast<double>(nll[c]);
  return -loss;
}

// w of a draw by the largest, in [0, 1]; 0 below e^-87, so that no weight is subnormal.
ELBO_HD float relative_weight(double log_weight, double largest) {
  const auto difference = static_cast<float>(log_weight - largest);
  return difference < -87.0f ? 0.0f : math::exp(difference);
}

// The loss of a row of S samples, of the sum of the relative weights.
ELBO_HD float importance_loss(double largest, float sum, std::int64_t samples) {
  const auto log_of = [](float x) { return static_cast<double>(math::log(x)); };
  return static_cast<float>(log_of(static_cast<float>(samples)) - (largest + log_of(sum)));
}

}  // namespace elbo::math
