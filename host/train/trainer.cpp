#include "host/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace elbo {
namespace {

// The same spec, if there are enough images for it.
const Spec& fitting(const Spec& spec, const ImageSet& images) {
  require_full_batch(spec, images.count);
  return spec;
}

}  // namespace

Trainer::Trainer(Backend& device, const Spec& spec, const ImageSet& images)
    : vae(device, fitting(spec, images), images.image_shape()),
      optimizer(spec, vae.parameters, images.count),
      device_(device),
      spec_(spec),
      stream_(device, images, spec.train.batch_size, spec.data.residency, spec.seed),
      schedule_{stream_.batches_per_epoch(), 0, spec.optimizer.beta1, spec.optimizer.beta2},
      blocks_(spec, vae, stream_.source().shape),
      fault_memory_(device, sizeof(std::uint64_t), Memory::pinned, "the fault flag") {
  optimizer.allocate(device);
  arena_ = Arena::of(device, "the state of training", [&](Arena& arena) {
    for (Block* block : {&blocks_.state, &blocks_.sums}) block->memory = arena.take(block->shape, block->dtype);
  });
  blocks_.source.memory = stream_.source();
  blocks_.fault.memory = {fault_memory_.data(), DType::u64, {1}};

  TrainingStep step(spec, vae, optimizer, blocks_, stream_.indexing(), schedule_);
  program_ = std::make_unique<Program>(std::move(step.graph), device, activations_name);
  input_ = program_->tensor(step.batch.input);
  target_ = program_->tensor(step.batch.target);

  // Once before they are recorded, as record() asks: nothing moves, and what it leaves elsewhere is overwritten below.
  queue_idle_step(0, 0);
  reset_figures();
  set_step(0);
  one_step_ = device.record([this] { program_->run(); });
  if (one_step_->nodes() > 0 && stream_.resident()) {
    // To launch a graph takes the host a while, and the device; the images need nothing of the host.
    const auto several = [this] {
      for (std::uint32_t i = 0; i < steps_a_launch; ++i) program_->run();
    };
    several_steps_ = device.record(several, 2);
  }
}

void Trainer::set_idle_state(std::uint32_t step, std::uint64_t bad_step) {
  StepState state = state_at(spec_.seed, step, schedule_);
  state.bad_step = bad_step;
  device_.upload(blocks_.state.memory, &state);
}

void Trainer::queue_idle_step(std::uint32_t step, std::uint64_t bad_step) {
  set_idle_state(step, bad_step);
  stream_.begin_step(step);
  program_->run();
  stream_.end_step();
}

void Trainer::run_until(std::uint32_t end) {
  while (step_ < end) {
    if (several_steps_ && end - step_ >= steps_a_launch) {
      several_steps_->replay();
      step_ += steps_a_launch;
    } else {
      stream_.begin_step(step_);
      one_step_->replay();
      stream_.end_step();
      ++step_;
    }
    throw_if_diverged();
  }
}

void Trainer::set_step(std::uint32_t step) {
  device_.synchronize();
  step_ = step;
  *fault() = StepState::none;
  // The device itself makes the state of every step, so that a resumed run has the bits of one that was not: its
  // logarithms may round otherwise than the host's. Before step 0 comes step 2^32 - 1.
  const StepState before = state_at(spec_.seed, step - 1, schedule_);
  device_.upload(blocks_.state.memory, &before);
  device_.run(Advance{.state = blocks_.state.memory, .schedule = schedule_, .fault = blocks_.fault.memory});
}

Figures Trainer::figures() {
  std::vector<double> host(static_cast<std::size_t>(sums().count()));
  device_.download(host.data(), sums());
  return make_figures(host, blocks_.losses);
}

void Trainer::check() {
  device_.synchronize();
  throw_if_diverged();
}

void Trainer::throw_if_diverged() {
  // Written by the device while it works; read here without waiting for it.
  const std::uint64_t bad = *static_cast<const volatile std::uint64_t*>(fault());
  if (bad == StepState::none) return;
  device_.synchronize();
  const Fault fault = find_fault(bad);
  throw Diverged(cat("training diverged at step ", bad + 1, " (epoch ", bad / batches_per_epoch() + 1,
                     "): ", fault.what, remedies(spec_, bad, fault.place)));
}

