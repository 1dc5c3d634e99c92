#include "cuda/backend.h"

#include <cuda_profiler_api.h>
#include <cuda_runtime.h>

#include <map>
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
#include "kernels/gather.h"
#include "kernels/latent.h"
#include "kernels/launcher.h"
#include "kernels/layers.h"
#include "kernels/likelihood.h"
#include "kernels/optimizer.h"

namespace elbo {
namespace {

#if defined(ELBO_SIM)
constexpr const char* device_name = "sim";
#define ELBO_ARCHITECTURES "the simulated device"
#else
constexpr const char* device_name = "cuda";
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
  require(error != cudaErrorInsufficientDriver, "the NVIDIA driver is for CUDA ", version(driver),
          ", this program needs ", version(runtime), ": update the driver");
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
    return {device_name,
            cat(properties_.name, ", sm_", properties_.major, properties_.minor, ", driver ", version(driver)),
            free,
            1,
            true,
            properties_.name,
            Gemm::library()};
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
    return {"", properties_.name, Gemm::library(), options().precision,
            tune_products(gemm_, stream(), static_cast<std::size_t>(properties_.l2CacheSize), seconds, each)};
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

  // ---- Layers ---------------------------------------------------------------------------------------
  // One product each for y, (dweight, dbias) and dx, where the library can do the rest on the way.
  void do_dense_forward(const DenseForward& a) override {
    const bool relu = a.activation == Activation::relu;
    Product y{a.x.as<float>(), a.weight.as<float>(), a.y.as<float>(), a.x.rows(),
              a.weight.rows(), a.x.columns(),        false,           true};
    y.bias = a.bias.as<float>();
    y.relu = relu;
    if (relu && a.mask) y.relu_mask = a.mask.as<std::uint8_t>();
    bool done = (relu || a.activation == Activation::identity) && try_multiply(y);
    if (y.relu_mask) has_mask_[y.relu_mask] = done;
    if (!done && std::exchange(y.relu_mask, nullptr)) done = try_multiply(y);
    if (done) return;
    multiply({y.a, y.b, y.c, y.m, y.n, y.k, y.transpose_a, y.transpose_b});
    kernels::bias_activation(y.c, y.bias, y.m, y.n, a.activation, stream());
  }
  void do_dense_backward(const DenseBackward& a) override {
    const std::int64_t rows = a.x.rows(), in = a.x.columns(), out = a.weight.rows();
    const float *const x = a.x.as<float>(), *const dz = a.dz.as<float>();
    Product dweight{dz, x, a.dweight.as<float>(), out, in, rows, true, false};
    dweight.row_sums = a.dbias.as<float>();
    if (!try_multiply(dweight)) {
      kernels::column_sum(dz, a.dbias.as<float>(), rows, out, stream());
      multiply({dz, x, dweight.c, out, in, rows, true, false});
    }
    if (!a.dx) return;
    Product dx{dz, a.weight.as<float>(), a.dx.as<float>(), rows, in, out, false, false};
    if (a.activation == Activation::relu && a.mask && has_mask_[a.mask.data]) dx.mask = a.mask.as<std::uint8_t>();
    if (dx.mask && try_multiply(dx)) return;
    multiply({dz, dx.b, dx.c, rows, in, out, false, false});
    if (a.activation != Activation::identity) kernels::activation_backward(x, dx.c, rows * in, a.activation, stream());
  }

  // ---- Batch, latent, loss, update ------------------------------------------------------------------
  void do_gather_batch(const GatherBatch& g) override {
    kernels::gather_batch({g.source.as<std::uint8_t>(), state_of(g.state), g.indexing, g.binarize, g.input.as<float>(),
                           g.target.as<std::uint8_t>(), g.source.rows(), g.input.rows(), g.source.columns()},
                          stream());
  }
  void do_sample_latent(const SampleLatent& a) override {
    const kernels::LatentSample k{a.stats.as<float>(),      state_of(a.state), a.posterior,  a.z.as<float>(),
                                  a.kl_partial.as<float>(), a.z.shape[0],      a.z.shape[1], a.z.shape[2]};
    if (a.kernels != Kernels::unfused) return kernels::sample_latent_fused(k, stream());
    kernels::sample_latent_unfused(k, a.scratch.as<float>(), stream());
  }
  void do_sample_latent_backward(const SampleLatentBackward& a) override {
    const kernels::LatentGradient k{a.stats.as<float>(),  a.dz.as<float>(), state_of(a.state), a.posterior,  a.kl_scale,
                                    a.dstats.as<float>(), a.dz.shape[0],    a.dz.shape[1],     a.dz.shape[2]};
    if (a.kernels != Kernels::unfused) return kernels::latent_gradient_fused(k, stream());
    kernels::latent_gradient_unfused(k, a.scratch.as<float>(), stream());
  }
  void do_likelihood(const LikelihoodLoss& a) override {
    const bool of_bytes = a.target.dtype == DType::u8;
    if (a.output.dtype == DType::bf16)
      return of_bytes ? likelihood_of<std::uint8_t, math::Bf16>(a) : likelihood_of<float, math::Bf16>(a);
    of_bytes ? likelihood_of<std::uint8_t, float>(a) : likelihood_of<float, float>(a);
  }
  void do_accumulate(const Accumulate& a) override { kernels::accumulate(totals_of(a), stream()); }
  void do_optimizer_step(const OptimizerStep& a) override { kernels::optimizer_update(update_of(a), stream()); }
  void do_advance(StepState* state, const Schedule& schedule, std::uint64_t* fault) override {
    kernels::advance(state, schedule, fault, stream());
  }

