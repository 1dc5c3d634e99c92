#include "host/evaluate.h"

#include <algorithm>

#include "host/batch_stream.h"
#include "host/trainer.h"

namespace elbo {

Evaluator::Evaluator(Vae& vae, const Spec& spec, const ImageSet& images)
    : vae_(vae),
      spec_(spec),
      images_(images),
      batch_(std::min(images.count, rows_outside_training(spec, 512))),
      resident_(keep_on_device(spec.data.residency, vae.device().info(), images.pixels.size())),
      pass_(vae, batch_, 1, spec.objective.kernels),
      fault_memory_(vae.device(), sizeof(std::uint64_t), Memory::pinned, "the fault flag") {
  require(images.count > 0, "there are no images to evaluate on");
  const auto take = [&](Arena& arena) {
    source_ = arena.take({resident_ ? images.count : batch_, images.image_size()}, DType::u8);
    state_ = arena.take({sizeof(StepState)}, DType::u8);
    sums_ = arena.take({2 + vae.latent()}, DType::f64);
  };
  Arena measure;
  take(measure);
  arena_ = Arena(vae.device(), measure.used(), "the test images");
  take(arena_);
  fault_ = {fault_memory_.data(), DType::u64, {1}};
  schedule_.rows_per_batch = static_cast<std::uint32_t>(batch_);
  if (resident_) vae.device().upload(source_, images.pixels.data());
}

Figures Evaluator::run() {
  Backend& device = vae_.device();
  const Backend::Range range(device, "evaluate");
  const StepState start = state_at(spec_.seed, 0, schedule_);
  device.upload(state_, &start);
  device.fill(sums_, 0);
  for (std::int64_t first = 0; first < images_.count; first += batch_)
    queue_batch(first, std::min(batch_, images_.count - first));
  std::vector<double> sums(static_cast<std::size_t>(sums_.count()));
  device.download(sums.data(), sums_);
  return make_figures(sums, spec_.objective.beta);
}

void Evaluator::queue_batch(std::int64_t first, std::int64_t rows) {
  Backend& device = vae_.device();
  if (!resident_) device.upload(source_.first(rows), images_.image(first));
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
