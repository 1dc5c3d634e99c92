#include "host/lab/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

#include "host/base/memory.h"
#include "host/base/words.h"
#include "host/graph/program.h"
#include "host/train/output.h"
#include "host/train/trainer.h"

namespace elbo {
namespace {

// A training step on images like these, and what it refers to.
struct StepWithoutMemory {
  StepWithoutMemory(const Spec& spec, const ImageSet& images)
      : vae(spec, images.image_shape()),
        optimizer(spec, vae.parameters, images.count),
        blocks(spec, vae, {images.count, images.height, images.width, images.channels}),
        step(spec, vae, optimizer, blocks, Indexing::shuffled, {}) {}

  Vae vae;
  Optimizer optimizer;
  StepBlocks blocks;
  TrainingStep step;
};

}  // namespace

std::vector<PlannedOperation> plan_of(const std::vector<Graph::Call>& calls) {
  std::vector<PlannedOperation> plan;
  for (const Graph::Call& call : calls)
    plan.push_back({call.path(), call.operation->sizes(), call.operation->bytes(), call.operation->flops()});
  return plan;
}

std::vector<PlannedOperation> plan_step(const Spec& spec, const ImageSet& images) {
  return plan_of(StepWithoutMemory(spec, images).step.graph->calls());
}

// The gradients and the optimiser's two moments are each as large as the weights.
StepMemory memory_of_step(const Spec& spec, const ImageSet& images) {
  const StepWithoutMemory planned(spec, images);
  const std::uint64_t weights = static_cast<std::uint64_t>(planned.vae.parameters.count()) * sizeof(float);
  return {MemoryPlan(*planned.step.graph).bytes, weights, weights, 2 * weights};
}

// Datasheets of NVIDIA: H100 SXM5 80 GB, H200 SXM 141 GB, A100 SXM4 80 GB, GeForce RTX 4090 (Ada GPU architecture
// whitepaper, appendix A). Dense rates, 16-bit products summed in fp32.
const std::vector<Gpu>& known_gpus() {
  static const std::vector<Gpu> gpus = {{"H100", 3.35e12, 66.9e12, 494.7e12, 989.4e12},
                                        {"H200", 4.8e12, 66.9e12, 494.7e12, 989.4e12},
                                        {"A100", 2.039e12, 19.5e12, 156e12, 312e12},
                                        {"4090", 1.008e12, 82.6e12, 82.6e12, 165.2e12}};
  return gpus;
}

Gpu find_gpu(const std::string& name) {
  std::string names;
  for (const Gpu& gpu : known_gpus()) {
    if (lower(gpu.name) == lower(name)) return gpu;
    names += (names.empty() ? "" : ", ") + gpu.name;
  }
  fail("no GPU '", name, "' is known; there are ", names, ", or give --bandwidth and --tflops");
}

std::optional<Gpu> gpu_in(const std::string& description) {
  for (const Gpu& gpu : known_gpus())
    if (lower(description).find(lower(gpu.name)) != std::string::npos) return gpu;
  return std::nullopt;
}

double Gpu::rate(Precision p) const { return p == Precision::fp32 ? fp32 : p == Precision::tf32 ? tf32 : bf16; }

double floor_us(const PlannedOperation& o, const Gpu& gpu, Precision p) {
  return 1e6 * std::max(o.bytes / gpu.bandwidth, o.flops / gpu.rate(p));
}

double floor_us(const std::vector<PlannedOperation>& plan, const Gpu& gpu, Precision p) {
  double sum = 0;
  for (const PlannedOperation& o : plan) sum += floor_us(o, gpu, p);
  return sum;
}

int print_plan(const PlanOptions& options) {
  require_output(options.json, step_output, {options.spec});
  const Spec spec = load_spec(options.spec, options.overrides);
  Gpu gpu = options.bandwidth > 0 && options.tflops > 0 ? Gpu{"the given GPU"} : find_gpu(options.gpu);
  if (options.bandwidth > 0) gpu.bandwidth = 1e9 * options.bandwidth;
  if (options.tflops > 0) gpu.fp32 = gpu.tf32 = gpu.bf16 = 1e12 * options.tflops;
  const Precision precision = spec.train.precision;
  const ImageSet images = measure_or_look_up(spec, data_directories(options.data));
  require_full_batch(spec, images.count);
  const std::vector<PlannedOperation> plan = plan_step(spec, images);

  const double floor = floor_us(plan, gpu, precision);
  PlannedOperation total{"total", "", 0, 0};
  double memory = 0;
  std::size_t widest = 0;
  for (const PlannedOperation& o : plan) {
    total.bytes += o.bytes;
    total.flops += o.flops;
    if (o.bytes / gpu.bandwidth >= o.flops / gpu.rate(precision)) memory += floor_us(o, gpu, precision);
    widest = std::max(widest, o.shapes.size());
  }

  fmt::print("{}: a training step of {} images, floors of {} ({:.0f} GB/s, {:.4g} TFLOP/s in {})\n\n", spec.name,
             spec.train.batch_size, gpu.name, gpu.bandwidth / 1e9, gpu.rate(precision) / 1e12, name_of(precision));
  fmt::print("{:<40} {:<{}} {:>10} {:>10} {:>9}  {}\n", "operation", "shapes", widest, "KB", "MFLOP", "floor us",
             "bound by");
  const auto row = [&](const PlannedOperation& o, double us, const std::string& bound) {
    fmt::print("{:<40} {:<{}} {:>10.1f} {:>10.2f} {:>9.3f}  {}\n", o.name, o.shapes, widest, o.bytes / 1e3,
               o.flops / 1e6, us, bound);
  };
  for (const PlannedOperation& o : plan)
    row(o, floor_us(o, gpu, precision),
        o.bytes / gpu.bandwidth >= o.flops / gpu.rate(precision) ? "memory" : "products");
  row(total, floor, fmt::format("memory {:.0f}%, products {:.0f}%", 100 * memory / floor, 100 - 100 * memory / floor));
  fmt::print("\n{} operations, each at its floor, one after the other; launching them comes on top.\n", plan.size());
  const StepMemory taken = memory_of_step(spec, images);
  fmt::print("Memory on the device: activations {}, weights {}, gradients {}, optimiser {}.\n",
             bytes_text(taken.activations), bytes_text(taken.weights), bytes_text(taken.gradients),
             bytes_text(taken.optimizer));

  if (!options.json.empty()) {
    nlohmann::ordered_json j = {{"spec", spec.name},
                                {"batch_size", spec.train.batch_size},
                                {"precision", name_of(precision)},
                                {"gpu", gpu.name},
                                {"bytes_per_second", gpu.bandwidth},
                                {"flops_per_second", gpu.rate(precision)},
                                {"floor_us", floor},
                                {"memory",
                                 {{"activations", taken.activations},
                                  {"weights", taken.weights},
                                  {"gradients", taken.gradients},
                                  {"optimizer", taken.optimizer}}}};
    for (const PlannedOperation& o : plan)
      j["operations"].push_back({{"name", o.name},
                                 {"shapes", o.shapes},
                                 {"bytes", o.bytes},
                                 {"flops", o.flops},
                                 {"floor_us", floor_us(o, gpu, precision)}});
    write_output(options.json, step_output, j.dump(2) + "\n");
  }
  return 0;
}

}  // namespace elbo
