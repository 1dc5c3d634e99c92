// Training: one step, and what it needs.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "elbo/backend.h"
#include "host/data/batch_stream.h"
#include "host/model/vae.h"
#include "host/train/metrics.h"
#include "host/train/optimizer.h"
#include "host/train/step.h"

namespace elbo {

// A loss, gradient, weight or figure that is not finite. Where training says so, no weight has changed since the step
// that is named; that step itself has left alone the weights whose update was not finite. Where relu is part of a
// product (DenseForward) it turns NaN into 0: infinite activations that cancel within a layer are a dead unit and no
// fault.
class Diverged : public Error {
 public:
  using Error::Error;
};

// What was not finite, and what it can come from.
struct Fault {
  enum class Place : std::uint8_t { state, kl, loss, gradient, update };  // state: weights before any of it

  std::string what;  // "NaN in the KL divergence"
  Place place;
};

// "; what may help is a smaller optimizer.learning_rate (it is 0.1)": of the fields of this spec those that can be the
// cause of a fault in the step after `step`; "" where none can.
std::string remedies(const Spec&, std::uint64_t step, Fault::Place);

class Trainer {
 public:
  // `images` must outlive the trainer. Device memory for everything is taken here, none later.
  Trainer(Backend&, const Spec&, const ImageSet& images);

  // Queues training steps up to and without `end`, and returns without waiting for the last of them. Throws Diverged,
  // naming step and layer, at most 16 steps after a number stopped being finite (later, if the device is further
  // behind: without a recording nothing holds the host back).
  void run_until(std::uint32_t end);
  std::uint32_t step() const { return step_; }
  std::uint32_t batches_per_epoch() const { return stream_.batches_per_epoch(); }

  // Averages since the last reset_figures(). Waits for the steps queued.
  Figures figures();
  void reset_figures() { device_.fill(sums(), 0); }

  // Makes `step` the next one. Weights, optimiser state and sums are the caller's to set.
  void set_step(std::uint32_t step);
  // Waits for the steps queued and throws Diverged if one of them went wrong.
  void check();

  Vae vae;
  Optimizer optimizer;
  Tensor sums() const { return blocks_.sums.memory; }  // f64: see Accumulate
  // The calls of a step.
  const Program& program() const { return *program_; }
  // Of the step before, once it is done: f32 and u8 [R, H, W, C].
  Tensor input() const { return input_; }
  Tensor target() const { return target_; }
  std::int64_t steps_at_once() const { return several_steps_ ? steps_a_launch : 1; }  // that run_until likes best
  bool images_on_device() const { return stream_.resident(); }
  // Of one step; 0 where it is no graph.
  std::size_t graph_nodes() const { return one_step_->nodes(); }
  std::size_t dependent_launches() const { return one_step_->dependent_launches(); }

 private:
  static constexpr std::uint32_t steps_a_launch = 4;  // of a recording that takes several

  // Makes the state that of step `step`, in which `bad_step` was bad: the optimiser stands still.
  void set_idle_state(std::uint32_t step, std::uint64_t bad_step);
  // Does step `step` with a state in which `bad_step` was bad: the optimiser stands still, sums and state move.
  void queue_idle_step(std::uint32_t step, std::uint64_t bad_step);
  void throw_if_diverged();
  Fault find_fault(std::uint64_t step);
  std::optional<Fault> fault_of_state();
  std::optional<Fault> fault_of_step(std::uint64_t step);
  std::optional<Fault> fault_of_squares();
  std::uint64_t* fault() const { return blocks_.fault.memory.as<std::uint64_t>(); }

  Backend& device_;
  const Spec spec_;
  BatchStream stream_;
  Schedule schedule_;
  StepBlocks blocks_;
  Arena arena_;
  Buffer fault_memory_;
  Tensor input_, target_;
  std::unique_ptr<Program> program_;
  std::uint32_t step_ = 0;
  std::unique_ptr<Recording> one_step_, several_steps_;
};

// Sums over a data set, rows and then those of the losses, made into averages.
Figures make_figures(const std::vector<double>& sums, const std::vector<LossSums>&);

}  // namespace elbo
