// The CUDA device beyond its operations: recordings, the ring, errors, profiling ranges. On the simulated
// runtime, in which work runs as early or as late as CUDA's rules allow, so that a missing wait shows.
#include <cuda_profiler_api.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>
#include <nvtx3/nvToolsExt.h>

#include <cstring>
#include <string>
#include <vector>

#include "cuda/backend.h"
#include "host/bench_loss.h"

namespace elbo {
namespace {

using cusim::Order;

class ScheduledTest : public testing::Test {
 protected:
  explicit ScheduledTest(cusim::Schedule schedule) { cusim::set_schedule(schedule); }
  ~ScheduledTest() override {
    cusim::set_schedule(std::nullopt);
    EXPECT_EQ(cusim::leaks(), std::vector<std::string>());
  }

  static Tensor state_in(const Buffer& b) { return {b.data(), DType::u8, {sizeof(StepState)}}; }
  static StepState read(Backend& device, const Tensor& state) {
    StepState s;
    device.download(&s, state);
    return s;
  }
};

class CudaDevice : public ScheduledTest, public testing::WithParamInterface<cusim::Schedule> {
 protected:
  CudaDevice() : ScheduledTest(GetParam()) {}
};

class CudaDeviceLate : public ScheduledTest {
 protected:
  CudaDeviceLate() : ScheduledTest({Order::reverse}) {}
};

std::string name_of_order(const testing::TestParamInfo<cusim::Schedule>& info) {
  constexpr const char* names[] = {"forward", "reverse", "random"};
  return cat(names[static_cast<int>(info.param.order)], info.param.seed);
}
INSTANTIATE_TEST_SUITE_P(Orders, CudaDevice,
                         testing::Values(cusim::Schedule{Order::forward}, cusim::Schedule{Order::reverse},
                                         cusim::Schedule{Order::random, 1}, cusim::Schedule{Order::random, 2}),
                         name_of_order);

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_P(CudaDevice, ARecordingRunsOnlyWhenItIsReplayed) {
  for (const bool record : {true, false}) {
    const auto device = create_cuda_backend({.record = record});
    const Buffer memory(*device, sizeof(StepState), Memory::device, "state");
    const Buffer pinned(*device, sizeof(std::uint64_t), Memory::pinned, "fault");
    const Tensor state = state_in(memory), fault{pinned.data(), DType::u64, {1}};
    const Schedule schedule{.batches_per_epoch = 4, .beta1 = 0.9f, .beta2 = 0.999f};
    const StepState start = state_at(1, 0, schedule);
    device->upload(state, &start);
    const auto step = device->record([&] { device->advance(state, schedule, fault); });
    EXPECT_EQ(read(*device, state).step, 0u);
    for (int i = 0; i < 20; ++i) step->replay();
    const StepState s = read(*device, state);
    EXPECT_EQ(s.step, 20u);
    EXPECT_EQ(s.epoch, 5u);
    EXPECT_EQ(s.correction2, state_at(1, 20, schedule).correction2);
  }
}

// What the host sees of pinned memory without waiting for the device: no race, whatever ThreadSanitizer thinks.
[[gnu::noinline, gnu::no_sanitize("thread")]] std::uint64_t glance_at(const Tensor& word) {
  return *static_cast<const volatile std::uint64_t*>(word.as<std::uint64_t>());
}

// In reverse order alone, where work runs as late as it may: elsewhere later replays would write `fault`
// while it is read.
TEST_F(CudaDeviceLate, TheNinthReplayWaitsForTheFirst) {
  const auto device = create_cuda_backend({});
  const Buffer memory(*device, sizeof(StepState), Memory::device, "state");
  const Buffer pinned(*device, sizeof(std::uint64_t), Memory::pinned, "fault");
  const Tensor state = state_in(memory), fault{pinned.data(), DType::u64, {1}};
  *fault.as<std::uint64_t>() = 0;
  StepState bad = state_at(1, 0, {});
  bad.bad_step = 5;  // each replay tells
  device->upload(state, &bad);
  const auto step = device->record([&] { device->advance(state, {}, fault); });
  for (int i = 0; i < 8; ++i) step->replay();
  EXPECT_EQ(glance_at(fault), 0u);
  step->replay();
  EXPECT_EQ(glance_at(fault), 5u);
}

TEST_P(CudaDevice, AnErrorWhileRecordingLeavesAUsableDevice) {
  const auto device = create_cuda_backend({});
  const Buffer memory(*device, 16, Memory::device, "bytes");
  const Tensor bytes{memory.data(), DType::u8, {16}};
  device->fill(bytes, 1);
  EXPECT_EQ(error_of([&] {
              device->record([&] {
                device->fill(bytes, 2);
                fail("planted");
              });
            }),
            "planted");
  std::vector<std::uint8_t> got(16);
  device->download(got.data(), bytes);
  EXPECT_EQ(got, std::vector<std::uint8_t>(16, 1));
  const auto recorded = device->record([&] { device->fill(bytes, 3); });
  recorded->replay();
  device->download(got.data(), bytes);
  EXPECT_EQ(got, std::vector<std::uint8_t>(16, 3));
}

// A few training steps: what each leaves must not depend on whether it was recorded.
TEST_P(CudaDevice, RecordedStepsEqualSteps) {
  constexpr std::int64_t images = 12, rows = 4, pixels = 6, latent = 2;
  std::vector<std::uint8_t> source(images * pixels);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::uint8_t>(i * 37 % 256);
  std::vector<float> weights(pixels * 2 * latent);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = 0.01f * static_cast<float>(i % 7) - 0.03f;
  const Schedule schedule{.batches_per_epoch = 3, .beta1 = 0.9f, .beta2 = 0.999f};
  const StepState start = state_at(3, 0, schedule);

  std::vector<std::vector<float>> results;
  for (const bool record : {true, false}) {
    const auto device = create_cuda_backend({.record = record});
    struct {
      Tensor data, state, input, target, w, b, stats, z, kl, dw, db, m, v, sums;
    } t;
    const auto layout = [&](Arena& a) {
      t.data = a.take({images, pixels}, DType::u8);
      t.state = a.take({sizeof(StepState)}, DType::u8);
      t.input = a.take({rows, pixels});
      t.target = a.take({rows, pixels}, DType::u8);
      t.w = a.take({2 * latent, pixels});
      t.b = a.take({2 * latent});
      t.stats = a.take({rows, 2 * latent});
      t.z = a.take({rows, 1, latent});
      t.kl = a.take({1, latent});
      t.dw = a.take({2 * latent, pixels});
      t.db = a.take({2 * latent});
      t.m = a.take({2 * latent, pixels});
      t.v = a.take({2 * latent, pixels});
      t.sums = a.take({2 + latent}, DType::f64);
    };
    Arena measure;
    layout(measure);
    Arena arena(*device, measure.used(), "a model");
    layout(arena);
    const Buffer pinned(*device, sizeof(std::uint64_t), Memory::pinned, "fault");
    const Tensor fault{pinned.data(), DType::u64, {1}};
    device->upload(t.data, source.data());
    device->upload(t.state, &start);
    device->upload(t.w, weights.data());
    for (const Tensor& zero : {t.b, t.m, t.v, t.sums}) device->fill(zero, 0);

    const Tensor nll = t.z.reshaped({rows, latent}).first(rows);  // stands for a loss: one chunk a column
    const auto step = device->record([&] {
      device->gather_batch({t.data, t.state, Indexing::shuffled, Binarize::dynamic, t.input, t.target});
      device->dense_forward({t.input, t.w, t.b, Activation::identity, t.stats, {}});
      device->sample_latent({.stats = t.stats, .state = t.state, .z = t.z, .kl_partial = t.kl, .scratch = {}});
      device->accumulate({nll, t.kl, t.state, t.sums, rows});
      device->dense_backward({t.input, t.w, t.stats, t.dw, t.db, Activation::identity, {}, {}});
      const Shape flat{t.w.count()};
      device->optimizer_step({t.w.reshaped(flat),
                              t.dw.reshaped(flat),
                              t.m.reshaped(flat),
                              t.v.reshaped(flat),
                              t.state,
                              {.learning_rate = 0.1f}});
      device->advance(t.state, schedule, fault);
    });
    for (int i = 0; i < 7; ++i) step->replay();
    std::vector<float> w(weights.size());
    device->download(w.data(), t.w);
    EXPECT_EQ(read(*device, t.state).step, 7u);
    EXPECT_NE(w, weights);
    results.push_back(w);
  }
  EXPECT_EQ(results[0], results[1]);
}

// What `elbo bench loss` says of its rivals.
TEST_P(CudaDevice, LossesLaunchAsManyKernelsAsTheyPromise) {
  constexpr std::int64_t rows = 3, samples = 2, pixels = 8;
  const auto device = create_cuda_backend({});
  Tensor output, nll, grad, scratch, targets[2];
  const auto layout = [&](Arena& a) {
    output = a.take({rows * samples, pixels});
    nll = a.take({rows * samples, 1});
    grad = a.take({rows * samples, pixels});
    scratch = a.take({rows * samples * pixels});
    targets[0] = a.take({rows, pixels});
    targets[1] = a.take({rows, pixels}, DType::u8);
  };
  Arena measure;
  layout(measure);
  Arena arena(*device, measure.used(), "a loss");
  layout(arena);
  for (const LossRival& rival : loss_rivals) {
    for (const Likelihood likelihood : {Likelihood::bernoulli, Likelihood::gaussian}) {
      for (const Tensor& target : targets) {
        const std::uint64_t before = cusim::enqueued();
        device->likelihood({.output = output,
                            .target = target,
                            .likelihood = likelihood,
                            .kernels = rival.kernels,
                            .nll_partial = nll,
                            .grad = grad,
                            .scratch = scratch});
        EXPECT_EQ(cusim::enqueued() - before, static_cast<std::uint64_t>(rival.likelihood_launches)) << rival.name;
      }
    }
  }
}

TEST_P(CudaDevice, TheRingKeepsBatchesApart) {
  constexpr std::int64_t slots = 2, rows = 3, pixels = 5, batches = 9;
  const auto device = create_cuda_backend({});
  const Buffer memory(*device, rows * pixels * batches, Memory::device, "what was seen");
  {
    const auto ring = device->open_ring(slots, rows, pixels);
    EXPECT_EQ(ring->device().shape, (Shape{slots * rows, pixels}));
    for (std::int64_t i = 0; i < batches; ++i) {
      const std::int64_t batch = 5 + i + i / 4;  // as a resumed run does: neither from 0 nor without a gap
      std::memset(ring->acquire(static_cast<std::uint64_t>(batch)), static_cast<int>(10 + i), rows * pixels);
      ring->submit();
      std::byte* const slot = static_cast<std::byte*>(ring->device().data) + batch % slots * rows * pixels;
      device->copy({memory.data() + i * rows * pixels, DType::u8, {rows, pixels}}, {slot, DType::u8, {rows, pixels}});
      ring->release();
    }
  }
  std::vector<std::uint8_t> seen(rows * pixels * batches), expected;
  device->download(seen.data(), {memory.data(), DType::u8, {rows * pixels * batches}});
  for (std::int64_t i = 0; i < batches; ++i)
    expected.insert(expected.end(), rows * pixels, static_cast<std::uint8_t>(10 + i));
  EXPECT_EQ(seen, expected);
}

TEST_P(CudaDevice, TheRingRefusesAWrongOrderOfCalls) {
  const auto device = create_cuda_backend({});
  const auto ring = device->open_ring(2, 1, 4);
  EXPECT_EQ(error_of([&] { ring->submit(); }), "ring: submit() without acquire()");
  ring->acquire(0);
  EXPECT_EQ(error_of([&] { ring->release(); }), "ring: release() without submit()");
  EXPECT_TRUE(contains(error_of([&] { ring->acquire(1); }), "ring: acquire() before"));
  EXPECT_TRUE(contains(error_of([&] { device->open_ring(0, 1, 4); }), "open_ring: 0 slots"));
}

TEST_P(CudaDevice, UploadIsDoneWithItsSource) {
  const auto device = create_cuda_backend({});
  const Buffer memory(*device, 64, Memory::device, "bytes"), pinned(*device, 64, Memory::pinned, "bytes");
  const Tensor bytes{memory.data(), DType::u8, {64}};
  std::memset(pinned.data(), 1, 64);
  device->upload(bytes, pinned.data());
  std::memset(pinned.data(), 2, 64);
  std::vector<std::uint8_t> got(64);
  device->download(got.data(), bytes);
  EXPECT_EQ(got, std::vector<std::uint8_t>(64, 1));
}

TEST_P(CudaDevice, ErrorsSayWhatIsMissing) {
  EXPECT_EQ(error_of([] { create_cuda_backend({.index = 3}); }),
            "there is no GPU 3: this machine has 1, counted from 0");
  EXPECT_TRUE(contains(error_of([] { create_cuda_backend({.precision = Precision::bf16}); }), "train.precision"));
  const auto device = create_cuda_backend({});
  EXPECT_EQ(device->info().name, "sim");
  EXPECT_GT(device->info().memory, 0u);
  EXPECT_TRUE(contains(error_of([&] { Buffer(*device, std::size_t{1} << 50, Memory::device, "a huge thing"); }),
                       "no memory for a huge thing"));
  const Buffer memory(*device, 4, Memory::device, "bytes");  // and it goes on
  device->fill({memory.data(), DType::u8, {4}}, 0);
  device->synchronize();
}

TEST_P(CudaDevice, ProfilingRangesNest) {
  const auto device = create_cuda_backend({});
  const Buffer memory(*device, 64, Memory::device, "floats");
  float* const p = reinterpret_cast<float*>(memory.data());
  device->fill({p, DType::u8, {64}}, 0);
  cusim::Ranges& ranges = cusim::ranges();
  ranges = {};
  ranges.remember = true;
  {
    const Backend::Range step(*device, "train_step");
    const Backend::Range layer(*device, "encode");
    device->dense_forward({{p, DType::f32, {1, 2}},
                           {p + 2, DType::f32, {1, 2}},
                           {p + 4, DType::f32, {1}},
                           Activation::tanh,
                           {p + 5, DType::f32, {1, 1}},
                           {}});
  }
  device->synchronize();
  const std::vector<std::string> expected = {"train_step", "train_step/encode", "train_step/encode/dense_forward",
                                             "train_step/encode/dense_forward/multiply",
                                             "train_step/encode/dense_forward/bias_activation"};
  EXPECT_EQ(ranges.seen, expected);
  EXPECT_TRUE(ranges.open.empty());
  EXPECT_EQ(ranges.unmatched_pops, 0);
  ranges = {};
}

TEST_P(CudaDevice, AProfilerIsToldWhatToCollect) {
  const auto device = create_cuda_backend({});
  const cusim::Profiling before = cusim::profiling();
  device->collect(true);
  EXPECT_EQ(cusim::profiling().starts, before.starts + 1);
  EXPECT_EQ(cusim::profiling().stops, before.stops);
  device->collect(false);
  EXPECT_EQ(cusim::profiling().stops, before.stops + 1);
}

}  // namespace
}  // namespace elbo
