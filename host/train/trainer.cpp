#include "host/train/trainer.h"

#include <algorithm>
#include <cmath>

namespace elbo {
namespace {

// The same spec, if there are enough images for it.
const Spec& fitting(const Spec& spec, const ImageSet& images) {
  require(spec.train.batch_size <= images.count, spec.where("train.batch_size"), " is ", spec.train.batch_size,
          ", but there are only ", images.count, " training images");
  return spec;
}

}  // namespace

Trainer::Trainer(Backend& device, const Spec& spec, const ImageSet& images)
    : vae(device, fitting(spec, images), images.image_size()),
      device_(device),
      spec_(spec),
      stream_(device, images, spec.train.batch_size, spec.data.residency, spec.seed),
      pass_(vae, spec.train.batch_size, spec.objective.samples, spec.objective.kernels),
      fault_memory_(device, sizeof(std::uint64_t), Memory::pinned, "the fault flag"),
      optimizer_(spec.optimizer) {
  const auto take = [&](Arena& arena) {
    state_ = arena.take({sizeof(StepState)}, DType::u8);
    sums = arena.take({2 + vae.latent()}, DType::f64);
  };
  Arena measure;
  take(measure);
  arena_ = Arena(device, measure.used(), "the state of training");
  take(arena_);
  fault_ = {fault_memory_.data(), DType::u64, {1}};

  schedule_ = {stream_.batches_per_epoch(), 0, optimizer_.beta1, optimizer_.beta2};
  // -log N(theta; 0, I) = sum theta^2 / 2 + constant, shared among the data points
  if (spec.objective.weight_prior == WeightPrior::standard_normal)
    optimizer_.weight_decay += 1.0f / static_cast<float>(images.count);
  // Once before they are recorded, as record() asks: nothing moves, and what it leaves elsewhere is overwritten below.
  queue_idle_step(0, 0);
  reset_figures();
  set_step(0);
  one_step_ = device.record([this] { queue_step(); });
  if (one_step_->nodes() > 0 && stream_.resident()) {
    // To launch a graph takes the host a while, and the device; the images need nothing of the host.
    const auto several = [this] {
      for (std::uint32_t i = 0; i < steps_a_launch; ++i) queue_step();
    };
    several_steps_ = device.record(several, 2);
  }
}

// One step of stochastic gradient variational Bayes (algorithm 1 of arXiv 1312.6114).
void Trainer::queue_step() {
  const Backend::Range range(device_, "train_step");
  const Spec::Objective& objective = spec_.objective;
  const std::int64_t rows = spec_.train.batch_size;
  const float per_image = 1.0f / static_cast<float>(rows);

  device_.gather_batch({.source = stream_.source(),
                        .state = state_,
                        .indexing = stream_.indexing(),
                        .binarize = spec_.data.binarize,
                        .input = pass_.input,
                        .target = pass_.target});
  const Tensor stats = pass_.encode(vae, rows);
  device_.sample_latent({.stats = stats,
                         .state = state_,
                         .posterior = spec_.model.posterior,
                         .kernels = objective.kernels,
                         .z = pass_.z,
                         .kl_partial = pass_.kl_partial,
                         .scratch = pass_.scratch});
  const Tensor output = pass_.decode(vae, rows);
  const Tensor doutput{pass_.gradient[0].data, DType::f32, output.shape};
  device_.likelihood({.output = output,
                      .target = pass_.target,
                      .likelihood = spec_.model.likelihood,
                      .kernels = objective.kernels,
                      .variance = static_cast<float>(spec_.model.variance),
                      .grad_scale = per_image / static_cast<float>(objective.samples),
                      .nll_partial = pass_.nll_partial,
                      .grad = doutput,
                      .scratch = pass_.scratch});

  const Tensor dz = pass_.decode_backward(vae, doutput);
  const Tensor& free = pass_.gradient[dz.data == pass_.gradient[0].data ? 1 : 0];
  const Tensor dstats{free.data, DType::f32, stats.shape};
  device_.sample_latent_backward({.stats = stats,
                                  .dz = dz,
                                  .state = state_,
                                  .posterior = spec_.model.posterior,
                                  .kernels = objective.kernels,
                                  .kl_scale = static_cast<float>(objective.beta) * per_image,
                                  .dstats = dstats,
                                  .scratch = pass_.scratch});
  pass_.encode_backward(vae, dstats);
  device_.finish_step({.losses = {pass_.nll_partial, pass_.kl_partial, state_, sums, rows},
                       .update = {vae.parameters, vae.gradients, vae.first, vae.second, state_, optimizer_},
                       .schedule = schedule_,
                       .fault = fault_});
}

void Trainer::queue_idle_step(std::uint32_t step, std::uint64_t bad_step) {
  StepState state = state_at(spec_.seed, step, schedule_);
  state.bad_step = bad_step;
  device_.upload(state_, &state);
  stream_.begin_step(step);
  queue_step();
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
  *fault_.as<std::uint64_t>() = StepState::none;
  // The device itself makes the state of every step, so that a resumed run has the bits of one that was not: its
  // logarithms may round otherwise than the host's. Before step 0 comes step 2^32 - 1.
  const StepState before = state_at(spec_.seed, step - 1, schedule_);
  device_.upload(state_, &before);
  device_.advance(state_, schedule_, fault_);
}

Figures Trainer::figures() {
  std::vector<double> host(static_cast<std::size_t>(sums.count()));
  device_.download(host.data(), sums);
  return make_figures(host, spec_.objective.beta);
}

void Trainer::check() {
  device_.synchronize();
  throw_if_diverged();
}

void Trainer::throw_if_diverged() {
  // Written by the device while it works; read here without waiting for it.
  const std::uint64_t bad = *static_cast<const volatile std::uint64_t*>(fault_.as<std::uint64_t>());
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
  change(spec.model.likelihood == Likelihood::gaussian && spec.model.variance < 1, "larger", "model.variance",
         spec.model.variance);
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

// Looks where numbers stopped being finite. The optimiser has stood still since the faulty step, so it can be run again
// (if it was its update that failed, with those weights moved that could be), whatever was queued behind it has left in
// the pass; its tensors are looked through in the order in which they are computed.
Fault Trainer::find_fault(std::uint64_t bad) {
  using Place = Fault::Place;
  const auto name_layer = [&](std::size_t i) {
    const std::string& weight = vae.layout()[2 * i].name;
    return weight.substr(0, weight.rfind('.'));
  };
  const auto view = [&](const Tensor& flat, const Parameter& p) {
    return Tensor{flat.as<float>() + p.offset, DType::f32, p.shape};
  };
  for (const Parameter& p : vae.layout())
    if (const std::string what = not_finite(device_, view(vae.parameters, p)); !what.empty())
      return {"the weights " + p.name + " hold " + what, Place::state};
  for (const Parameter& p : vae.layout())
    for (const Tensor& moment : {vae.first, vae.second})
      if (const std::string what = not_finite(device_, view(moment, p)); !what.empty())
        return {"the optimiser's state of " + p.name + " holds " + what, Place::state};

  queue_idle_step(static_cast<std::uint32_t>(bad), bad);

  struct Stage {
    Tensor tensor;
    std::string name;
    Place place;
  };
  std::vector<Stage> trail;
  const std::size_t encoders = vae.encoder().size(), layers = encoders + vae.decoder().size();
  for (std::size_t i = 0; i < encoders; ++i)
    trail.push_back({pass_.encoded[i], "the output of " + name_layer(i), Place::loss});
  trail.push_back({pass_.kl_partial, "the KL divergence", Place::kl});
  trail.push_back({pass_.z, "the sampled z", Place::loss});
  for (std::size_t i = encoders; i < layers; ++i)
    trail.push_back({pass_.decoded[i - encoders], "the output of " + name_layer(i), Place::loss});
  trail.push_back({pass_.nll_partial, "the reconstruction loss", Place::loss});
  for (std::size_t i = vae.layout().size(); i-- > 0;)
    trail.push_back({view(vae.gradients, vae.layout()[i]), "the gradient of " + vae.layout()[i].name, Place::gradient});
  for (const Stage& stage : trail)
    if (const std::string found = not_finite(device_, stage.tensor); !found.empty())
      return {found + " in " + stage.name, stage.place};
  for (const Parameter& p : vae.layout())
    if (const float most = largest(device_, view(vae.gradients, p)); !std::isfinite(most * most))
      return {cat("the gradient of ", p.name, " is too large (", most, ")"), Place::gradient};
  return {"a weight's update was not finite", Place::update};
}

Figures make_figures(const std::vector<double>& sums, double beta) {
  Figures f;
  const double rows = sums[0];
  f.reconstruction = sums[1] / rows;
  for (std::size_t i = 2; i < sums.size(); ++i) {
    f.unit_kl.push_back(sums[i] / rows);
    f.kl += f.unit_kl.back();
  }
  f.elbo = -(f.reconstruction + f.kl);
  f.objective = f.reconstruction + beta * f.kl;
  return f;
}

}  // namespace elbo
