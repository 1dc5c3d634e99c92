// What a person is told of long work; what timings rest on: the warm-up, the clock, the inputs and float64 references
// of the losses, and the choice of what is measured.
#include "host/base/timing.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <thread>

#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"
#include "host/base/devices.h"
#include "host/base/parallel.h"
#include "host/base/progress.h"
#include "host/lab/bench_loss.h"
#include "tests/errors.h"

namespace elbo {
namespace {

using test::error_of;

TEST(ProgressLine, GivesNoticeOfLongWorkOnceWhereThereIsNoTerminal) {
  if (isatty(STDERR_FILENO) == 1) GTEST_SKIP() << "standard error is a terminal";
  testing::internal::CaptureStdout();
  {
    ProgressLine brief(10, "brief work", 1000), silent(10), lasting(10, "long work", 0.01);
    for (ProgressLine* line : {&brief, &silent, &lasting}) line->show(1, "working");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    for (int step = 2; step < 10; ++step)
      for (ProgressLine* line : {&brief, &silent, &lasting}) line->show(step, "working");
  }
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "long work\n");
}

TEST(FormatSeconds, IsReadAtAGlance) {
  const auto expect = [](double seconds, const std::string& text) { EXPECT_EQ(format_seconds(seconds), text); };
  expect(0, "0 ms");
  expect(0.85, "850 ms");
  expect(12.34, "12.3 s");
  expect(245, "4 min 05 s");
  expect(2 * 3600 + 10 * 60, "2 h 10 min");
  expect(std::nan(""), "unknown");
  expect(INFINITY, "unknown");
  // Rounded up to the next unit, in that unit.
  expect(0.9996, "1.0 s");
  expect(59.96, "1 min 00 s");
  expect(3599.6, "1 h 00 min");
  expect(2 * 3600 - 1, "2 h 00 min");
}

TEST(WarmUp, LastsAsLongAsItShould) {
  int calls = 0;
  warm_up(0, [&] { ++calls; });
  EXPECT_EQ(calls, 0);
  const Clock::time_point begin = Clock::now();
  warm_up(0.02, [&] { ++calls; });
  EXPECT_GE(seconds_since(begin), 0.02);
  EXPECT_GT(calls, 1);
  calls = 0;
  warm_up(1e-9, [&] { ++calls; });
  EXPECT_GE(calls, 1);
}

TEST(WarmUp, IsTheDevicesUnlessItIsGiven) {
  DeviceInfo cpu, gpu, simulated;
  gpu.launches = simulated.launches = simulated.simulated = true;
  EXPECT_EQ(warmup_seconds(std::nullopt, gpu), 0.5);
  EXPECT_EQ(warmup_seconds(std::nullopt, cpu), 0.1);
  EXPECT_EQ(warmup_seconds(std::nullopt, simulated), 0);
  for (const DeviceInfo& device : {cpu, gpu, simulated}) {
    EXPECT_EQ(warmup_seconds(0.0, device), 0);
    EXPECT_EQ(warmup_seconds(3.0, device), 3);
  }
}

TEST(ClockRate, IsNotAskedForWhereItIsUnknown) {
  const OpenedDevice cpu = open_device("cpu");
  ClockRate clock(*cpu.backend);
  clock.sample([] { FAIL() << "work was queued for nothing"; });
  EXPECT_EQ(clock.mhz(), 0);
}

TEST(Parallel, EveryElementOnce) {
  for (const std::int64_t count :
       {std::int64_t{0}, std::int64_t{1}, parallel_chunk, parallel_chunk + 1, 9 * parallel_chunk + 3}) {
    std::vector<int> seen(static_cast<std::size_t>(count));
    parallel_for(count, [&](std::int64_t begin, std::int64_t end) {
      EXPECT_EQ(begin % parallel_chunk, 0);
      for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
    });
    EXPECT_EQ(seen, std::vector<int>(static_cast<std::size_t>(count), 1));
  }
}

// However many threads draw them.
TEST(LossInputs, AreTheDrawsOfTheirPlaces) {
  const LossInputs inputs({3, 30001, 7});
  const auto expect_normals = [](const std::vector<float>& got, std::size_t count, std::uint32_t stream, float scale) {
    ASSERT_EQ(got.size(), count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto quad = static_cast<std::uint32_t>(i / 4);
      ASSERT_EQ(got[i], scale * math::normals({1, Purpose::prior, stream, 0, 0}, quad).v[i % 4]) << stream << " " << i;
    }
  };
  expect_normals(inputs.outputs, 90003, 0, 3);
  expect_normals(inputs.stats, 42, 1, 1);
  expect_normals(inputs.dz, 21, 2, 1);
  ASSERT_EQ(inputs.pixels.size(), 90003u);
  for (std::size_t i = 0; i < inputs.pixels.size(); ++i) {
    const math::Words w = math::random_words({1, Purpose::binarize, 0, 0, 0}, static_cast<std::uint32_t>(i / 4));
    const std::uint32_t words[] = {w.x, w.y, w.z, w.w};
    ASSERT_EQ(inputs.pixels[i], words[i % 4] >> 24) << i;
    ASSERT_EQ(inputs.targets[i], math::pixel_value<float>(inputs.pixels[i]));
  }
}

TEST(LossInputs, ACopyMovesRandomBits) {
  const std::vector<std::uint32_t> bits = random_bits(70001);
  EXPECT_GT(std::set<std::uint32_t>(bits.begin(), bits.end()).size(), bits.size() - 9);  // few are there twice
  std::int64_t ones = 0;
  for (const std::uint32_t b : bits) ones += std::popcount(b);
  EXPECT_NEAR(static_cast<double>(ones) / static_cast<double>(bits.size()), 16, 0.05);
}

class ReferenceOf : public testing::TestWithParam<LossKind> {};
INSTANTIATE_TEST_SUITE_P(LossCase, ReferenceOf, testing::Values(loss_kinds[4], loss_kinds[5]),
                         [](const auto& kind) { return std::string(kind.param.name); });

TEST_P(ReferenceOf, SeesEveryElement) {
  // Their losses are so far apart that one draw has all but all the weight.
  const LossShape shape{3, 30001, 9000, GetParam().is_weighted() ? 3 : 1};
  const LossInputs inputs(shape);
  LossCase loss(GetParam(), shape, DType::f32, inputs);
  loss.refer();
  LossResult good;
  loss.naive(good);
  EXPECT_LT(loss.errors(good).value, 1e-7);
  EXPECT_LT(loss.errors(good).gradient, 1e-6);
  for (const std::size_t at : {std::size_t{0}, std::size_t{65536}, good.grad.size() - 1}) {
    LossResult bad = good;
    bad.grad[at] += 0.5f;
    EXPECT_NEAR(loss.errors(bad).gradient, 0.5, 0.02) << at;  // the largest gradient is all but 1
    bad.grad[at] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(loss.errors(bad).gradient)) << at;
  }
  for (const std::size_t at : {std::size_t{0}, good.dstats.size() - 1}) {
    LossResult bad = good;
    bad.dstats[at] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(loss.errors(bad).gradient)) << at;
  }
  LossResult bad = good;
  bad.value *= 1.5;
  EXPECT_NEAR(loss.errors(bad).value, 0.5, 1e-3);
}

