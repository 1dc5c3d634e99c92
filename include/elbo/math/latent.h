// The latent variable: z = mu + sigma eps, its Kullback-Leibler divergence from N(0, 1) in nats, and
// the gradients of both (appendix B of arXiv 1312.6114). `s` is the encoder's second head: log sigma^2,
// or sigma itself (of any sign; a sigma of exactly 0 has an infinite KL).
#pragma once
#include "elbo/math/arithmetic.h"
#include "elbo/math/elementary.h"
#include "elbo/types.h"

namespace elbo::math {

template <class T, class A = Exact>
ELBO_HD T posterior_sigma(Posterior p, T s, A arithmetic = {}) {
  return p == Posterior::log_variance ? arithmetic.exp_of_half(s) : s;
}

// log sigma^2
template <class T, class A = Exact>
ELBO_HD T posterior_log_variance(Posterior p, T s, A arithmetic = {}) {
  return p == Posterior::log_variance ? s : T(2) * arithmetic.log_of_abs(s);  // s * s could underflow
}

// KL(N(mu, sigma^2) || N(0, 1)) = (sigma^2 + mu^2 - 1 - log sigma^2) / 2; sigma is that of s.
template <class T, class A = Exact>
ELBO_HD T gaussian_kl(Posterior p, T mu, T s, T sigma, A arithmetic = {}) {
  const T log_variance = posterior_log_variance(p, s, arithmetic);
  return T(0.5) * (arithmetic.multiply_add(mu, mu, sigma * sigma) - T(1) - log_variance);
}
template <class T>
ELBO_HD T gaussian_kl(Posterior p, T mu, T s) {
  return gaussian_kl(p, mu, s, posterior_sigma(p, s));
}

template <class T>
struct LatentGrad {
  T mu, s;
};

// dKL/dmu and dKL/ds
template <class T, class A = Exact>
ELBO_HD LatentGrad<T> gaussian_kl_grad(Posterior p, T mu, T s, A arithmetic = {}) {
  if (p == Posterior::log_variance) return {mu, T(0.5) * (arithmetic.exp(s) - T(1))};
  return {mu, s - arithmetic.inverse(s)};
}

// z = mu + sigma eps
template <class T, class A = Exact>
ELBO_HD T sample(T mu, T sigma, T eps, A arithmetic = {}) {
  return arithmetic.multiply_add(sigma, eps, mu);
}

// dz/ds for z = mu + sigma(s) eps (dz/dmu is 1)
template <class T, class A = Exact>
ELBO_HD T sample_slope(Posterior p, T s, T eps, A arithmetic = {}) {
  return p == Posterior::log_variance ? T(0.5) * posterior_sigma(p, s, arithmetic) * eps : eps;
}

// log q(z|x) - log p(z) of a draw z = mu + sigma eps: (z^2 - eps^2 - log sigma^2) / 2. Its mean over draws is the KL
// divergence.
template <class T, class A = Exact>
ELBO_HD T sampled_kl(Posterior p, T s, T z, T eps, A arithmetic = {}) {
  return T(0.5) * (arithmetic.multiply_add(z, z, -(eps * eps)) - posterior_log_variance(p, s, arithmetic));
}

// Its derivative by s where z and eps stay; that by z is z.
template <class T, class A = Exact>
ELBO_HD T sampled_kl_slope(Posterior p, T s, A arithmetic = {}) {
  return p == Posterior::log_variance ? T(-0.5) : -arithmetic.inverse(s);
}

}  // namespace elbo::math
