#include "host/train/memory_needs.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/base/memory.h"
#include "host/data/batch_stream.h"
#include "host/graph/program.h"
#include "host/model/objective.h"
#include "host/train/evaluate.h"
#include "host/train/step.h"

namespace elbo {
namespace {

// Code and tables, the stacks of threads, what allocations are rounded up to, small things of every kind.
constexpr std::uint64_t program_bytes = std::uint64_t{48} << 20;

constexpr const char* fewer_units = "fewer model.*.units need less";
constexpr const char* smaller_batch = "a smaller train.batch_size needs less";
constexpr const char* fewer_samples = "a smaller train.batch_size or objective.samples needs less";
constexpr const char* only_fewer_samples = "a smaller objective.samples needs less";
constexpr const char* stream = "data.residency \"stream\" needs less";

Shape shape_of(const ImageSet& images, std::int64_t count) {
  return {count, images.height, images.width, images.channels};
}

std::uint64_t sum(const Needs& needs) {
  std::uint64_t bytes = 0;
  for (const Need& n : needs) bytes += n.bytes;
  return bytes;
}

void require_room(Needs needs, std::uint64_t there, const std::string& what, const std::string& where) {
  const std::uint64_t bytes = sum(needs);
  if (bytes <= there) return;
  constexpr std::size_t told = 3;
  std::ranges::stable_sort(needs, std::greater(), &Need::bytes);
  needs.resize(std::min(needs.size(), told));
  std::string text = fmt::format("{} needs {} of memory, and {} {}; the largest parts are", what, bytes_text(bytes),
                                 where, bytes_text(there));
  for (const Need& n : needs)
    text += fmt::format("\n  {}: {}{}", n.what, bytes_text(n.bytes), n.less.empty() ? "" : "; " + n.less);
  fail(text);
}

// Throws Error where a tensor that the calls write has more elements than the device can count.
void require_countable(const Graph& graph, const DeviceInfo& device) {
  if (!device.launches) return;
  for (const Graph::Call& call : graph.calls())
    call.operation->each_tensor([&](const char* field, Tensor& t, Access access) {
      const bool is_made = access == Access::write || access == Access::update;
      if (!t || !is_made || t.count() <= most_gpu_elements) return;
      const std::string what = graph.description(t);
      fail(what.empty() ? cat(call.path(), "'s ", field) : what, " would have ", t.count(), " elements ", t.shape,
           "; a GPU takes at most 2^31 - 1. Fewer model.*.units, a smaller train.batch_size or objective.samples make ",
           "it smaller");
    });
}

}  // namespace

Needs operator+(Needs a, const Needs& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

MemoryNeeds::MemoryNeeds(const Spec& spec, const Dataset& sizes, const DeviceInfo& device)
    : spec_(spec),
      data_(sizes),
      device_(device),
      vae_(spec, sizes.train.image_shape()),
      optimizer_(spec, vae_.parameters, sizes.train.count) {}

Needs MemoryNeeds::model() const {
  const auto labels = static_cast<std::uint64_t>(data_.train.count + data_.test.count);
  const std::uint64_t images = data_.train.bytes() + data_.test.bytes() + labels;
  Needs needs = {{"the program itself", program_bytes, MemorySide::host},
                 {"the images of " + data_.name, images, MemorySide::host},
                 {"the weights", weight_bytes(), MemorySide::device, fewer_units}};
  // A CPU keeps the operands of each product as it has rounded them: weights forward, and backward.
  if (device_.gpu.empty() && spec_.train.precision == Precision::bf16)
    needs.push_back(
        {"the weights rounded to bf16", weight_bytes(), MemorySide::host, "train.precision \"fp32\" needs less"});
  return needs;
}

Needs MemoryNeeds::checkpoint() const {
  return {{"the checkpoint on its way to the device", 3 * weight_bytes(), MemorySide::host, fewer_units}};
}

Needs MemoryNeeds::optimizer() const {
  return {{"gradients and optimiser state", 3 * weight_bytes(), MemorySide::device, fewer_units}};
}

Needs MemoryNeeds::step() const {
  require_full_batch(spec_, data_.train.count);
  const ImageSet& images = data_.train;
  const std::int64_t ring_images = BatchStream::ring_slots * spec_.train.batch_size;
  const auto ring_bytes = static_cast<std::uint64_t>(ring_images * images.image_size());
  const bool resident = keep_on_device(spec_.data.residency, device_, images.bytes());
  const StepBlocks blocks(spec_, vae_, shape_of(images, resident ? images.count : ring_images));
  const TrainingStep step(spec_, vae_, optimizer_, blocks, resident ? Indexing::shuffled : Indexing::ring, {});
  require_countable(*step.graph, device_);
  Needs needs = {{"the activations of a training step", MemoryPlan(*step.graph).bytes, MemorySide::device,
                  spec_.objective.samples > 1 ? fewer_samples : smaller_batch}};
  if (resident) {
    needs.push_back({"the training images on the device", images.bytes(), MemorySide::device, stream});
  } else {
    needs.push_back({"the ring of batches", ring_bytes, MemorySide::device, smaller_batch});
    if (!device_.gpu.empty())
      needs.push_back({"the host's side of the ring", ring_bytes, MemorySide::host, smaller_batch});
  }
  return needs;
}

Needs MemoryNeeds::evaluation(const ImageSet& images) const {
  const std::int64_t rows = Evaluator::choose_batch(vae_, spec_, images.count, device_);
  const bool resident = keep_on_device(spec_.data.residency, device_, images.bytes());
  const StepBlocks blocks(spec_, vae_, shape_of(images, resident ? images.count : rows));
  const Indexing indexing = resident ? Indexing::sequential : Indexing::ring;
  std::size_t bytes = 0;  // of a whole batch or of the last one, as Evaluator has it
  for (const std::int64_t n : {rows, images.count % rows}) {
    if (n == 0) continue;
    const std::unique_ptr<Graph> graph = evaluation_step(spec_, vae_, blocks, n, indexing, {});
    require_countable(*graph, device_);
    bytes = std::max(bytes, MemoryPlan(*graph).bytes);
  }
  const char* const smaller = rows <= latent_tile ? "" : smaller_batch;  // so many, whatever the batch of training is
  const char* const advice = evaluation_samples(spec_) == 1 ? smaller : *smaller ? fewer_samples : only_fewer_samples;
  return {{"the activations of an evaluation", bytes, MemorySide::device, advice},
          {resident ? "the images to evaluate on, on the device" : "a batch of images to evaluate on",
           static_cast<std::uint64_t>(blocks.source.shape.count()), MemorySide::device, resident ? stream : smaller}};
}

Needs MemoryNeeds::best_state() const {
  return {{"the best state so far", 3 * weight_bytes(), MemorySide::device, fewer_units}};
}

// Two where the best waits for the next checkpoint, which it does not where every epoch has one.
Needs MemoryNeeds::checkpoints() const {
  const bool two = spec_.train.epochs > 1 && spec_.train.checkpoint_epochs != 1;
  return {{two ? "two checkpoints on their way to the disk" : "a checkpoint on its way to the disk",
           (two ? 6 : 3) * weight_bytes(), MemorySide::host,
           two ? "fewer model.*.units, or train.checkpoint_epochs 1, need less" : fewer_units}};
}

Needs MemoryNeeds::mapping(std::int64_t n) const {
  const Vae::Bytes bytes = vae_.bytes_to_map(n);
  return {{"the activations of the pictures", bytes.device, MemorySide::device, smaller_batch},
          {"the pictures' pixels", bytes.host, MemorySide::host, smaller_batch}};
}

void require_memory(const Needs& needs, const DeviceInfo& device, const std::string& what) {
  const bool shared = device.gpu.empty();
  Needs of_host, of_device;
  for (const Need& n : needs) (shared || n.side == MemorySide::host ? of_host : of_device).push_back(n);
  require_room(of_host, usable_host_memory(), what, "this process may take");
  require_room(of_device, device.memory, what, device.gpu + " has");
}

}  // namespace elbo
