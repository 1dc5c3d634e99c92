#include "elbo/backend.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace elbo {

void check_tensor(const char* operation, const char* what, const Tensor& t, DType dtype, const Shape& shape) {
  if (t && t.dtype == dtype && t.shape == shape) return;
  require(static_cast<bool>(t), operation, ": ", what, " has no memory");
  fail(operation, ": ", what, " should be ", name_of(dtype), " ", shape, ", not ", name_of(t.dtype), " ", t.shape);
}

void check_state(const char* operation, const Tensor& state) {
  require(state && state.dtype == DType::u8 && state.bytes() == sizeof(StepState), operation, ": state should be the ",
          sizeof(StepState), " bytes of a StepState");
}

void check_scratch(const char* operation, const Tensor& scratch, std::int64_t need) {
  if (need == 0 || (scratch && scratch.dtype == DType::f32 && scratch.count() >= need)) return;
  fail(operation, ": the unfused kernels need ", need, " f32 elements of scratch, there are ",
       scratch ? scratch.count() : 0);
}

// ---- Memory ---------------------------------------------------------------------------------------------

Buffer::Buffer(Backend& backend, std::size_t bytes, Memory kind, std::string_view what)
    : backend_(&backend), size_(bytes), kind_(kind) {
  if (bytes == 0) return;
  data_ = backend.do_allocate(bytes, kind);
  if (!data_) fail("no memory for ", what, ": ", bytes, " bytes on ", backend.info().name);
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
  switch (e) {
    case Epilogue::none: return "default";
    case Epilogue::bias: return "bias";
    case Epilogue::relu_bias: return "relu_bias";
    case Epilogue::relu_aux_bias: return "relu_aux_bias";
    case Epilogue::drelu: return "drelu";
    case Epilogue::bgradb: return "bgradb";
  }
  return "";
}

const char* name_of(Precision p) {
  switch (p) {
    case Precision::fp32: return "fp32";
    case Precision::tf32: return "tf32";
    case Precision::bf16: return "bf16";
  }
  return "";
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

// ---- Operations -------------------------------------------------------------------------------------------

void Backend::do_run(const FinishStep& op) {
  do_run(op.losses);
  do_run(op.update);
  do_run(op.advance);
}

// ---- Profiling ------------------------------------------------------------------------------------------------

std::unique_ptr<Stopwatch> Backend::do_open_stopwatch() {
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

std::vector<RangeTime> Backend::stop_timing() {
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
