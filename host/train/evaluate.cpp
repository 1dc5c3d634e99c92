#include "host/train/evaluate.h"

#include <algorithm>
#include <cmath>

#include "host/data/batch_stream.h"
#include "host/model/objective.h"
#include "host/train/trainer.h"

namespace elbo {

std::int64_t Evaluator::choose_batch(const Vae& vae, const Spec& spec, std::int64_t images, const DeviceInfo& device) {
  constexpr std::int64_t most = 2048, most_bytes = std::int64_t{256} << 20;
  std::int64_t rows = batch_outside_training(spec, 512);
  if (device.launches) {
    std::int64_t floats =
        vae.pixels() + vae.latent() + (spec.objective.kernels == LossVariant::unfused ? vae.pixels() : 0);
    floats += vae.layer_outputs();
    floats *= evaluation_samples(spec);  // more than it is: an image is encoded once
    const std::int64_t bytes = floats * static_cast<std::int64_t>(sizeof(float)) + vae.pixels();
    rows = std::max(rows, std::min(most, most_bytes / bytes / latent_tile * latent_tile));
  }
  return std::min(images, rows);
}

Evaluator::Evaluator(Vae& vae, const Spec& spec, const ImageSet& images)
    : vae_(vae),
      spec_(spec),
      images_(images),
      batch_(choose_batch(vae, spec, images.count, vae.device().info())),
      resident_(keep_on_device(spec.data.residency, vae.device().info(), images.pixels.size())),
      blocks_(spec, vae, {resident_ ? images.count : batch_, images.height, images.width, images.channels}),
      fault_memory_(vae.device(), sizeof(std::uint64_t), Memory::pinned, "the fault flag") {
  require(images.count > 0, "there are no images to evaluate on");
  Backend& device = vae.device();
  arena_ = Arena::of(device, "the test images", [&](Arena& arena) {
    for (Block* block : {&blocks_.source, &blocks_.state, &blocks_.sums})
      block->memory = arena.take(block->shape, block->dtype);
    start_state_ = arena.take(blocks_.state.shape, DType::u8);
  });
  blocks_.fault.memory = {fault_memory_.data(), DType::u64, {1}};
  schedule_.rows_per_batch = static_cast<std::uint32_t>(batch_);
  const StepState first = state_at(spec.seed, 0, schedule_);
  device.upload(start_state_, &first);
  device.upload(blocks_.source.memory, images.pixels.data());  // where it is one batch only, run() uploads each
  const Indexing indexing = resident_ ? Indexing::sequential : Indexing::ring;
  const std::int64_t rest = images.count % batch_;
  StepBlocks rest_blocks = blocks_;
  if (rest && !resident_) {  // it lies at the beginning of a batch's memory
    rest_blocks.source.memory = blocks_.source.memory.first(rest);
    rest_blocks.source.shape = rest_blocks.source.memory.shape;
  }
  std::unique_ptr<Graph> whole = evaluation_step(spec, vae, blocks_, batch_, indexing, schedule_), last;
  if (rest) last = evaluation_step(spec, vae, rest_blocks, rest, indexing, schedule_);
  // A plan for fewer rows may need more memory: what fits into a gap depends on the sizes.
  const std::size_t bytes = std::max(MemoryPlan(*whole).bytes, rest ? MemoryPlan(*last).bytes : 0);
  const auto memory = std::make_shared<const Buffer>(device, bytes, Memory::device, activations_name);
  whole_batch_ = record(std::move(whole), memory);
  if (rest) rest_ = record(std::move(last), memory);
}

Figures Evaluator::run() {
  Backend& device = vae_.device();
  const Backend::Range range(device, "evaluate");
  start();
  for (std::int64_t first = 0; first < images_.count; first += batch_) {
    const std::int64_t rows = std::min(batch_, images_.count - first);
    if (!resident_) device.upload(blocks_.source.memory.first(rows), images_.image(first));
    (rows == batch_ ? whole_batch_ : rest_).recording->replay();
  }
  std::vector<double> sums(static_cast<std::size_t>(blocks_.sums.memory.count()));
  device.download(sums.data(), blocks_.sums.memory);
  const Figures f = make_figures(sums, blocks_.losses);
  const auto text = [](double x) { return std::isnan(x) ? "NaN" : std::isinf(x) ? "infinity" : cat(x); };
  double all = f.objective + f.elbo;
  std::string further;
  for (const auto& [name, value] : f.further) {
    all += value;
    further += cat(", ", name, " ", text(value));
  }
  if (!std::isfinite(all))
    throw Diverged(cat("the figures of ", images_.count, " images are not finite: reconstruction ",
                       text(f.reconstruction), ", KL ", text(f.kl), further));
  return f;
}

// The calls are made once before they are recorded: a library chooses its algorithms and a kernel is loaded when it is
// first used, and neither belongs into a recording.
Evaluator::Recorded Evaluator::record(std::unique_ptr<Graph> graph, const std::shared_ptr<const Buffer>& memory) {
  Recorded recorded;
  recorded.program = std::make_unique<Program>(std::move(graph), vae_.device(), memory);
  start();
  recorded.program->run();
  recorded.recording = vae_.device().record([program = recorded.program.get()] { program->run(); });
  return recorded;
}

// Before the first batch. By copy, not by upload, which would wait for what is queued.
void Evaluator::start() {
  vae_.device().copy(blocks_.state.memory, start_state_);
  vae_.device().fill(blocks_.sums.memory, 0);
}

}  // namespace elbo
