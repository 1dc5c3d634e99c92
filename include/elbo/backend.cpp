#include "elbo/backend.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace elbo {
namespace {

constexpr std::size_t alignment = 256;

void check(const char* operation, const char* what, const Tensor& t, DType dtype, const Shape& shape) {
  require(static_cast<bool>(t), operation, ": ", what, " has no memory");
  require(t.dtype == dtype && t.shape == shape, operation, ": ", what, " should be ", name_of(dtype), " ", shape,
          ", not ", name_of(t.dtype), " ", t.shape);
}

void check_state(const char* operation, const Tensor& state) {
  require(state && state.dtype == DType::u8 && state.bytes() == sizeof(StepState), operation, ": state should be the ",
          sizeof(StepState), " bytes of a StepState");
}

void check_scratch(const char* operation, const Tensor& scratch, std::int64_t need) {
  if (need == 0) return;
  require(scratch && scratch.dtype == DType::f32 && scratch.count() >= need, operation, ": the unfused kernels need ",
          need, " f32 elements of scratch, there are ", scratch ? scratch.count() : 0);
}

struct LatentShape {
  std::int64_t rows, samples, latent;
};

LatentShape check_latent(const char* operation, const Tensor& stats, const Tensor& z) {
  require(stats && stats.dtype == DType::f32 && stats.shape.rank() == 2 && stats.shape[1] % 2 == 0, operation,
          ": stats should be f32 [rows, 2 * latent], not ", stats.shape);
  require(z && z.dtype == DType::f32 && z.shape.rank() == 3, operation,
          ": z should be f32 [rows, samples, latent], not ", z.shape);
  const LatentShape s{stats.shape[0], z.shape[1], stats.shape[1] / 2};
  check(operation, "z", z, DType::f32, {s.rows, s.samples, s.latent});
  require(s.samples >= 1 && s.samples < (1 << 24), operation, ": ", s.samples, " samples; 1 to 2^24 - 1 are possible");
  return s;
}

}  // namespace

// ---- Memory ---------------------------------------------------------------------------------------------

Buffer::Buffer(Backend& backend, std::size_t bytes, Memory kind, std::string_view what)
    : backend_(&backend), size_(bytes), kind_(kind) {
  if (bytes == 0) return;
  data_ = backend.do_allocate(bytes, kind);
  require(data_ != nullptr, "no memory for ", what, ": ", bytes, " bytes on ", backend.info().name);
}

Buffer::~Buffer() {
  if (data_) backend_->do_free(data_, kind_);
}

Tensor Arena::take(Shape shape, DType dtype) {
  Tensor t{nullptr, dtype, shape};
  const std::size_t at = used_;
  used_ += (t.bytes() + alignment - 1) / alignment * alignment;
  if (buffer_.size() == 0) return t;
  require(used_ <= buffer_.size(), "an arena of ", buffer_.size(), " bytes was asked for ", used_);
  t.data = buffer_.data() + at;
  return t;
}

void Backend::upload(const Tensor& to, const void* from) {
  if (to.bytes()) do_upload(to.data, from, to.bytes());
}

void Backend::download(void* to, const Tensor& from) {
  if (from.bytes()) do_download(to, from.data, from.bytes());
}

void Backend::copy(const Tensor& to, const Tensor& from) {
  require(to.dtype == from.dtype && to.count() == from.count(), "copy: from ", name_of(from.dtype), " ", from.shape,
          " to ", name_of(to.dtype), " ", to.shape);
  if (to.bytes()) do_copy(to.data, from.data, to.bytes());
}

void Backend::fill(const Tensor& to, std::uint8_t byte) {
  if (to.bytes()) do_fill(to.data, byte, to.bytes());
}

// ---- Replay and streaming -----------------------------------------------------------------------------------

namespace {

class Calls final : public Recording {
 public:
  explicit Calls(std::function<void()> calls) : calls_(std::move(calls)) {}
  void replay() override { calls_(); }

