// The end of a step: the batch's losses are added to the epoch's sums, the weights move, the state moves on.
#pragma once
#include "elbo/math/optimizer.h"
#include "elbo/operation.h"
#include "elbo/sizes.h"

namespace elbo {

// Adds a batch to the running sums of an epoch, in double, and notes a loss that is not finite.
struct Accumulate {
  static constexpr const char* name = "accumulate";

  Tensor nll_partial;  // f32 [R * S, chunks]
  Tensor kl_partial;   // f32 [tiles, L]
  Tensor state;        // StepState, changed
  Tensor sums;         // f64 [2 + L] in and out: rows, reconstruction, KL of each latent unit, in nats
  std::int64_t rows = 0;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("nll_partial", op.nll_partial, Access::read);
    f("kl_partial", op.kl_partial, Access::read);
    f("state", op.state, Access::update);
    f("sums", op.sums, Access::update);
  }
  void check() const;
  std::string sizes() const { return cat(nll_partial.shape, ", ", kl_partial.shape); }
};

// One step of the optimiser. Does nothing once a loss was not finite.
struct OptimizerStep {
  static constexpr const char* name = "optimizer_step";

  Tensor parameters, gradients;        // f32 [P]
  Tensor first_moment, second_moment;  // f32 [P]: math::optimizer_update's m and v
  Tensor state;                        // StepState, changed
  math::OptimizerSettings settings;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("gradients", op.gradients, Access::read);
    f("parameters", op.parameters, Access::update);
    f("first_moment", op.first_moment, Access::update);
    f("second_moment", op.second_moment, op.settings.type == OptimizerType::adam ? Access::update : Access::unused);
    f("state", op.state, Access::update);
  }
  void check() const;
  std::string sizes() const { return parameters.shape.str(); }
};

// Moves the state on to the next step.
struct Advance {
  static constexpr const char* name = "advance";

  Tensor state;  // StepState, changed
  Schedule schedule;
  Tensor fault;  // u64 [1], pinned: the first bad step, if there is one

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("state", op.state, Access::update);
    f("fault", op.fault, Access::update);
  }
  void check() const;
  std::string sizes() const { return ""; }
};

// The three above, one after the other.
struct FinishStep {
  static constexpr const char* name = "finish_step";

  Accumulate losses;
  OptimizerStep update;
  Advance advance;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    OptimizerStep::each_tensor(op.update, f);
    f("nll_partial", op.losses.nll_partial, Access::read);
    f("kl_partial", op.losses.kl_partial, Access::read);
    f("sums", op.losses.sums, Access::update);
    f("fault", op.advance.fault, Access::update);
    f("state", op.losses.state, Access::unused);  // it is the optimiser's
    f("state", op.advance.state, Access::unused);
  }
  void check() const;
  std::string sizes() const { return update.sizes(); }
};

}  // namespace elbo
