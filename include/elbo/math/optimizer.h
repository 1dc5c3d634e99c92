// Optimisers, one parameter at a time, in PyTorch's conventions (torch.optim.Adam, Adagrad, SGD).
#pragma once
#include "elbo/math/elementary.h"
#include "elbo/types.h"

namespace elbo::math {

// Constants of a run. weight_decay: L2, added to the gradient as weight_decay * parameter.
struct OptimizerSettings {
  OptimizerType type = OptimizerType::adam;
  float learning_rate = 1e-3f;
  double beta1 = 0.9, beta2 = 0.999;  // Adam; double, since 1 - 0.999f is off by 1e-5
  float epsilon = 1e-8f;              // Adam, Adagrad
  float momentum = 0.0f;              // SGD
  float weight_decay = 0.0f;
};

// 1 - beta^t, t = 1 at the first step, without cancellation.
ELBO_HD double adam_correction(double beta, double t) { return beta > 0.0 ? -::expm1(t * ::log(beta)) : 1.0; }

// What all parameters of all steps have in common, in the type they are computed in.
template <class T>
struct RunConstants {
  T learning_rate, beta2, rest1, rest2, epsilon, momentum, weight_decay;  // rest: 1 - beta

  ELBO_HD explicit RunConstants(const OptimizerSettings& o)
      : learning_rate(o.learning_rate),
        beta2(static_cast<T>(o.beta2)),
        rest1(static_cast<T>(1.0 - o.beta1)),
        rest2(static_cast<T>(1.0 - o.beta2)),
        epsilon(o.epsilon),
        momentum(o.momentum),
        weight_decay(o.weight_decay) {}
};

// And those of one step of Adam. correction: 1 - beta^t for this step.
template <class T>
struct AdamConstants {
  T rate, root, inverse_root;  // the learning rate / correction1, sqrt(correction2), 1 / that
};
template <class T>
ELBO_HD AdamConstants<T> adam_constants(const RunConstants<T>& run, T correction1, T correction2) {
  const T root = sqrt(correction2);
  return {divide(run.learning_rate, correction1), root, divide(T(1), root)};
}

// D. Kingma, J. Ba, «Adam», arXiv 1412.6980, algorithm 1.
template <class T>
ELBO_HD void adam(T& p, T g, T& m, T& v, const RunConstants<T>& run, const AdamConstants<T>& step) {
  m += (g - m) * run.rest1;
  v = run.beta2 * v + run.rest2 * g * g;
  p -= divide(step.rate * m, divide(sqrt(v), step.root, step.inverse_root) + run.epsilon);
}

// J. Duchi et al., «Adaptive subgradient methods», JMLR 12 (2011).
template <class T>
ELBO_HD void adagrad(T& p, T g, T& sum, const RunConstants<T>& run) {
  sum += g * g;
  p -= divide(run.learning_rate * g, sqrt(sum) + run.epsilon);
}

// Momentum is the sum of past gradients: v <- momentum v + g, p <- p - rate v.
template <class T>
ELBO_HD void sgd(T& p, T g, T& velocity, const RunConstants<T>& run) {
  velocity = run.momentum * velocity + g;
  p -= run.learning_rate * velocity;
}

// One step of the chosen optimiser. Adagrad uses `m` as its sum, SGD as its velocity; neither touches v.
template <class T>
ELBO_HD void optimizer_update(OptimizerType type, T& p, T g, T& m, T& v, const RunConstants<T>& run,
                              const AdamConstants<T>& step) {
  g += run.weight_decay * p;
  switch (type) {
    case OptimizerType::adam: adam(p, g, m, v, run, step); break;
    case OptimizerType::adagrad: adagrad(p, g, m, run); break;
    case OptimizerType::sgd: sgd(p, g, m, run); break;
  }
}
template <class T>
ELBO_HD void optimizer_update(T& p, T g, T& m, T& v, const OptimizerSettings& o, T correction1, T correction2) {
  const RunConstants<T> run(o);
  optimizer_update(o.type, p, g, m, v, run, adam_constants(run, correction1, correction2));
}

}  // namespace elbo::math
