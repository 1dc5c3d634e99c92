// The latent variable: z = mu + sigma eps, its Kullback-Leibler divergence from N(0, 1) in nats, and
// the gradients of both (appendix B of arXiv 1312.6114). `s` is the encoder's second head: log sigma^2,
// or sigma itself (of any sign; a sigma of exactly 0 has an infinite KL).
#pragma once
#include "elbo/math/elementary.h"
#include "elbo/types.h"

namespace elbo::math {

template <class T>
ELBO_HD T posterior_sigma(Posterior p, T s) {
  return p == Posterior::log_variance ? exp(T(0.5) * s) : s;
}

// KL(N(mu, sigma^2) || N(0, 1)) = (sigma^2 + mu^2 - 1 - log sigma^2) / 2
template <class T>
ELBO_HD T gaussian_kl(Posterior p, T mu, T s) {
  const T sigma = posterior_sigma(p, s);
  const T log_variance = p == Posterior::log_variance ? s : T(2) * log(abs(s));  // s * s could underflow
  return T(0.5) * (sigma * sigma + mu * mu - T(1) - log_variance);
}

template <class T>
struct LatentGrad {
  T mu, s;
};

// dKL/dmu and dKL/ds
template <class T>
ELBO_HD LatentGrad<T> gaussian_kl_grad(Posterior p, T mu, T s) {
  if (p == Posterior::log_variance) return {mu, T(0.5) * (exp(s) - T(1))};
  return {mu, s - T(1) / s};
}

// dz/ds for z = mu + sigma(s) eps (dz/dmu is 1)
template <class T>
ELBO_HD T sample_slope(Posterior p, T s, T eps) {
  return p == Posterior::log_variance ? T(0.5) * exp(T(0.5) * s) * eps : eps;
}

}  // namespace elbo::math