 private:
  std::function<void()> calls_;
};

class Slots final : public Ring {
 public:
  Slots(Backend& backend, std::int64_t slots, std::int64_t rows, std::int64_t pixels)
      : slots_(static_cast<std::uint64_t>(slots)),
        slot_bytes_(static_cast<std::uint64_t>(rows * pixels)),
        buffer_(backend, static_cast<std::size_t>(slots * rows * pixels), Memory::pinned,
                "the ring of batches (a smaller train.batch_size needs less)"),
        device_{buffer_.data(), DType::u8, {slots * rows, pixels}} {}

  std::byte* acquire(std::uint64_t batch) override { return buffer_.data() + batch % slots_ * slot_bytes_; }
  void submit() override {}
  void release() override {}
  Tensor device() const override { return device_; }

 private:
  std::uint64_t slots_, slot_bytes_;
  Buffer buffer_;
  Tensor device_;
};

}  // namespace

std::unique_ptr<Recording> Backend::record(std::function<void()> calls, std::size_t) {
  return std::make_unique<Calls>(std::move(calls));
}

std::unique_ptr<Ring> Backend::open_ring(std::int64_t slots, std::int64_t rows, std::int64_t pixels) {
  require(slots > 0 && rows > 0 && pixels > 0, "open_ring: ", slots, " slots of ", rows, " rows of ", pixels,
          " pixels");
  return std::make_unique<Slots>(*this, slots, rows, pixels);
}

// ---- The choice of algorithms -------------------------------------------------------------------------------

const char* name_of(Epilogue e) {
  constexpr const char* names[] = {"default", "bias", "relu_bias", "relu_aux_bias", "drelu", "bgradb"};
  return names[static_cast<int>(e)];
}

const char* name_of(Precision p) {
  constexpr const char* names[] = {"fp32", "tf32", "bf16"};
  return names[static_cast<int>(p)];
}

std::string description_of(const ProductShape& p) {
  const auto operand = [](std::int64_t rows, std::int64_t columns, bool transposed) {
    return transposed ? cat("[", columns, ", ", rows, "]'") : cat("[", rows, ", ", columns, "]");
  };
  return cat(operand(p.m, p.k, p.transpose_a), " x ", operand(p.k, p.n, p.transpose_b), " ", name_of(p.epilogue));
}

void Backend::use(const Tuning& t) {
  fail(t.where, ": the ", info().name, " device has no algorithms to choose from; only a cuda device has");
}

Tuning Backend::tune(double, const std::function<void(const Tuning::Product&)>&) {
  fail("the ", info().name, " device has nothing to tune: only a cuda device has a choice of algorithms");
}

// ---- Layers -----------------------------------------------------------------------------------------------

void Backend::dense_forward(const DenseForward& a) {
  const std::int64_t rows = a.x.rows(), in = a.x.columns(), out = a.weight.rows();
  check("dense_forward", "x", a.x, DType::f32, {rows, in});
  check("dense_forward", "weight", a.weight, DType::f32, {out, in});
  check("dense_forward", "bias", a.bias, DType::f32, {out});
  check("dense_forward", "y", a.y, DType::f32, {rows, out});
  if (a.mask) check("dense_forward", "mask", a.mask, DType::u8, {rows, mask_bytes(out)});
  const Range range(*this, "dense_forward");
  do_dense_forward(a);
}

void Backend::dense_backward(const DenseBackward& a) {
  const std::int64_t rows = a.x.rows(), in = a.x.columns(), out = a.weight.rows();
  check("dense_backward", "x", a.x, DType::f32, {rows, in});
  check("dense_backward", "weight", a.weight, DType::f32, {out, in});
  check("dense_backward", "dz", a.dz, DType::f32, {rows, out});
  check("dense_backward", "dweight", a.dweight, DType::f32, {out, in});
  check("dense_backward", "dbias", a.dbias, DType::f32, {out});
  if (a.mask) check("dense_backward", "mask", a.mask, DType::u8, {rows, mask_bytes(in)});
  if (a.dx) check("dense_backward", "dx", a.dx, DType::f32, {rows, in});
  const Range range(*this, "dense_backward");
  do_dense_backward(a);
}