std::string remedies(const Spec& spec, std::uint64_t step, Fault::Place place) {
  using Place = Fault::Place;
  if (place == Place::state) return "";
  // A loss comes before the first gradient, and a gradient before the first update.
  const bool after_update = step > 0 || place == Place::update, after_gradient = step > 0 || place >= Place::gradient;
  std::vector<std::string> all;
  const auto change = [&](bool is_cause, const char* how, const char* field, double value) {
    if (is_cause) all.push_back(cat("a ", how, " ", field, " (it is ", value, ")"));
  };
  change(after_update, "smaller", "optimizer.learning_rate", spec.optimizer.learning_rate);
  change(after_update && spec.optimizer.weight_decay > 1, "smaller", "optimizer.weight_decay",
         spec.optimizer.weight_decay);
  change(after_gradient && spec.objective.beta > 1, "smaller", "objective.beta", spec.objective.beta);
  change(spec.model.likelihood == Likelihood::gaussian && !spec.model.is_variance_learned && spec.model.variance < 1,
         "larger", "model.variance", spec.model.variance);
  change(spec.model.initialization == Initialization::normal && spec.model.initialization_std > 0.1, "smaller",
         "model.initialization.std", spec.model.initialization_std);
  if (place == Place::kl && spec.model.posterior == Posterior::sigma)
    all.emplace_back("model.posterior log_variance (a sigma of 0 has no KL; an image without contrast may give one)");
  std::string text;
  for (std::size_t i = 0; i < all.size(); ++i)
    text += (i == 0 ? "; what may help is " : i + 1 < all.size() ? ", " : " or ") + all[i];
  return text;
}

namespace {

// "NaN" or "infinity" if there is one among the elements, else "".
std::string not_finite(Backend& device, const Tensor& t) {
  std::vector<float> host(static_cast<std::size_t>(t.count()));
  device.download(host.data(), t);
  for (const float v : host)
    if (!std::isfinite(v)) return std::isnan(v) ? "NaN" : "infinity";
  return "";
}

float largest(Backend& device, const Tensor& t) {
  std::vector<float> host(static_cast<std::size_t>(t.count()));
  device.download(host.data(), t);
  float most = 0;
  for (const float v : host) most = std::max(most, std::abs(v));
  return most;
}

}  // namespace

// Looks where numbers stopped being finite. The optimiser has stood still since the faulty step.
Fault Trainer::find_fault(std::uint64_t bad) {
  if (const std::optional<Fault> fault = fault_of_state()) return *fault;
  if (const std::optional<Fault> fault = fault_of_step(bad)) return *fault;
  if (const std::optional<Fault> fault = fault_of_squares()) return *fault;
  return {"a weight's update was not finite", Fault::Place::update};
}

std::optional<Fault> Trainer::fault_of_state() {
  for (const Parameter& p : vae.parameters.layout())
    if (const std::string what = not_finite(device_, vae.parameters.view(vae.parameters.memory(), p)); !what.empty())
      return Fault{"the weights " + p.name + " hold " + what, Fault::Place::state};
  for (const Parameter& p : vae.parameters.layout())
    for (const Tensor& moment : {optimizer.first_moment(), optimizer.second_moment()})
      if (const std::string what = not_finite(device_, vae.parameters.view(moment, p)); !what.empty())
        return Fault{"the optimiser's state of " + p.name + " holds " + what, Fault::Place::state};
  return std::nullopt;
}

// Does the step again (if it was its update that failed, with those weights moved that could be), whatever was queued
// behind it has left behind: call by call, and each call's outputs are looked through before another takes their
// memory.
std::optional<Fault> Trainer::fault_of_step(std::uint64_t bad) {
  using Place = Fault::Place;
  const auto step = static_cast<std::uint32_t>(bad);
  set_idle_state(step, bad);
  stream_.begin_step(step);
  std::optional<Fault> found;
  for (std::size_t i = 0; i < program_->calls().size(); ++i) {
    program_->run(i);
    for (const Program::Output& output : program_->outputs(i)) {
      const std::string what = found ? "" : not_finite(device_, output.tensor);
      if (what.empty()) continue;
      const bool is_gradient = output.what.starts_with(Optimizer::gradient_name);
      found = {what + " in " + output.what, output.what == GaussianPosterior::kl_name ? Place::kl
                                            : is_gradient                             ? Place::gradient
                                                                                      : Place::loss};
    }
  }
  stream_.end_step();
  return found;
}

// A finite gradient whose square, a moment of the optimiser, is not.
std::optional<Fault> Trainer::fault_of_squares() {
  for (const Parameter& p : vae.parameters.layout())
    if (const float most = largest(device_, vae.parameters.view(optimizer.gradients(), p)); !std::isfinite(most * most))
      return Fault{cat("the gradient of ", p.name, " is too large (", most, ")"), Fault::Place::gradient};
  return std::nullopt;
}

Figures make_figures(const std::vector<double>& sums, const std::vector<LossSums>& losses) {
  Figures f;
  const double rows = sums[0];
  auto sum = sums.begin() + 1;
  for (const LossSums& loss : losses) {
    std::vector<double> means(sum, sum + loss.count);
    sum += loss.count;
    double mean = 0;
    for (double& m : means) mean += m /= rows;
    if (loss.name == "reconstruction") {
      f.reconstruction = mean;
    } else if (loss.name == "unit_kl") {
      f.kl = mean;
      f.unit_kl = std::move(means);
    } else {
      f.further.push_back({loss.name, Figures::is_bound(loss.name) ? -mean : mean});
    }
    f.objective += loss.factor * mean;
  }
  f.elbo = -(f.reconstruction + f.kl);
  return f;
}

}  // namespace elbo
