#include "host/train/evaluate.h"

#include <algorithm>
#include <cmath>

#include "host/data/batch_stream.h"
#include "host/train/trainer.h"

namespace elbo {

std::int64_t Evaluator::choose_batch(const Vae& vae, const Spec& spec, std::int64_t images) {
  constexpr std::int64_t most = 2048, most_bytes = std::int64_t{256} << 20;
  std::int64_t rows = rows_outside_training(spec, 512);
  if (vae.device().info().launches) {
    std::int64_t floats = vae.pixels() + vae.latent() + scratch_size(spec.objective.kernels, 1, 1, vae.pixels());
    for (const auto* layers : {&vae.encoder(), &vae.decoder()})
      for (const DenseLayer& l : *layers) floats += l.weight.rows();
    const std::int64_t bytes = floats * static_cast<std::int64_t>(sizeof(float)) + vae.pixels();
    rows = std::max(rows, std::min(most, most_bytes / bytes / latent_tile * latent_tile));
  }
  return std::min(images, rows);
}

Evaluator::Evaluator(Vae& vae, const Spec& spec, const ImageSet& images)
    : vae_(vae),
      spec_(spec),
      images_(images),
      batch_(choose_batch(vae, spec, images.count)),
      resident_(keep_on_device(spec.data.residency, vae.device().info(), images.pixels.size())),
      pass_(vae, batch_, 1, spec.objective.kernels, Direction::forward),
      fault_memory_(vae.device(), sizeof(std::uint64_t), Memory::pinned, "the fault flag") {
  require(images.count > 0, "there are no images to evaluate on");
  const auto take = [&](Arena& arena) {
    source_ = arena.take({resident_ ? images.count : batch_, images.image_size()}, DType::u8);
    start_state_ = arena.take({sizeof(StepState)}, DType::u8);
    state_ = arena.take({sizeof(StepState)}, DType::u8);
    sums_ = arena.take({2 + vae.latent()}, DType::f64);
  };
  Arena measure;
  take(measure);
  arena_ = Arena(vae.device(), measure.used(), "the test images");
  take(arena_);
  fault_ = {fault_memory_.data(), DType::u64, {1}};
  schedule_.rows_per_batch = static_cast<std::uint32_t>(batch_);
  const StepState first = state_at(spec.seed, 0, schedule_);
  vae.device().upload(start_state_, &first);
  vae.device().upload(source_, images.pixels.data());  // where it is one batch only, run() uploads each
  whole_batch_ = record_batch(batch_);
  if (images.count % batch_ != 0) rest_ = record_batch(images.count % batch_);
}

Figures Evaluator::run() {
  Backend& device = vae_.device();
  const Backend::Range range(device, "evaluate");
  start();
  for (std::int64_t first = 0; first < images_.count; first += batch_) {
    const std::int64_t rows = std::min(batch_, images_.count - first);
    if (!resident_) device.upload(source_.first(rows), images_.image(first));
    (rows == batch_ ? whole_batch_ : rest_)->replay();
  }
  std::vector<double> sums(static_cast<std::size_t>(sums_.count()));
  device.download(sums.data(), sums_);
  const Figures f = make_figures(sums, spec_.objective.beta);
  const auto text = [](double x) { return std::isnan(x) ? "NaN" : std::isinf(x) ? "infinity" : cat(x); };
  if (!std::isfinite(f.objective + f.elbo))
    throw Diverged(cat("the figures of ", images_.count, " images are not finite: reconstruction ",
                       text(f.reconstruction), ", KL ", text(f.kl)));
  return f;
}

// The calls are made once before they are recorded: a library chooses its algorithms and a kernel is loaded when it is
// first used, and neither belongs into a recording.
std::unique_ptr<Recording> Evaluator::record_batch(std::int64_t rows) {
  start();
  queue_batch(rows);
  return vae_.device().record([this, rows] { queue_batch(rows); });
}

// Before the first batch. By copy, not by upload, which would wait for what is queued.
void Evaluator::start() {
  vae_.device().copy(state_, start_state_);
  vae_.device().fill(sums_, 0);
}

void Evaluator::queue_batch(std::int64_t rows) {
  Backend& device = vae_.device();
  device.gather_batch({.source = resident_ ? source_ : source_.first(rows),
                       .state = state_,
                       .indexing = resident_ ? Indexing::sequential : Indexing::ring,
                       .binarize = spec_.data.binarize,
                       .input = pass_.input.first(rows),
                       .target = pass_.target.first(rows)});
  const Tensor kl = pass_.kl_partial.first(tiles(rows, latent_tile)), nll = pass_.nll_partial.first(rows);
  device.sample_latent({.stats = pass_.encode(vae_, rows),
                        .state = state_,
                        .posterior = spec_.model.posterior,
                        .kernels = spec_.objective.kernels,
                        .z = pass_.z.first(rows),
                        .kl_partial = kl,
                        .scratch = pass_.scratch});
  device.likelihood({.output = pass_.decode(vae_, rows),
                     .target = pass_.target.first(rows),
                     .likelihood = spec_.model.likelihood,
                     .kernels = spec_.objective.kernels,
                     .variance = static_cast<float>(spec_.model.variance),
                     .nll_partial = nll,
                     .grad = {},
                     .scratch = pass_.scratch});
  device.accumulate({nll, kl, state_, sums_, rows});
  device.advance(state_, schedule_, fault_);
}

}  // namespace elbo
