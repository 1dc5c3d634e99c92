// The optimiser of a model's parameters: their gradients, its moments, and its part of a step.
#pragma once
#include "elbo/backend.h"
#include "host/model/parameters.h"
#include "host/spec/spec.h"

namespace elbo {

class Optimizer {
 public:
  // `images`: of the training set, among which a prior of the weights is shared.
  Optimizer(const Spec&, const Parameters&, std::int64_t images);

  static constexpr const char* gradient_name = "the gradient of ";  // NAME

  const math::OptimizerSettings& settings() const { return settings_; }

  // Adds the gradient of a loss with respect to all parameters.
  void differentiate(Graph&, const Objective& loss) const;
  // What moves the parameters by it.
  OptimizerStep update(Graph&, const Value& state) const;

  // Takes memory on a device, all of it 0. f32 [P] each.
  void allocate(Backend&);
  Tensor gradients() const { return gradients_.memory; }
  Tensor first_moment() const { return first_moment_.memory; }  // see math::optimizer_update
  Tensor second_moment() const { return second_moment_.memory; }

 private:
  const Parameters& parameters_;
  math::OptimizerSettings settings_;
  Block gradients_, first_moment_, second_moment_;
  Arena arena_;
};

}  // namespace elbo