// ---- Batch, latent, loss, update ------------------------------------------------------------------------------

void Backend::gather_batch(const GatherBatch& g) {
  require(g.source && g.source.dtype == DType::u8, "gather_batch: source should be u8, not ", name_of(g.source.dtype));
  const std::int64_t pixels = g.source.columns(), rows = g.input.rows();
  check("gather_batch", "input", g.input, DType::f32, {rows, pixels});
  check("gather_batch", "target", g.target, DType::u8, {rows, pixels});
  check_state("gather_batch", g.state);
  require(rows <= g.source.rows(), "gather_batch: a batch of ", rows, " rows from ", g.source.rows(), " images");
  require(g.indexing != Indexing::ring || g.source.rows() % rows == 0, "gather_batch: a ring of ", g.source.rows(),
          " rows is not made of slots of ", rows);
  require(g.source.rows() <= (std::int64_t{1} << 31), "gather_batch: more than 2^31 images");
  const Range range(*this, "gather_batch");
  do_gather_batch(g);
}

std::int64_t scratch_size(Kernels kernels, std::int64_t rows, std::int64_t samples, std::int64_t columns) {
  return kernels == Kernels::unfused ? rows * samples * columns : 0;
}

void Backend::sample_latent(const SampleLatent& a) {
  const auto [rows, samples, latent] = check_latent("sample_latent", a.stats, a.z);
  check("sample_latent", "kl_partial", a.kl_partial, DType::f32, {tiles(rows, latent_tile), latent});
  check_state("sample_latent", a.state);
  check_scratch("sample_latent", a.scratch, scratch_size(a.kernels, rows, samples, latent));
  const Range range(*this, "sample_latent");
  do_sample_latent(a);
}

void Backend::sample_latent_backward(const SampleLatentBackward& a) {
  const auto [rows, samples, latent] = check_latent("sample_latent_backward", a.stats, a.dz);
  check("sample_latent_backward", "dstats", a.dstats, DType::f32, {rows, 2 * latent});
  check_state("sample_latent_backward", a.state);
  check_scratch("sample_latent_backward", a.scratch, scratch_size(a.kernels, rows, samples, latent));
  const Range range(*this, "sample_latent_backward");
  do_sample_latent_backward(a);
}

void Backend::likelihood(const LikelihoodLoss& a) {
  const std::int64_t outputs = a.output.rows(), pixels = a.output.columns(), rows = a.target.rows();
  const DType type = a.output.dtype == DType::bf16 ? DType::bf16 : DType::f32;
  check("likelihood", "output", a.output, type, {outputs, pixels});
  require(type == DType::f32 || a.kernels != Kernels::unfused,
          "likelihood: the unfused kernels take an f32 output; for bf16 choose fused, fused_log or two_pass");
  require(a.target && (a.target.dtype == DType::u8 || a.target.dtype == DType::f32) && rows > 0 &&
              outputs % rows == 0 && a.target.shape == Shape{rows, pixels},
          "likelihood: target should be u8 or f32 [rows, ", pixels, "] with rows dividing ", outputs, ", not ",
          name_of(a.target.dtype), " ", a.target.shape);
  check("likelihood", "nll_partial", a.nll_partial, DType::f32, {outputs, tiles(pixels, pixel_chunk)});
  if (a.grad) check("likelihood", "grad", a.grad, type, {outputs, pixels});
  require(a.likelihood != Likelihood::gaussian || a.variance > 0, "likelihood: a variance of ", a.variance);
  check_scratch("likelihood", a.scratch, scratch_size(a.kernels, outputs, 1, pixels));
  const Range range(*this, "likelihood");
  do_likelihood(a);
}

