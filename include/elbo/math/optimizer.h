// Optimisers, one parameter at a time, in PyTorch's conventions (torch.optim.Adam, Adagrad, SGD).
#pragma once
#include "elbo/math/elementary.h"
#include "elbo/types.h"

namespace elbo::math {

// Constants of a run. weight_decay: L2, added to the gradient as weight_decay * parameter.
struct OptimizerSettings {
  Optimizer type = Optimizer::adam;
  float learning_rate = 1e-3f;
  double beta1 = 0.9, beta2 = 0.999;  // Adam; double, since 1 - 0.999f is off by 1e-5
  float epsilon = 1e-8f;              // Adam, Adagrad
  float momentum = 0.0f;              // SGD
  float weight_decay = 0.0f;
};

// 1 - beta^t, t = 1 at the first step, without cancellation.
ELBO_HD double adam_correction(double beta, double t) { return beta > 0.0 ? -::expm1(t * ::log(beta)) : 1.0; }

// D. Kingma, J. Ba, «Adam», arXiv 1412.6980, algorithm 1. correction: 1 - beta^t for this step.
template <class T>
ELBO_HD void adam(T& p, T g, T& m, T& v, const OptimizerSettings& o, T correction1, T correction2) {
  m += (g - m) * T(1.0 - o.beta1);
  v = T(o.beta2) * v + T(1.0 - o.beta2) * g * g;
  p -= T(o.learning_rate) / correction1 * m / (sqrt(v) / sqrt(correction2) + T(o.epsilon));
}

// J. Duchi et al., «Adaptive subgradient methods», JMLR 12 (2011).
template <class T>
ELBO_HD void adagrad(T& p, T g, T& sum, const OptimizerSettings& o) {
  sum += g * g;
  p -= T(o.learning_rate) * g / (sqrt(sum) + T(o.epsilon));
}

// Momentum is the sum of past gradients: v <- momentum v + g, p <- p - rate v.
template <class T>
ELBO_HD void sgd(T& p, T g, T& velocity, const OptimizerSettings& o) {
  velocity = T(o.momentum) * velocity + g;
  p -= T(o.learning_rate) * velocity;
}

// One step of the chosen optimiser. Adagrad uses `m` as its sum, SGD as its velocity; neither touches v.
template <class T>
ELBO_HD void optimizer_update(T& p, T g, T& m, T& v, const OptimizerSettings& o, T correction1, T correction2) {
  g += T(o.weight_decay) * p;
  switch (o.type) {
    case Optimizer::adam: adam(p, g, m, v, o, correction1, correction2); break;
    case Optimizer::adagrad: adagrad(p, g, m, o); break;
    case Optimizer::sgd: sgd(p, g, m, o); break;
  }
}

}  // namespace elbo::math
