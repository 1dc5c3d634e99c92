#include "cuda/backend.h"

#include <cuda_profiler_api.h>
#include <cuda_runtime.h>

#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda/activity.h"
#include "cuda/gemm.h"
#include "cuda/graph.h"
#include "cuda/handles.h"
#include "cuda/nvml.h"
#include "cuda/ring.h"
#include "cuda/tune.h"
#include "kernels/dense.h"
#include "kernels/gather.h"
#include "kernels/importance.h"
#include "kernels/latent.h"
#include "kernels/launcher.h"
#include "kernels/likelihood.h"
#include "kernels/optimizer.h"

namespace elbo {
namespace cuda {
namespace {

#if defined(ELBO_SIM)
constexpr const char* device_name = "sim";
constexpr bool simulated = true;
#define ELBO_ARCHITECTURES "the simulated device"
#else
constexpr const char* device_name = "cuda";
constexpr bool simulated = false;
#endif

std::string version(int v) { return cat(v / 1000, ".", v % 1000 / 10); }

void require_present(bool present, const std::string& what) {
  if (!present) throw DeviceAbsent(what);
}

// Makes GPU `index` this thread's device.
void choose_gpu(int index) {
  int driver = 0, runtime = 0, count = 0;
  check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check_cuda(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  require_present(driver != 0, "no NVIDIA driver is loaded on this machine (`nvidia-smi` should list a GPU)");
  const cudaError_t error = cudaGetDeviceCount(&count);
  // Where this fails it leaves `count` as it was.
  if (error == cudaErrorInsufficientDriver)
    fail("the NVIDIA driver is for CUDA ", version(driver), ", this program needs ", version(runtime),
         ": update the driver");
  require_present(error != cudaErrorNoDevice, "the NVIDIA driver sees no GPU (is CUDA_VISIBLE_DEVICES set?)");
  check_cuda(error, "cudaGetDeviceCount");
  require(index >= 0 && index < count, "there is no GPU ", index, ": this machine has ", count, ", counted from 0");
  check_cuda(cudaSetDevice(index), "cudaSetDevice");
}

// Sets the device up in its constructor, before the members that need one.
struct ChosenGpu {
  explicit ChosenGpu(int index) { choose_gpu(index); }
};

// An operation's StepState, as the kernels take it.
StepState* state_of(const Tensor& t) { return reinterpret_cast<StepState*>(t.as<std::uint8_t>()); }

// Null where there is no tensor.
template <class T>
T* address_of(const Tensor& t) {
  return t ? t.as<T>() : nullptr;
}

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(const BackendOptions& options)
      : Backend(options),
        gpu_(options.index),
        stream_(make_stream("elbo compute")),
        gemm_(options.precision, stream()) {
    check_cuda(cudaGetDeviceProperties(&properties_, options.index), "cudaGetDeviceProperties");
    try_a_kernel();
  }
  ~CudaBackend() override { cudaStreamSynchronize(stream()); }

  DeviceInfo info() const override {
    int driver = 0;
    std::size_t free = 0, total = 0;
    check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return {.name = device_name,
            .description =
                cat(properties_.name, ", sm_", properties_.major, properties_.minor, ", driver ", version(driver)),
            .memory = free,
            .threads = 1,
            .launches = true,
            .simulated = simulated,
            .gpu = properties_.name,
            .library = Gemm::library()};
  }

  void collect(bool on) override {
    synchronize();
    check_cuda(on ? cudaProfilerStart() : cudaProfilerStop(), "collect");
  }
  double clock_mhz() override {
    if (!clock_) clock_.emplace(options().index);
    return clock_->mhz();
  }
  void synchronize() override { check_cuda(cudaStreamSynchronize(stream()), "synchronize"); }
  bool watch_activities() override {
    check_cuda(cudaDeviceSynchronize(), "watch_activities");
    activities_.reset();  // CUPTI has room for one
    auto activities = std::make_unique<Activities>(!options().record);
    activities->name_stream(stream(), "elbo compute");
    activities_ = std::move(activities);
    return true;
  }
  std::vector<Activity> take_activities() override {
    if (!activities_) return {};
    check_cuda(cudaDeviceSynchronize(), "take_activities");
    return activities_->take();
  }

  // A library may have an algorithm, and yet refuse when it multiplies.
  bool makes_mask(const DenseForward& op) override { return op.mask && try_multiply(product_of(op)); }

  std::vector<ProductChoice> products() const override { return gemm_.choices(); }
  void use(const Tuning& t) override {
    if (Gemm::library().empty()) return Backend::use(t);
    const auto same = [&](const char* what, const std::string& theirs, const std::string& ours) {
      require(theirs == ours, t.where, ": was tuned for the ", what, " ", theirs, "; this is ", ours,
              ". `elbo tune` makes one for it");
    };
    same("GPU", t.gpu, properties_.name);
    same("library", t.library, Gemm::library());
    same("precision", name_of(t.precision), name_of(options().precision));
    for (const Tuning::Product& p : t.products) {
      try {
        gemm_.use(p.choice);
      } catch (const Error& e) {
        fail(t.where, ": ", e.what());
      }
    }
  }
  Tuning tune(double seconds, const std::function<void(const Tuning::Product&)>& each) override {
    if (Gemm::library().empty()) return Backend::tune(seconds, each);
    return {
        .where = "",
        .gpu = properties_.name,
        .library = Gemm::library(),
        .precision = options().precision,
        .products = tune_products(gemm_, stream(), static_cast<std::size_t>(properties_.l2CacheSize), seconds, each)};
  }

  std::unique_ptr<Recording> record(std::function<void()> calls, std::size_t under_way) override {
    if (!options().record) return Backend::record(std::move(calls), under_way);
    return capture_graph(stream(), calls, under_way);
  }
  std::unique_ptr<Ring> open_ring(std::int64_t slots, std::int64_t rows, std::int64_t pixels) override {
    Stream copy = make_stream("elbo copy");
    if (activities_) activities_->name_stream(copy.get(), "elbo copy");
    return open_cuda_ring(*this, stream(), std::move(copy), slots, rows, pixels);
  }

 protected:
  // ---- Memory ---------------------------------------------------------------------------------------
  std::byte* do_allocate(std::size_t bytes, Memory kind) override {
    void* p = nullptr;
    const cudaError_t error =
        kind == Memory::device ? cudaMalloc(&p, bytes) : cudaHostAlloc(&p, bytes, cudaHostAllocDefault);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // it is told by the null pointer; later calls should not see it
      return nullptr;
    }
    check_cuda(error, kind == Memory::device ? "cudaMalloc" : "cudaHostAlloc");
    return static_cast<std::byte*>(p);
  }
  void do_free(std::byte* p, Memory kind) noexcept override {
    if (kind == Memory::device) {
      cudaFree(p);
    } else {
      cudaFreeHost(p);
    }
  }
  void do_upload(void* to, const void* from, std::size_t bytes) override {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream()), "upload");
    synchronize();  // `from` may be pinned: then the copy reads it until it is done
  }
  void do_download(void* to, const void* from, std::size_t bytes) override {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "download");
    synchronize();
  }
  void do_copy(void* to, const void* from, std::size_t bytes) override {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()), "copy");
  }
  void do_fill(void* to, std::uint8_t byte, std::size_t bytes) override {
    check_cuda(cudaMemsetAsync(to, byte, bytes, stream()), "fill");
  }

  // ---- Dense layers -----------------------------------------------------------------------------------
  // One product each for y, (dweight, dbias) and dx, where the library can do the rest on the way.
  void do_run(const DenseForward& op) override {
    const bool is_done = has_epilogue(op.activation) && try_multiply(product_of(op));
    if (!is_done && op.mask)
      fail("dense_forward: the product ", op.sizes(), " was refused with the mask that it should make; ",
           "--no-epilogues does without");
    if (is_done) return;
    const Product y = plain_product_of(op);
    multiply(y);
    kernels::bias_activation(y.c, op.bias.as<float>(), y.m, y.n, op.activation, stream());
  }
  void do_run(const DenseBackward& op) override {
    const std::int64_t rows = op.x.rows(), in = op.x.columns(), out = op.weight.rows();
    const float *const x = op.x.as<float>(), *const dz = op.dz.as<float>();
    if (op.dweight) {
      Product dweight{.a = dz, .b = x, .c = op.dweight.as<float>(), .m = out, .n = in, .k = rows, .transpose_a = true};
      const Product plain = dweight;
      dweight.row_sums = op.dbias.as<float>();
      if (!try_multiply(dweight)) {
        kernels::column_sum(dz, op.dbias.as<float>(), rows, out, stream());
        multiply(plain);
      }
    }
    if (!op.dx) return;
    Product dx{.a = dz, .b = op.weight.as<float>(), .c = op.dx.as<float>(), .m = rows, .n = in, .k = out};
    const Product plain = dx;
    dx.mask = address_of<std::uint8_t>(op.mask);
    if (dx.mask && try_multiply(dx)) return;
    multiply(plain);
    if (op.input_activation != Activation::identity)
      kernels::activation_backward(x, dx.c, dx.c, rows * in, op.input_activation, stream());
  }
  void do_run(const ActivationBackward& op) override {
    kernels::activation_backward(op.y.as<float>(), op.dy.as<float>(), op.dx.as<float>(), op.y.count(), op.activation,
                                 stream());
  }
  void do_run(const Add& op) override {
    kernels::add(op.a.as<float>(), op.b.as<float>(), op.sum.as<float>(), op.sum.count(), stream());
  }

  // ---- Batch, latent, loss, update ------------------------------------------------------------------
  void do_run(const GatherBatch& op) override {
    kernels::gather_batch({.source = op.source.as<std::uint8_t>(),
                           .state = state_of(op.state),
                           .indexing = op.indexing,
                           .binarize = op.binarize,
                           .input = op.input.as<float>(),
                           .target = op.target.as<std::uint8_t>(),
                           .images = op.source.rows(),
                           .rows = op.input.rows(),
                           .pixels = op.source.columns()},
                          stream());
  }
  void do_run(const SampleLatent& op) override {
    const kernels::SampleLatent k{.stats = op.stats.as<float>(),
                                  .state = state_of(op.state),
                                  .posterior = op.posterior,
                                  .z = address_of<float>(op.z),
                                  .kl_partial = address_of<float>(op.kl_partial),
                                  .sampled_kl = address_of<float>(op.sampled_kl),
                                  .rows = op.stats.rows(),
                                  .samples = op.z ? op.z.shape[1] : 0,
                                  .latent = op.stats.columns() / 2};
    if (op.variant != LossVariant::unfused) return kernels::sample_latent_fused(k, stream());
    kernels::sample_latent_unfused(k, op.scratch.as<float>(), stream());
  }
  void do_run(const SampleLatentBackward& op) override {
    const kernels::SampleLatentBackward k{.stats = op.stats.as<float>(),
                                          .dz = address_of<float>(op.dz),
                                          .state = state_of(op.state),
                                          .posterior = op.posterior,
                                          .kl_scale = op.kl_scale,
                                          .sampled_kl_scale = op.sampled_kl_scale,
                                          .dsampled_kl = address_of<float>(op.dsampled_kl),
                                          .dstats = op.dstats.as<float>(),
                                          .rows = op.stats.rows(),
                                          .samples = op.dz ? op.dz.shape[1] : 0,
                                          .latent = op.stats.columns() / 2};
    if (op.variant != LossVariant::unfused) return kernels::sample_latent_backward_fused(k, stream());
    kernels::sample_latent_backward_unfused(k, address_of<float>(op.scratch), stream());
  }
  void do_run(const LikelihoodLoss& op) override {
    const bool of_bytes = op.target.dtype == DType::u8;
    if (op.output.dtype == DType::bf16)
      return of_bytes ? likelihood_of<std::uint8_t, math::Bf16>(op) : likelihood_of<float, math::Bf16>(op);
    of_bytes ? likelihood_of<std::uint8_t, float>(op) : likelihood_of<float, float>(op);
  }
  void do_run(const ImportanceBound& op) override {
    const kernels::ImportanceBound k{.nll_partial = op.nll_partial.as<float>(),
                                     .sampled_kl = op.sampled_kl.as<float>(),
                                     .grad_scale = op.grad_scale,
                                     .loss = address_of<float>(op.loss),
                                     .dnll_partial = address_of<float>(op.dnll_partial),
                                     .dsampled_kl = address_of<float>(op.dsampled_kl),
                                     .rows = op.sampled_kl.rows(),
                                     .samples = op.sampled_kl.columns(),
                                     .chunks = op.nll_partial.columns()};
    if (op.variant != LossVariant::unfused) return kernels::importance_bound_fused(k, stream());
    kernels::importance_bound_unfused(k, op.scratch.as<float>(), stream());
  }
  void do_run(const Accumulate& op) override { kernels::accumulate(accumulate_of(op), stream()); }
  void do_run(const OptimizerStep& op) override { kernels::optimizer_step(optimizer_step_of(op), stream()); }
  void do_run(const Advance& op) override {
    kernels::advance(state_of(op.state), op.schedule, op.fault.as<std::uint64_t>(), stream());
  }
  void do_run(const FinishStep& op) override {
    // Every block reads all partial sums. With more of them that takes longer than the launches that it saves.
    constexpr std::int64_t most_partial_sums = 8192;
    if (op.losses.partial_sums() > most_partial_sums) return Backend::do_run(op);
    kernels::finish_step(accumulate_of(op.losses), optimizer_step_of(op.update), op.advance.schedule,
                         op.advance.fault.as<std::uint64_t>(), properties_.multiProcessorCount, stream());
  }

  // Events in the stream: a range's time is the device's, not that of the calls. They are kept for the next timing,
  // since to make one takes as long as to launch a kernel.
  std::unique_ptr<Stopwatch> do_open_stopwatch() override {
    if (activities_) return open_activity_stopwatch();
    struct Events : Stopwatch {
      Events(cudaStream_t s, std::vector<Event>& events) : stream(s), marks(events) {}
      void mark() override {
        if (marked == marks.size()) marks.push_back(make_timing_event());
        check_cuda(cudaEventRecord(marks[marked++].get(), stream), "mark");
      }
      double microseconds(std::size_t from, std::size_t to) override {
        float milliseconds = 0;
        check_cuda(cudaEventElapsedTime(&milliseconds, marks[from].get(), marks[to].get()), "cudaEventElapsedTime");
        return 1e3 * static_cast<double>(milliseconds);
      }
      cudaStream_t stream;
      std::vector<Event>& marks;
      std::size_t marked = 0;
    };
    return std::make_unique<Events>(stream(), timing_events_);
  }
  void push_range(const char* name) override { kernels::push_range(name); }
  void pop_range() override { kernels::pop_range(); }

 private:
  cudaStream_t stream() const { return stream_.get(); }

  static bool has_epilogue(Activation a) { return a == Activation::relu || a == Activation::identity; }
  static Product plain_product_of(const DenseForward& op) {
    return {.a = op.x.as<float>(),
            .b = op.weight.as<float>(),
            .c = op.y.as<float>(),
            .m = op.x.rows(),
            .n = op.weight.rows(),
            .k = op.x.columns(),
            .transpose_b = true};
  }
  // With all that may be done on the way, where the activation has an epilogue.
  static Product product_of(const DenseForward& op) {
    Product y = plain_product_of(op);
    y.bias = op.bias.as<float>();
    y.relu = op.activation == Activation::relu;
    y.relu_mask = address_of<std::uint8_t>(op.mask);
    return y;
  }

  bool try_multiply(const Product& p) { return options().epilogues && gemm_.multiply(p); }
  // Without anything on the way: the library does it, or throws.
  void multiply(const Product& p) { std::ignore = gemm_.multiply(p); }

  static kernels::Accumulate accumulate_of(const Accumulate& op) {
    kernels::Accumulate k{
        .losses = {}, .count = 0, .state = state_of(op.state), .sums = op.sums.as<double>(), .rows = op.rows};
    for (const PartialLoss& loss : op.losses)
      if (loss.partial)
        k.losses[k.count++] = {.partial = loss.partial.as<float>(),
                               .count = loss.partial.count(),
                               .columns = loss.by_column ? loss.sums() : 0,
                               .samples = loss.samples};
    return k;
  }
  static kernels::OptimizerStep optimizer_step_of(const OptimizerStep& op) {
    return {.parameters = op.parameters.as<float>(),
            .gradients = op.gradients.as<float>(),
            .first = op.first_moment.as<float>(),
            .second = op.second_moment.as<float>(),
            .state = state_of(op.state),
            .settings = op.settings,
            .count = op.parameters.count()};
  }

  // Where activities are watched, they tell the time of a range, and no events come between its kernels.
  std::unique_ptr<Stopwatch> open_activity_stopwatch() {
    struct Marks : Stopwatch {
      Marks(cudaStream_t s, Activities& a) : stream(s), activities(a) { a.start_marks(); }
      void mark() override { activities.mark(); }
      double microseconds(std::size_t from, std::size_t to) override {
        if (moments.empty()) moments = activities.moments(stream);
        return moments[to] - moments[from];
      }
      cudaStream_t stream;
      Activities& activities;
      std::vector<double> moments;
    };
    return std::make_unique<Marks>(stream(), *activities_);
  }

  template <class Target, class Output>
  void likelihood_of(const LikelihoodLoss& op) {
    const std::int64_t rows = op.target.rows();
    const kernels::LikelihoodLoss<Target, Output> k{.output = op.output.as<Output>(),
                                                    .target = op.target.as<Target>(),
                                                    .variance = op.variance,
                                                    .mean = op.mean,
                                                    .grad_scale = op.grad_scale,
                                                    .dnll_partial = address_of<float>(op.dnll_partial),
                                                    .nll_partial = address_of<float>(op.nll_partial),
                                                    .grad = address_of<Output>(op.grad),
                                                    .rows = rows,
                                                    .samples = op.output.rows() / rows,
                                                    .pixels = op.target.columns()};
    switch (op.variant) {
      case LossVariant::fused: return kernels::likelihood_fused(op.likelihood, k, stream());
      case LossVariant::fused_log: return kernels::likelihood_fused_log(op.likelihood, k, stream());
      case LossVariant::two_pass: return kernels::likelihood_two_pass(op.likelihood, k, stream());
      case LossVariant::unfused:  // of f32: LikelihoodLoss::check() refuses the others
        if constexpr (std::is_same_v<Output, float>)
          kernels::likelihood_unfused(op.likelihood, k, address_of<float>(op.scratch), stream());
    }
  }

  // Runs the smallest kernel there is, so that a GPU which this build has no code for is named here and
  // not in the middle of a run.
  void try_a_kernel() {
    const Buffer device(*this, sizeof(StepState), Memory::device, "a first kernel");
    const Buffer pinned(*this, sizeof(std::uint64_t), Memory::pinned, "a first kernel");
    const StepState state = state_at(0, 0, {});
    do_upload(device.data(), &state, sizeof state);
    try {
      kernels::advance(reinterpret_cast<StepState*>(device.data()), {}, reinterpret_cast<std::uint64_t*>(pinned.data()),
                       stream());
      synchronize();
    } catch (const Error& e) {
      fail(info().description, " cannot run this build's kernels, which are for ", ELBO_ARCHITECTURES,
           " (-DELBO_CUDA_ARCHITECTURES=", properties_.major, properties_.minor, " builds some for it): ", e.what());
    }
  }

  ChosenGpu gpu_;
  Stream stream_;
  Gemm gemm_;
  std::vector<Event> timing_events_;
  std::unique_ptr<Activities> activities_;  // while they are watched
  std::optional<SmClock> clock_;            // once it was asked for
  cudaDeviceProp properties_{};
};

}  // namespace
}  // namespace cuda

std::unique_ptr<Backend> create_cuda_backend(const BackendOptions& options) {
  return std::make_unique<cuda::CudaBackend>(options);
}

}  // namespace elbo