BenchLossOptions small() {
  BenchLossOptions options;
  options.device = "cpu";
  options.shapes = {"2x5"};
  options.latents = {3};
  options.warmup = 0;
  options.seconds = 0;
  return options;
}

std::set<std::string> measured(const BenchLossOptions& options) {
  std::set<std::string> names;
  for (const LossTiming& t : measure_losses(options).timings) {
    EXPECT_EQ(t.errors.has_value(), options.reference);
    EXPECT_TRUE(names.insert(t.loss + " " + t.rival + " " + t.target + " " + t.output).second);
  }
  return names;
}

TEST(BenchLoss, MeasuresWhatIsAskedFor) {
  BenchLossOptions options = small();
  options.losses = {"bernoulli"};
  options.device = "sim";  // whose copy is short
  options.rivals = {"fused", "naive"};
  options.targets = {"u8"};
  EXPECT_EQ(measured(options), (std::set<std::string>{"bernoulli fused u8 f32", "bernoulli fused u8 bf16"}));
  options.reference = false;
  options.outputs = {"bf16"};
  options.targets = {"u8", "f32"};
  EXPECT_EQ(measured(options), (std::set<std::string>{"bernoulli fused u8 bf16", "bernoulli fused f32 bf16"}));

  options = small();  // the latent variable has no types
  options.losses = {"latent", "gaussian"};
  options.rivals = {"naive", "unfused"};
  options.outputs = {"f32"};
  options.targets = {"f32"};
  EXPECT_EQ(measured(options), (std::set<std::string>{"latent naive none none", "latent unfused none none",
                                                      "gaussian naive f32 f32", "gaussian unfused f32 f32"}));
}

TEST(BenchLoss, RefusesWhatLeavesNothingToMeasure) {
  const auto said = [](void (*ask)(BenchLossOptions&)) {
    BenchLossOptions options = small();
    ask(options);
    return error_of([&] { measure_losses(options); });
  };
  for (void (*ask)(BenchLossOptions&) : {+[](BenchLossOptions& o) {
                                           o.rivals = {"unfused"};
                                           o.outputs = {"bf16"};
                                           o.losses = {"gaussian"};
                                         },
                                         +[](BenchLossOptions& o) {
                                           o.losses = {"latent"};
                                           o.rivals = {"two_pass"};
                                         },
                                         +[](BenchLossOptions& o) {
                                           o.losses = {"elbo"};
                                           o.rivals = {"fused"};
                                           o.targets = {"f32"};
                                         }})
    EXPECT_NE(said(ask).find("nothing is left to measure"), std::string::npos);
}

// Before it takes memory: these inputs alone are 14 GB.
TEST(BenchLoss, RefusesMoreThanAGpuCounts) {
  BenchLossOptions options = small();
  options.device = "sim";
  options.shapes = {"2x5", "32768x2x16384"};
  const std::string said = error_of([&] { measure_losses(options); });
  for (const char* word :
       {"--shape 32768x2x16384", "gaussian_learned", "2147483648 elements [32768, 65536]", "2^31 - 1"})
    EXPECT_NE(said.find(word), std::string::npos) << said;
}

}  // namespace
}  // namespace elbo
