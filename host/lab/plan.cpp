#include "host/lab/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

#include "host/train/output.h"
#include "host/train/trainer.h"

namespace elbo {
namespace {

// A device that writes down what it is asked for instead of doing it. Its memory is the host's, so that the flags
// which the host reads are there; tensors are never touched, and cost no more than their addresses.
class PlanBackend final : public Backend {
 public:
  PlanBackend() : Backend({}) {}

  std::vector<PlannedOperation> operations;

  DeviceInfo info() const override { return {"plan", "a plan, not a device", ~std::size_t{0} >> 1}; }
  void synchronize() override {}

 protected:
  std::byte* do_allocate(std::size_t bytes, Memory) override { return static_cast<std::byte*>(std::malloc(bytes)); }
  void do_free(std::byte* p, Memory) noexcept override { std::free(p); }
  void do_upload(void*, const void*, std::size_t) override {}
  void do_download(void* to, const void*, std::size_t bytes) override { std::fill_n(static_cast<char*>(to), bytes, 0); }
  void do_copy(void*, const void*, std::size_t) override {}
  void do_fill(void*, std::uint8_t, std::size_t) override {}

  // ---- Layers ---------------------------------------------------------------------------------------
  void do_dense_forward(const DenseForward& a) override {
    add(cat(a.x.shape, " x [", a.weight.columns(), ", ", a.weight.rows(), "]"), {a.x, a.weight, a.bias, a.y, a.mask},
        product(a.x, a.weight));
  }
  void do_dense_backward(const DenseBackward& a) override {
    std::vector<Tensor> moved = {a.x, a.dz, a.dweight, a.dbias};
    if (a.dx) moved.insert(moved.end(), {a.weight, a.mask, a.dx});
    add(cat(a.dz.shape, "' x ", a.x.shape, a.dx ? cat(", ", a.dz.shape, " x ", a.weight.shape) : ""), moved,
        (a.dx ? 2 : 1) * product(a.x, a.weight));
  }

  // ---- Batch, latent, loss, update ------------------------------------------------------------------
  void do_gather_batch(const GatherBatch& a) override {
    // As many bytes of the source are read as of the target are written.
    add(cat(a.input.shape, " of ", a.source.shape), {a.target, a.target, a.input}, 0);
  }
  void do_sample_latent(const SampleLatent& a) override { add(cat(a.z.shape), {a.stats, a.z, a.kl_partial}, 0); }
  void do_sample_latent_backward(const SampleLatentBackward& a) override {
    add(cat(a.dz.shape), {a.stats, a.dz, a.dstats}, 0);
  }
  void do_likelihood(const LikelihoodLoss& a) override {
    add(cat(a.output.shape, ", targets ", a.target.shape), {a.output, a.target, a.nll_partial, a.grad}, 0);
  }
  void do_accumulate(const Accumulate& a) override {
    add(cat(a.nll_partial.shape, ", ", a.kl_partial.shape), {a.nll_partial, a.kl_partial, a.sums, a.sums}, 0);
  }
  void do_optimizer_step(const OptimizerStep& a) override { add(cat(a.parameters.shape), moved(a), 0); }
  void do_advance(StepState*, const Schedule&, std::uint64_t*) override {
    operations.push_back({path(), "", 2.0 * sizeof(StepState), 0});
  }
  void do_finish_step(const FinishStep& a) override {
    std::vector<Tensor> all = moved(a.update);
    all.insert(all.end(), {a.losses.nll_partial, a.losses.kl_partial, a.losses.sums, a.losses.sums});
    add(cat(a.update.parameters.shape), all, 0);
  }

  void push_range(const char* name) override { ranges_.emplace_back(name); }
  void pop_range() override { ranges_.pop_back(); }

 private:
  static std::vector<Tensor> moved(const OptimizerStep& a) {
    std::vector<Tensor> all = {a.gradients, a.parameters, a.parameters, a.first, a.first};
    if (a.settings.type == Optimizer::adam) all.insert(all.end(), {a.second, a.second});
    return all;
  }
  static double product(const Tensor& x, const Tensor& weight) {
    return 2.0 * static_cast<double>(x.rows()) * static_cast<double>(weight.count());
  }
  // Without the outermost range, which is the step's own.
  std::string path() const {
    std::string p;
    for (std::size_t i = 1; i < ranges_.size(); ++i) p += (i > 1 ? "/" : "") + ranges_[i];
    return p;
  }
  void add(std::string shapes, const std::vector<Tensor>& moved, double flops) {
    double bytes = 0;
    for (const Tensor& t : moved)
      if (t) bytes += static_cast<double>(t.bytes());
    operations.push_back({path(), std::move(shapes), bytes, flops});
  }

  std::vector<std::string> ranges_;
};

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

std::vector<PlannedOperation> plan_step(const Spec& spec, const ImageSet& images) {
  PlanBackend plan;
  Trainer trainer(plan, spec, images);
  plan.operations.clear();  // what was queued in preparation
  trainer.run_until(1);
  return plan.operations;
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

int print_plan(const PlanOptions& options) {
  require_output(options.json, step_output, {options.spec});
  const Spec spec = load_spec(options.spec, options.overrides);
  Gpu gpu = options.bandwidth > 0 && options.tflops > 0 ? Gpu{"the given GPU"} : find_gpu(options.gpu);
  if (options.bandwidth > 0) gpu.bandwidth = 1e9 * options.bandwidth;
  if (options.tflops > 0) gpu.fp32 = gpu.tf32 = gpu.bf16 = 1e12 * options.tflops;
  const Precision precision = spec.train.precision;
  const ImageSet images = load_or_blank(spec.data, spec.seed, data_directories(options.data));
  const std::vector<PlannedOperation> plan = plan_step(spec, images);

  PlannedOperation total{"total", "", 0, 0};
  double floor = 0, memory = 0;
  std::size_t widest = 0;
  for (const PlannedOperation& o : plan) {
    total.bytes += o.bytes;
    total.flops += o.flops;
    floor += floor_us(o, gpu, precision);
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

  if (!options.json.empty()) {
    nlohmann::ordered_json j = {
        {"spec", spec.name}, {"batch_size", spec.train.batch_size}, {"precision", name_of(precision)},
        {"gpu", gpu.name},   {"bytes_per_second", gpu.bandwidth},   {"flops_per_second", gpu.rate(precision)},
        {"floor_us", floor}};
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
