// The end of a step: the batch's losses are added to the epoch's sums, the weights move, the state moves on.
#pragma once
#include <array>

#include "elbo/math/optimizer.h"
#include "elbo/operation.h"
#include "elbo/sizes.h"

namespace elbo {

// A loss of a batch, in the partial sums that a kernel leaves. Its sum over the rows is that of all elements, divided
// by the samples; by column it has a sum for each column.
struct PartialLoss {
  Tensor partial;  // f32 [partial sums, columns], or [partial sums]
  std::int64_t samples = 1;
  bool by_column = false;

  std::int64_t sums() const { return by_column ? partial.columns() : 1; }
};

// Adds a batch to the running sums of an epoch, in double, and notes a loss that is not finite.
struct Accumulate {
  static constexpr const char* name = "accumulate";

  std::array<PartialLoss, most_losses> losses;  // as many as there are, then none
  Tensor state;                                 // StepState, changed
  Tensor sums;  // f64 [1 + sums of all losses] in and out: rows, then the sums of each loss in order, in nats
  std::int64_t rows = 0;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    each_loss(op, f);
    f("state", op.state, Access::update);
    f("sums", op.sums, Access::update);
  }
  template <class Self, class F>
  static void each_loss(Self& op, const F& f) {
    static_assert(most_losses == 4);
    f("losses[0]", op.losses[0].partial, Access::read);
    f("losses[1]", op.losses[1].partial, Access::read);
    f("losses[2]", op.losses[2].partial, Access::read);
    f("losses[3]", op.losses[3].partial, Access::read);
  }
  void check() const;
  std::string sizes() const;
  std::int64_t partial_sums() const;  // of all losses
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
    Accumulate::each_loss(op.losses, f);
    f("sums", op.losses.sums, Access::update);
    f("fault", op.advance.fault, Access::update);
    f("state", op.losses.state, Access::unused);  // it is the optimiser's
    f("state", op.advance.state, Access::unused);
  }
  void check() const;
  std::string sizes() const { return update.sizes(); }
};

}  // namespace elbo