namespace {

void check_accumulate(const Accumulate& a, const char* operation = "accumulate") {
  const std::int64_t latent = a.kl_partial.columns();
  require(a.rows > 0 && a.nll_partial.rows() % a.rows == 0, operation, ": ", a.nll_partial.rows(),
          " losses are not a whole number for each of ", a.rows, " rows");
  check(operation, "kl_partial", a.kl_partial, DType::f32, {tiles(a.rows, latent_tile), latent});
  check(operation, "sums", a.sums, DType::f64, {2 + latent});
  check_state(operation, a.state);
}

void check_update(const OptimizerStep& a, const char* operation = "optimizer_step") {
  const Shape flat{a.parameters.count()};
  check(operation, "parameters", a.parameters, DType::f32, flat);
  check(operation, "gradients", a.gradients, DType::f32, flat);
  check(operation, "first", a.first, DType::f32, flat);
  check(operation, "second", a.second, DType::f32, flat);
  check_state(operation, a.state);
}

}  // namespace

void Backend::accumulate(const Accumulate& a) {
  check_accumulate(a);
  const Range range(*this, "accumulate");
  do_accumulate(a);
}

void Backend::optimizer_step(const OptimizerStep& a) {
  check_update(a);
  const Range range(*this, "optimizer_step");
  do_optimizer_step(a);
}

void Backend::advance(const Tensor& state, const Schedule& schedule, const Tensor& fault) {
  check_state("advance", state);
  check("advance", "fault", fault, DType::u64, {1});
  const Range range(*this, "advance");
  do_advance(static_cast<StepState*>(state.data), schedule, fault.as<std::uint64_t>());
}

void Backend::finish_step(const FinishStep& a) {
  check_accumulate(a.losses, "finish_step");
  check_update(a.update, "finish_step");
  check("finish_step", "fault", a.fault, DType::u64, {1});
  require(a.losses.state.data == a.update.state.data, "finish_step: two states");
  const Range range(*this, "finish_step");
  do_finish_step(a);
}

void Backend::do_finish_step(const FinishStep& a) {
  do_accumulate(a.losses);
  do_optimizer_step(a.update);
  do_advance(static_cast<StepState*>(a.update.state.data), a.schedule, a.fault.as<std::uint64_t>());
}

// ---- Profiling ------------------------------------------------------------------------------------------------

std::unique_ptr<Backend::Stopwatch> Backend::do_open_stopwatch() {
  struct HostStopwatch : Stopwatch {
    using Clock = std::chrono::steady_clock;
    std::vector<Clock::time_point> marks;
    void mark() override { marks.push_back(Clock::now()); }
    double microseconds(std::size_t from, std::size_t to) override {
      return std::chrono::duration<double, std::micro>(marks[to] - marks[from]).count();
    }
  };
  return std::make_unique<HostStopwatch>();
}

void Backend::start_timing() {
  timing_ = std::make_unique<Timing>();
  timing_->stopwatch = do_open_stopwatch();
}

std::vector<Backend::RangeTime> Backend::stop_timing() {
  require(timing_ != nullptr, "stop_timing() without start_timing()");
  const std::unique_ptr<Timing> timing = std::move(timing_);
  synchronize();
  std::vector<RangeTime> times;
  for (const Timing::Entry& e : timing->entries)
    times.push_back({e.path, timing->stopwatch->microseconds(0, e.begin),
                     timing->stopwatch->microseconds(e.begin, e.end), e.innermost});
  return times;
}

void Backend::enter(const char* name) {
  push_range(name);
  if (!timing_) return;
  Timing& t = *timing_;
  std::string path = name;
  if (!t.open.empty()) {
    Timing::Entry& outer = t.entries[t.open.back()];
    outer.innermost = false;
    path = outer.path + "/" + name;
  }
  t.open.push_back(t.entries.size());
  t.entries.push_back({std::move(path), t.marks++, 0, true});
  t.stopwatch->mark();
}

void Backend::leave() {
  pop_range();
  if (!timing_ || timing_->open.empty()) return;  // the range began before the timing
  Timing& t = *timing_;
  t.entries[t.open.back()].end = t.marks++;
  t.open.pop_back();
  t.stopwatch->mark();
}

}  // namespace elbo