  void do_finish_step(const FinishStep& a) override {
    // Every block looks through all losses: for more of them the launches that this saves cost less.
    constexpr std::int64_t most_losses = 8192;
    if (a.losses.nll_partial.count() + a.losses.kl_partial.count() > most_losses) return Backend::do_finish_step(a);
    kernels::finish_step(totals_of(a.losses), update_of(a.update), a.schedule, a.fault.as<std::uint64_t>(),
                         properties_.multiProcessorCount, stream());
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

  bool try_multiply(const Product& p) { return options().epilogues && gemm_.multiply(p); }
  // Without anything on the way: the library does it, or throws.
  void multiply(const Product& p) { std::ignore = gemm_.multiply(p); }

  static kernels::Totals totals_of(const Accumulate& a) {
    return {a.nll_partial.as<float>(), a.kl_partial.as<float>(), state_of(a.state),   a.sums.as<double>(),   a.rows,
            a.nll_partial.rows(),      a.nll_partial.columns(),  a.kl_partial.rows(), a.kl_partial.columns()};
  }
  static kernels::Update update_of(const OptimizerStep& a) {
    return {a.parameters.as<float>(), a.gradients.as<float>(), a.first.as<float>(),
            a.second.as<float>(),     state_of(a.state),       a.settings,
            a.parameters.count()};
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
  void likelihood_of(const LikelihoodLoss& a) {
    const std::int64_t rows = a.target.rows();
    const kernels::PixelLoss<Target, Output> k{a.output.as<Output>(),
                                               a.target.as<Target>(),
                                               a.variance,
                                               a.grad_scale,
                                               a.nll_partial.as<float>(),
                                               a.grad ? a.grad.as<Output>() : nullptr,
                                               rows,
                                               a.output.rows() / rows,
                                               a.output.columns()};
    switch (a.kernels) {
      case Kernels::fused: return kernels::likelihood_fused(a.likelihood, k, stream());
      case Kernels::fused_log: return kernels::likelihood_fused_log(a.likelihood, k, stream());
      case Kernels::two_pass: return kernels::likelihood_two_pass(a.likelihood, k, stream());
      case Kernels::unfused:  // of f32: Backend::likelihood refuses the others
        if constexpr (std::is_same_v<Output, float>)
          kernels::likelihood_unfused(a.likelihood, k, a.scratch.as<float>(), stream());
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
      do_advance(reinterpret_cast<StepState*>(device.data()), {}, reinterpret_cast<std::uint64_t*>(pinned.data()));
      synchronize();
    } catch (const Error& e) {
      fail(info().description, " cannot run this build's kernels, which are for ", ELBO_ARCHITECTURES,
           " (-DELBO_CUDA_ARCHITECTURES=", properties_.major, properties_.minor, " builds some for it): ", e.what());
    }
  }

  ChosenGpu gpu_;
  Stream stream_;
  Gemm gemm_;
  // Masks of forward passes: whether the product made it, or relu was left to a kernel, which makes none.
  std::map<const void*, bool> has_mask_;
  std::vector<Event> timing_events_;
  std::unique_ptr<Activities> activities_;  // while they are watched
  std::optional<SmClock> clock_;            // once it was asked for
  cudaDeviceProp properties_{};
};

}  // namespace

std::unique_ptr<Backend> create_cuda_backend(const BackendOptions& options) {
  return std::make_unique<CudaBackend>(options);
}

}  // namespace elbo
