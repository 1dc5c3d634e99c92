// The CUDA device beyond its operations: recordings, the ring, errors, profiling ranges. On the simulated
// runtime, in which work runs as early or as late as CUDA's rules allow, so that a missing wait shows.
#include <cuda_profiler_api.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "cuda/backend.h"
#include "cuda/graph.h"
#include "cuda/handles.h"
#include "cuda/kernel_name.h"
#include "host/lab/loss_case.h"
#include "tests/errors.h"
#include "tests/setting.h"

namespace elbo {
namespace {

using namespace cuda;

using cusim::Order;
using test::error_of;
using test::Setting;

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
    const auto step =
        device->record([&] { device->run(Advance{.state = state, .schedule = schedule, .fault = fault}); });
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
  const auto step = device->record([&] { device->run(Advance{.state = state, .schedule = {}, .fault = fault}); });
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

// A GPU would load the kernel in the middle of the capture, look up the product's algorithm, or take memory there.
TEST_P(CudaDevice, ARecordingNeitherLoadsNorAllocates) {
  const auto device = create_cuda_backend({});
  const Buffer memory(*device, 512, Memory::device, "floats");
  device->fill({memory.data(), DType::u8, {512}}, 0);
  const auto floats = [&](std::int64_t at, Shape shape) {
    return Tensor{reinterpret_cast<float*>(memory.data()) + at, DType::f32, shape};
  };
  const Tensor state{memory.data() + 256, DType::u8, {sizeof(StepState)}};
  const auto layer = [&] {
    device->run(DenseForward{.x = floats(0, {1, 2}),
                             .weight = floats(2, {1, 2}),
                             .bias = floats(4, {1}),
                             .activation = Activation::tanh,
                             .y = floats(5, {1, 1}),
                             .mask = {}});
  };
  const auto update = [&] {
    device->run(OptimizerStep{.parameters = floats(8, {4}),
                              .gradients = floats(12, {4}),
                              .first_moment = floats(16, {4}),
                              .second_moment = floats(20, {4}),
                              .state = state,
                              .settings = {}});
  };
  for (const std::function<void()>& calls : {std::function<void()>(layer), std::function<void()>(update)}) {
    const std::string refused = error_of([&] { device->record(calls); });
    EXPECT_TRUE(contains(refused, "do the calls once before they are recorded")) << refused;
  }
  EXPECT_TRUE(contains(error_of([&] { device->record(layer); }), "product"));
  EXPECT_TRUE(contains(error_of([&] { device->record(update); }), "optimizer_step_kernel"));
  EXPECT_TRUE(contains(error_of([&] { device->record([&] { Buffer(*device, 16, Memory::device, "more"); }); }),
                       "cudaMalloc is not permitted while a stream is being captured"));
  const auto both = [&] { layer(), update(); };
  both();
  device->record(both)->replay();
  device->synchronize();
}

TEST_P(CudaDevice, ARecordingTellsItsLongestChain) {
  const auto device = create_cuda_backend({});
  const Buffer memory(*device, 256, Memory::device, "bytes");
  const auto chain = device->record([&] {
    for (int i = 0; i < 5; ++i) device->fill({memory.data(), DType::u8, {16}}, 1);
  });
  EXPECT_EQ(chain->nodes(), 5u);
  EXPECT_EQ(chain->dependent_launches(), 5u);
  EXPECT_EQ(device->record([] {})->dependent_launches(), 0u);

  // One, then two beside three, then one.
  const Stream stream = make_stream("main"), branch = make_stream("branch");
  const Event fork = make_event(), join = make_event();
  const auto fill = [&](const Stream& s, int which) {
    check_cuda(cudaMemsetAsync(memory.data() + 16 * which, which, 16, s.get()), "fill");
  };
  const auto branches = capture_graph(
      stream.get(),
      [&] {
        fill(stream, 0);
        check_cuda(cudaEventRecord(fork.get(), stream.get()), "fork");
        check_cuda(cudaStreamWaitEvent(branch.get(), fork.get(), 0), "fork");
        for (const int i : {1, 2, 3}) fill(branch, i);
        for (const int i : {4, 5}) fill(stream, i);
        check_cuda(cudaEventRecord(join.get(), branch.get()), "join");
        check_cuda(cudaStreamWaitEvent(stream.get(), join.get(), 0), "join");
        fill(stream, 6);
      },
      1);
  EXPECT_EQ(branches->nodes(), 7u);
  EXPECT_EQ(branches->dependent_launches(), 5u);
}

// What `elbo bench loss` says of its rivals.
TEST_P(CudaDevice, LossesLaunchAsManyKernelsAsTheyPromise) {
  constexpr std::int64_t rows = 3, samples = 2, pixels = 8, latent = 5;
  const auto device = create_cuda_backend({});
  Tensor outputs[2], nll, grads[2], scratch, targets[2], state, stats, z, kl, sampled_kl, bound, dnll, dsampled_kl;
  const auto layout = [&](Arena& a) {
    for (const int each : {1, 2}) outputs[each - 1] = a.take({rows * samples, each * pixels});
    nll = a.take({rows * samples, 1});
    for (const int each : {1, 2}) grads[each - 1] = a.take({rows * samples, each * pixels});
    scratch = a.take({rows * samples * std::max(pixels, 2 * latent)});
    targets[0] = a.take({rows, pixels});
    targets[1] = a.take({rows, pixels}, DType::u8);
    state = a.take({sizeof(StepState)}, DType::u8);
    stats = a.take({rows, 2 * latent});
    z = a.take({rows, samples, latent});
    kl = a.take({1, latent});
    sampled_kl = a.take({rows, samples});
    bound = a.take({rows});
    dnll = a.take({rows * samples, 1});
    dsampled_kl = a.take({rows, samples});
  };
  const Arena arena = Arena::of(*device, "a loss", layout);
  const auto launches_of = [](const auto& call) {
    const std::uint64_t before = cusim::enqueued();
    call();
    return static_cast<int>(cusim::enqueued() - before);
  };
  for (const LossRival& rival : loss_rivals) {
    for (const Likelihood likelihood : {Likelihood::bernoulli, Likelihood::gaussian, Likelihood::gaussian_learned}) {
      const Tensor& output = outputs[outputs_of_pixel(likelihood) - 1];
      const Tensor& grad = grads[outputs_of_pixel(likelihood) - 1];
      for (const Tensor& target : targets) {
        const int launches = launches_of([&] {
          device->run(LikelihoodLoss{.output = output,
                                     .target = target,
                                     .likelihood = likelihood,
                                     .variant = rival.kernels,
                                     .nll_partial = nll,
                                     .grad = grad,
                                     .scratch = scratch});
        });
        EXPECT_EQ(launches, rival.likelihood_launches) << rival.name;
        for (const Tensor& weights : {Tensor{}, nll}) {
          const int alone = launches_of([&] {
            device->run(LikelihoodLoss{.output = output,
                                       .target = target,
                                       .likelihood = likelihood,
                                       .variant = rival.kernels,
                                       .dnll_partial = weights,
                                       .nll_partial = {},
                                       .grad = grad,
                                       .scratch = {}});
          });
          EXPECT_EQ(alone, rival.kernels == LossVariant::unfused ? 2 : 1) << rival.name << ", the gradient alone";
        }
      }
    }
    const int launches = launches_of([&] {
      device->run(SampleLatent{.stats = stats,
                               .state = state,
                               .posterior = Posterior::log_variance,
                               .variant = rival.kernels,
                               .z = z,
                               .kl_partial = kl,
                               .scratch = scratch});
      device->run(SampleLatentBackward{.stats = stats,
                                       .dz = z,
                                       .state = state,
                                       .posterior = Posterior::log_variance,
                                       .variant = rival.kernels,
                                       .kl_scale = 1.0f,
                                       .dstats = stats,
                                       .scratch = scratch});
    });
    EXPECT_EQ(launches, rival.latent_launches) << rival.name;

    // As LossCase::call_weighted() does it.
    const int weighted = launches_of([&] {
      device->run(SampleLatent{.stats = stats,
                               .state = state,
                               .variant = rival.kernels,
                               .z = z,
                               .kl_partial = {},
                               .sampled_kl = sampled_kl,
                               .scratch = scratch});
      device->run(LikelihoodLoss{.output = outputs[0],
                                 .target = targets[1],
                                 .variant = rival.kernels,
                                 .nll_partial = nll,
                                 .grad = {},
                                 .scratch = scratch});
      device->run(ImportanceBound{.nll_partial = nll,
                                  .sampled_kl = sampled_kl,
                                  .variant = rival.kernels,
                                  .loss = bound,
                                  .dnll_partial = dnll,
                                  .dsampled_kl = dsampled_kl,
                                  .scratch = scratch});
      device->run(LikelihoodLoss{.output = outputs[0],
                                 .target = targets[1],
                                 .variant = rival.kernels,
                                 .dnll_partial = dnll,
                                 .nll_partial = {},
                                 .grad = grads[0],
                                 .scratch = {}});
      device->run(SampleLatentBackward{.stats = stats,
                                       .dz = z,
                                       .state = state,
                                       .variant = rival.kernels,
                                       .kl_scale = 0.0f,
                                       .dsampled_kl = dsampled_kl,
                                       .dstats = stats,
                                       .scratch = scratch});
    });
    EXPECT_EQ(weighted, rival.weighted_launches) << rival.name << ", weighted";
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

// Two rows, two inputs and three outputs of relu, in memory of their own.
struct ReluLayer {
  explicit ReluLayer(Backend& device) : memory(device, 1024, Memory::device, "a layer") {
    device.fill({memory.data(), DType::u8, {1024}}, 0);
    const auto floats = [&](std::int64_t at, Shape shape) {
      return Tensor{.data = memory.data() + at, .dtype = DType::f32, .shape = shape};
    };
    forward = {.x = floats(0, {2, 2}),
               .weight = floats(64, {3, 2}),
               .bias = floats(128, {3}),
               .activation = Activation::relu,
               .y = floats(192, {2, 3}),
               .mask = {.data = memory.data() + 256, .dtype = DType::u8, .shape = {2, mask_bytes(3)}}};
  }
  Buffer memory;
  DenseForward forward;
};

TEST_P(CudaDevice, AMaskIsMadeWhereTheLibraryDoesTheProduct) {
  const auto makes_mask = [](const BackendOptions& options, const auto& change) {
    const auto device = create_cuda_backend(options);
    ReluLayer layer(*device);
    change(layer.forward);
    const bool answer = device->makes_mask(layer.forward);
    if (!answer) layer.forward.mask = {};
    device->run(layer.forward);  // either way it can be done
    device->synchronize();
    return answer;
  };
  const auto as_it_is = [](DenseForward&) {};
  EXPECT_TRUE(makes_mask({}, as_it_is));
  EXPECT_FALSE(makes_mask({.epilogues = false}, as_it_is));
  EXPECT_FALSE(makes_mask({}, [](DenseForward& op) { op.mask = {}; }));
  const Setting refuses("ELBO_SIM_REFUSES", "relu_mask");
  EXPECT_FALSE(makes_mask({}, as_it_is)) << "it has no algorithm";
  const Setting unlaunched("ELBO_SIM_CUBLASLT", "unlaunched");
  EXPECT_FALSE(makes_mask({}, as_it_is)) << "it has one, and refuses when it multiplies";
}

TEST_P(CudaDevice, AMaskThatWasPromisedIsMadeOrAnError) {
  const auto device = create_cuda_backend({});
  const ReluLayer layer(*device);
  ASSERT_TRUE(device->makes_mask(layer.forward));
  device->run(layer.forward);
  const Setting refuses("ELBO_SIM_REFUSES", "relu_mask"), unlaunched("ELBO_SIM_CUBLASLT", "unlaunched");
  const std::string refused = error_of([&] { device->run(layer.forward); });
  EXPECT_TRUE(contains(refused, "dense_forward: the product [2, 2] x [2, 3]")) << refused;
  EXPECT_TRUE(contains(refused, "--no-epilogues does without")) << refused;
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
    device->run(DenseForward{.x = {p, DType::f32, {1, 2}},
                             .weight = {p + 2, DType::f32, {1, 2}},
                             .bias = {p + 4, DType::f32, {1}},
                             .activation = Activation::tanh,
                             .y = {p + 5, DType::f32, {1, 1}},
                             .mask = {}});
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

// Two layers' forward passes and a copy, in ranges; what each leaves in `p` is of no interest.
void two_layers(Backend& device, float* p) {
  const auto layer = [&](const char* name, Activation activation) {
    const Backend::Range range(device, name);
    device.run(DenseForward{.x = {p, DType::f32, {1, 2}},
                            .weight = {p + 2, DType::f32, {1, 2}},
                            .bias = {p + 4, DType::f32, {1}},
                            .activation = activation,
                            .y = {p + 5, DType::f32, {1, 1}},
                            .mask = {}});
  };
  const Backend::Range step(device, "train_step");
  layer("dense0", Activation::tanh);
  layer("dense1", Activation::identity);
  device.copy({p, DType::f32, {8}}, {p + 8, DType::f32, {8}});
}

std::vector<std::string> names_of(const std::vector<Activity>& activities) {
  std::vector<std::string> names;
  for (const Activity& a : activities) names.push_back(a.name);
  return names;
}

const std::vector<std::string> names_of_two_layers = {"product", "bias_activation_kernel", "product",
                                                      "copy device to device"};

TEST_P(CudaDevice, ActivitiesAreWhatTheDeviceDid) {
  const auto device = create_cuda_backend({});
  const Buffer memory(*device, 96, Memory::device, "bytes");
  const Tensor bytes{memory.data(), DType::u8, {96}};
  device->fill(bytes, 0);
  EXPECT_TRUE(device->take_activities().empty()) << "nobody watched";
  ASSERT_TRUE(device->watch_activities());
  EXPECT_TRUE(device->take_activities().empty());

  device->fill(bytes, 1);
  two_layers(*device, reinterpret_cast<float*>(memory.data()));
  std::vector<std::uint8_t> got(96);
  device->download(got.data(), bytes);
  {
    const auto ring = device->open_ring(2, 1, 5);
    ring->acquire(0);
    ring->submit();
    ring->release();
  }
  std::vector<Activity> all = device->take_activities();
  const auto copied = std::ranges::find(all, "elbo copy", &Activity::stream);
  ASSERT_NE(copied, all.end());
  EXPECT_EQ(copied->name, "copy host to device");
  EXPECT_EQ(copied->bytes, 5);
  all.erase(copied);
  std::vector<std::string> expected = names_of_two_layers;
  expected.insert(expected.begin(), "fill");
  expected.push_back("copy device to host");
  ASSERT_EQ(names_of(all), expected);
  EXPECT_EQ(all[0].kind, "fill");
  EXPECT_EQ(all[0].bytes, 96);
  EXPECT_EQ(all[4].kind, "copy");
  EXPECT_EQ(all[4].bytes, 32);
  EXPECT_EQ(all[5].bytes, 96);
  const Activity& kernel = all[2];
  EXPECT_EQ(kernel.kind, "kernel");
  EXPECT_EQ(kernel.grid, (std::array<std::int64_t, 3>{1, 1, 1}));
  EXPECT_EQ(kernel.block, (std::array<std::int64_t, 3>{128, 1, 1}));
  EXPECT_EQ(kernel.registers, 32);  // these are made up by tests/sim/cupti.cpp
  EXPECT_EQ(kernel.shared_bytes, 144);
  double end = 0;
  for (const Activity& a : all) {
    EXPECT_EQ(a.stream, "elbo compute");
    EXPECT_EQ(a.graph_node, 0u);
    EXPECT_GE(a.start, end - 1e-6);
    EXPECT_GT(a.microseconds, 0);
    end = a.start + a.microseconds;
  }
  EXPECT_TRUE(device->take_activities().empty()) << "they were taken";
}

TEST_P(CudaDevice, ActivitiesOfARecordingComeWithEveryReplay) {
  const auto device = create_cuda_backend({});
  const Buffer memory(*device, 96, Memory::device, "floats");
  device->fill({memory.data(), DType::u8, {96}}, 0);
  const auto calls = [&] { two_layers(*device, reinterpret_cast<float*>(memory.data())); };
  calls();
  ASSERT_TRUE(device->watch_activities());
  const auto recording = device->record(calls);
  EXPECT_TRUE(device->take_activities().empty()) << "a recording runs nothing";
  constexpr int replays = 9;
  for (int i = 0; i < replays; ++i) recording->replay();
  const std::vector<Activity> all = device->take_activities();
  ASSERT_EQ(all.size(), replays * names_of_two_layers.size());
  std::vector<std::string> expected;
  for (int i = 0; i < replays; ++i)
    expected.insert(expected.end(), names_of_two_layers.begin(), names_of_two_layers.end());
  EXPECT_EQ(names_of(all), expected);
  std::set<std::uint64_t> nodes;
  for (const Activity& a : all) nodes.insert(a.graph_node);
  EXPECT_EQ(nodes.size(), names_of_two_layers.size());
  EXPECT_EQ(nodes.count(0), 0u);
  EXPECT_EQ(all[0].graph_node, all[4].graph_node);
}

TEST_P(CudaDevice, RangesSpanTheirActivities) {
  const auto device = create_cuda_backend({.record = false});
  const Buffer memory(*device, 96, Memory::device, "floats");
  float* const p = reinterpret_cast<float*>(memory.data());
  device->fill({p, DType::u8, {96}}, 0);
  ASSERT_TRUE(device->watch_activities());
  for (int timing = 0; timing < 2; ++timing) {
    two_layers(*device, p);  // outside of the timing
    device->take_activities();
    device->start_timing();
    two_layers(*device, p);
    const std::vector<RangeTime> ranges = device->stop_timing();
    const std::vector<Activity> all = device->take_activities();
    ASSERT_EQ(names_of(all), names_of_two_layers);
    const auto end = [](const auto& x) { return x.start + x.microseconds; };
    const auto range = [&](const std::string& path) { return *std::ranges::find(ranges, path, &RangeTime::path); };
    ASSERT_EQ(ranges.size(), 5u);
    EXPECT_EQ(range("train_step").start, 0);
    EXPECT_NEAR(end(range("train_step")), end(all[3]), 1e-6);
    EXPECT_EQ(range("train_step/dense0/dense_forward").start, 0);
    EXPECT_NEAR(end(range("train_step/dense0/dense_forward")), end(all[1]), 1e-6);
    EXPECT_NEAR(range("train_step/dense1").start, end(all[1]), 1e-6);
    EXPECT_NEAR(end(range("train_step/dense1")), end(all[2]), 1e-6);
  }
}

TEST_F(CudaDeviceLate, ActivitiesFillMoreThanABuffer) {
  const auto device = create_cuda_backend({});
  const Buffer memory(*device, 4, Memory::device, "bytes");
  ASSERT_TRUE(device->watch_activities());
  constexpr std::size_t fills = 50000;  // of 56 bytes a record; a buffer takes 1 MiB
  for (std::size_t i = 0; i < fills; ++i) device->fill({memory.data(), DType::u8, {1 + static_cast<int>(i) % 4}}, 0);
  const std::vector<Activity> all = device->take_activities();
  ASSERT_EQ(all.size(), fills);
  for (std::size_t i = 0; i < fills; ++i) ASSERT_EQ(all[i].bytes, 1 + i % 4);
}

TEST_P(CudaDevice, ADeviceThatMayNotTellItsActivitiesSaysWhy) {
  const auto device = create_cuda_backend({});
  setenv("ELBO_SIM_CUPTI", "absent", 1);
  EXPECT_TRUE(contains(error_of([&] { device->watch_activities(); }), "CUPTI does not load"));
  setenv("ELBO_SIM_CUPTI", "refused", 1);
  const std::string refused = error_of([&] { device->watch_activities(); });
  EXPECT_TRUE(contains(refused, "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"));
  EXPECT_TRUE(contains(refused, "NVreg_RestrictProfilingToAdminUsers"));
  unsetenv("ELBO_SIM_CUPTI");
  EXPECT_TRUE(device->take_activities().empty());
  EXPECT_TRUE(device->watch_activities());
}

TEST(KernelName, IsWhatAPersonWouldCallIt) {
  const std::pair<const char*, const char*> names[] = {
      // As nvcc 13.0 names kernels of this project, and those of Thrust and CUB
      {"_ZN4elbo7kernels41_GLOBAL__N__80f4e1c7_9_gather_cu_9a0bec0419gather_batch_kernelILb0EEEvNS0_11GatherBatchE",
       "gather_batch_kernel"},
      {"_ZN4elbo7kernels41_GLOBAL__N__b59421f3_9_layers_cu_d6bf9c9f17column_sum_kernelEPKfPfll", "column_sum_kernel"},
      {"_ZN4elbo7kernels51_GLOBAL__N__7f54661f_13_likelihood_cu_a30e3733_230129likelihood_unfused_sum_kernelIfEEvNS0_"
       "14LikelihoodLossIT_EEPKf",
       "likelihood_unfused_sum_kernel"},
      {"_ZN3cub17CUB_300001_SM_9006detail6reduce28DeviceReduceSingleTileKernelINS2_10policy_hubIfjN4cuda3std3__44plus"
       "IfEEE10Policy1000EN6thrust23THRUST_300001_SM_900_NS10device_ptrIfEEPfjS9_ff1FEEvT0_T1_T2_T3_T4_T6_",
       "DeviceReduceSingleTileKernel"},
      {"_ZN3cub17CUB_300001_SM_9006detail9transform16transform_kernelINS2_10policy_hubILb1EN4cuda3std3__45tupleIJN6"
       "thrust23THRUST_300001_SM_900_NS10device_ptrIfEEEEEE10policy1000Ei1FSC_JPfEEEvT0_iT1_T2_DpNS2_10kernel_argIT3_"
       "EE",
       "transform_kernel"},
      {"_ZN3cub17CUB_300001_SM_9006detail11EmptyKernelIvEEvv", "EmptyKernel"},
      // Of cuBLASLt
      {"_ZN7cutlass7Kernel2I41cutlass_80_simt_sgemm_64x64_8x5_tn_align1EEvNT_6ParamsE",
       "cutlass_80_simt_sgemm_64x64_8x5_tn_align1"},
      {"_ZN8cublasLt19splitKreduce_kernelILi8ELi32EiaafaLb0EaafLb0ELb0ELb0ELb0EEEvNS_18cublasSplitKParamsIT4_EEPKT2_"
       "PKT8_PT7_PT3_PKS2_SF_PKT9_S6_PSG_PvlPS2_PiSL_SL_SF_SF_SF_SF_SF_",
       "splitKreduce_kernel"},
      {"_Z13gemv2N_kernelIii13__nv_bfloat16S0_S0_fLi128ELi1ELi2ELi2ELi11ELb0E18cublasGemvParamsExIi23cublasGemvTensor"
       "BatchedIKS0_ES4_S2_IS0_EfEEvT11_",
       "gemv2N_kernel"},
      {"ampere_sgemm_128x128_tt", "ampere_sgemm_128x128_tt"},
      // A comparison as a template's argument, and a namespace without a name
      {"_ZN1a1fIXgtLi1ELi2EEEEvv", "f"},
      {"_ZN12_GLOBAL__N_11fINS_1sEEEvT_", "f"},
      {"", ""},
  };
  for (const auto& [symbol, name] : names) EXPECT_EQ(kernel_name(symbol), name) << symbol;
}

}  // namespace
}  // namespace elbo
