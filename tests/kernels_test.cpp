// Every kernel, through its launcher, on the simulated device: against the same formula in double, fused
// against unfused, in every order of threads, over outputs filled with NaN, with tails of every length.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "elbo/backend.h"
#include "elbo/math/activation.h"
#include "elbo/math/latent.h"
#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"
#include "kernels/dense.h"
#include "kernels/divisor.h"
#include "kernels/gather.h"
#include "kernels/importance.h"
#include "kernels/latent.h"
#include "kernels/launch.h"
#include "kernels/likelihood.h"
#include "kernels/optimizer.h"

namespace elbo::kernels {
namespace {

using std::int64_t;
using std::size_t;

constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

// ---- Memory of the device ---------------------------------------------------------------------------

// Every byte 0xFF: NaN for floating-point types. `offset` bytes before it spoil its alignment.
class Block {
 public:
  Block(size_t bytes, size_t offset) : bytes_(bytes), offset_(offset) {
    check_cuda(cudaMalloc(&start_, bytes + offset), "cudaMalloc");
    poison();
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { cudaFree(start_); }

  void poison() const {
    check_cuda(cudaMemset(address(), 0xFF, bytes_), "cudaMemset");
    check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // cudaMemset may return before it is done
  }
  std::string bits() const {
    std::string all(bytes_, 0);
    check_cuda(cudaMemcpy(all.data(), address(), bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy");
    return all;
  }

 protected:
  void* address() const { return static_cast<std::byte*>(start_) + offset_; }
  void write(const void* from) const {
    check_cuda(cudaMemcpy(address(), from, bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
  }

 private:
  void* start_ = nullptr;
  size_t bytes_, offset_;
};

template <class T>
class Array : public Block {
 public:
  explicit Array(size_t n, size_t offset = 0) : Block(n * sizeof(T), offset * sizeof(T)), n_(n) {}
  explicit Array(const std::vector<T>& values, size_t offset = 0) : Array(values.size(), offset) { set(values); }

  T* data() const { return static_cast<T*>(address()); }
  void set(const std::vector<T>& values) const { write(values.data()); }
  std::vector<T> get() const {
    std::vector<T> values(n_);
    const std::string all = bits();
    std::memcpy(values.data(), all.data(), all.size());
    return values;
  }

 private:
  size_t n_;
};

class KernelTest : public testing::Test {
 protected:
  KernelTest() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"); }
  ~KernelTest() override {
    cudaStreamDestroy(stream_);
    cusim::set_schedule(std::nullopt);
  }

  void synchronize() const { check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  // Runs `launch` over poisoned outputs, in several orders of threads, and with blocks that let each other go on: each
  // must leave the same bits.
  void run(const std::function<void()>& launch, std::initializer_list<const Block*> outputs) const {
    using cusim::Order;
    std::string first;
    for (const cusim::Schedule s : {cusim::Schedule{Order::forward},
                                    {Order::reverse},
                                    {Order::random, 1},
                                    {Order::random, 2, cusim::Blocks::apart}}) {
      cusim::set_schedule(s);
      for (const Block* b : outputs) b->poison();
      launch();
      synchronize();
      std::string bits;
      for (const Block* b : outputs) bits += b->bits();
      if (first.empty()) first = bits;
      EXPECT_TRUE(bits == first) << "another order of threads gives another result";
    }
  }

  cudaStream_t stream_ = nullptr;
};

// ---- Values -----------------------------------------------------------------------------------------

std::vector<float> gaussian_values(size_t n, unsigned seed, float deviation = 1.0f) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> v(n);
  for (float& x : v) x = normal(bits);
  return v;
}

std::vector<std::uint8_t> pixels_of(size_t n, unsigned seed) {
  std::mt19937 bits(seed);
  std::vector<std::uint8_t> v(n);
  for (std::uint8_t& x : v) x = static_cast<std::uint8_t>(bits() >> 24);
  if (n > 1) v[0] = 0, v[1] = 255;
  return v;
}

// Every |actual - expected| <= absolute + relative |expected|; a NaN is never near.
void expect_near(const std::vector<double>& actual, const std::vector<double>& expected, double relative,
                 double absolute) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(std::abs(actual[i] - expected[i]) <= absolute + relative * std::abs(expected[i]))
        << "element " << i << ": " << actual[i] << ", expected " << expected[i];
  }
}
void expect_near(const Array<float>& actual, const std::vector<double>& expected, double relative, double absolute) {
  const std::vector<float> v = actual.get();
  expect_near(std::vector<double>(v.begin(), v.end()), expected, relative, absolute);
}

void expect_error(const std::function<void()>& launch, const std::string& part) {
  try {
    launch();
    FAIL() << "no error; expected one with \"" << part << "\"";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

StepState some_state() {
  StepState s = state_at(0x0123456789abcdefull, 5, {.batches_per_epoch = 3, .beta1 = 0.9f, .beta2 = 0.999f});
  s.row0 = 7;
  return s;
}

// ---- Gather -----------------------------------------------------------------------------------------

struct GatherCase {
  int64_t images, rows, pixels;
  size_t offset;  // of the source, in bytes
};

class GatherTest : public KernelTest, public testing::WithParamInterface<GatherCase> {};

TEST_P(GatherTest, TakesTheRowsAndPixelsOfTheContract) {
  const auto [images, rows, pixels, offset] = GetParam();
  const StepState state = some_state();
  const std::vector<std::uint8_t> source = pixels_of(static_cast<size_t>(images * pixels), 1);
  const Array<std::uint8_t> source_d(source, offset);
  const Array<StepState> state_d({state});
  for (const Indexing indexing : {Indexing::shuffled, Indexing::ring, Indexing::sequential}) {
    for (const Binarize binarize : {Binarize::none, Binarize::threshold, Binarize::dynamic}) {
      const size_t count = static_cast<size_t>(rows * pixels);
      std::vector<float> input(count);
      std::vector<std::uint8_t> target(count);
      for (int64_t r = 0; r < rows; ++r) {
        const std::uint32_t row = static_cast<std::uint32_t>(r);
        int64_t image = state.row0 + r;
        if (indexing == Indexing::ring) image = state.step % (images / rows) * rows + r;
        if (indexing == Indexing::shuffled) {
          image = math::shuffled_index(state.seed, state.epoch, static_cast<std::uint32_t>(images),
                                       state.batch * static_cast<std::uint32_t>(rows) + row);
        }
        for (int64_t p = 0; p < pixels; ++p) {
          std::uint8_t pixel = source[static_cast<size_t>(image * pixels + p)];
          if (binarize == Binarize::threshold) pixel = pixel >= 128 ? 255 : 0;
          if (binarize == Binarize::dynamic) {
            const math::Words w =
                math::random_words({state.seed, Purpose::binarize, state.noise_step, state.row0 + row, 0},
                                   static_cast<std::uint32_t>(p / 4));
            const std::uint32_t words[] = {w.x, w.y, w.z, w.w};
            pixel = math::bernoulli_draw(words[p % 4], pixel) ? 255 : 0;
          }
          target[static_cast<size_t>(r * pixels + p)] = pixel;
          input[static_cast<size_t>(r * pixels + p)] = math::pixel_value<float>(pixel);
        }
      }
      const Array<float> input_d(count);
      const Array<std::uint8_t> target_d(count);
      run(
          [&] {
            gather_batch({.source = source_d.data(),
                          .state = state_d.data(),
                          .indexing = indexing,
                          .binarize = binarize,
                          .input = input_d.data(),
                          .target = target_d.data(),
                          .images = images,
                          .rows = rows,
                          .pixels = pixels},
                         stream_);
          },
          {&input_d, &target_d});
      EXPECT_EQ(input_d.get(), input);
      EXPECT_EQ(target_d.get(), target);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GatherTest,
                         testing::Values(GatherCase{12, 3, 1, 0}, GatherCase{12, 3, 3, 0}, GatherCase{12, 3, 4, 0},
                                         GatherCase{12, 3, 4, 1}, GatherCase{12, 4, 5, 0}, GatherCase{8, 1, 784, 0},
                                         GatherCase{12, 2, 4096, 0}, GatherCase{9, 1, 4097, 0},
                                         GatherCase{9, 1, 8200, 3}));

TEST_F(KernelTest, DynamicBinarisationDrawsAnewEachStepAndKeepsTheMean) {
  const std::vector<std::uint8_t> source(784, 64);
  const Array<std::uint8_t> source_d(source), target_d(784);
  const Array<float> input_d(784);
  const Array<StepState> state_d(1);
  std::vector<std::vector<std::uint8_t>> draws;
  double sum = 0;
  for (std::uint32_t step = 0; step < 20; ++step) {
    state_d.set({state_at(1, step, {})});
    gather_batch({.source = source_d.data(),
                  .state = state_d.data(),
                  .indexing = Indexing::ring,
                  .binarize = Binarize::dynamic,
                  .input = input_d.data(),
                  .target = target_d.data(),
                  .images = 1,
                  .rows = 1,
                  .pixels = 784},
                 stream_);
    synchronize();
    draws.push_back(target_d.get());
    for (const float x : input_d.get()) sum += x;
  }
  EXPECT_NE(draws[0], draws[1]);
  EXPECT_NEAR(sum / (20 * 784), 64.0 / 255.0, 0.014);  // 4 standard deviations
}

// ---- Latent -----------------------------------------------------------------------------------------

struct LatentCase {
  int64_t rows, samples, latent;
  size_t offset;
};

class LatentTest : public KernelTest, public testing::WithParamInterface<LatentCase> {
 protected:
  double epsilon(int64_t row, int64_t sample, int64_t dimension) const {
    const math::Draw draw{state_.seed, Purpose::latent, state_.noise_step,
                          state_.row0 + static_cast<std::uint32_t>(row), static_cast<std::uint32_t>(sample)};
    return math::normals(draw, static_cast<std::uint32_t>(dimension / 4)).v[dimension % 4];
  }
  const int64_t rows_ = GetParam().rows, samples_ = GetParam().samples, latent_ = GetParam().latent;
  const size_t count_ = static_cast<size_t>(rows_ * samples_ * latent_), offset_ = GetParam().offset;
  const StepState state_ = some_state();
  const std::vector<float> stats_ = gaussian_values(static_cast<size_t>(2 * rows_ * latent_), 2);
  const Array<StepState> state_d_{std::vector{state_}};
  const Array<float> stats_d_{stats_, offset_}, scratch_{count_};

  double mu(int64_t row, int64_t unit) const { return stats_[static_cast<size_t>(row * 2 * latent_ + unit)]; }
  double s(int64_t row, int64_t unit) const { return stats_[static_cast<size_t>(row * 2 * latent_ + latent_ + unit)]; }
};

TEST_P(LatentTest, SamplesAndSumsTheDivergence) {
  const size_t partials = static_cast<size_t>(ceil_div(rows_, latent_tile) * latent_);
  for (const Posterior posterior : {Posterior::log_variance, Posterior::sigma}) {
    std::vector<double> z(count_), kl(partials);
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t l = 0; l < latent_; ++l) {
        kl[static_cast<size_t>(r / latent_tile * latent_ + l)] += math::gaussian_kl(posterior, mu(r, l), s(r, l));
        for (int64_t k = 0; k < samples_; ++k) {
          z[static_cast<size_t>((r * samples_ + k) * latent_ + l)] =
              mu(r, l) + math::posterior_sigma(posterior, s(r, l)) * epsilon(r, k, l);
        }
      }
    }
    const Array<float> z_d(count_, offset_), kl_d(partials), z_unfused(count_), kl_unfused(partials);
    SampleLatent a{.stats = stats_d_.data(),
                   .state = state_d_.data(),
                   .posterior = posterior,
                   .z = z_d.data(),
                   .kl_partial = kl_d.data(),
                   .rows = rows_,
                   .samples = samples_,
                   .latent = latent_};
    run([&] { sample_latent_fused(a, stream_); }, {&z_d, &kl_d});
    expect_near(z_d, z, 1e-6, 1e-6);    // a few roundings of numbers about 1
    expect_near(kl_d, kl, 1e-5, 1e-5);  // a sum of up to 32 of them; log(s^2) reaches -20
    a.z = z_unfused.data();
    a.kl_partial = kl_unfused.data();
    run([&] { sample_latent_unfused(a, scratch_.data(), stream_); }, {&z_unfused, &kl_unfused});
    EXPECT_TRUE(z_d.bits() == z_unfused.bits());
    EXPECT_TRUE(kl_d.bits() == kl_unfused.bits());
  }
}

TEST_P(LatentTest, GradientDrawsTheSameNoise) {
  const std::vector<float> dz = gaussian_values(count_, 3);
  const Array<float> dz_d(dz, offset_);
  const float kl_scale = 0.01f;
  for (const Posterior posterior : {Posterior::log_variance, Posterior::sigma}) {
    std::vector<double> expected(stats_.size());
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t l = 0; l < latent_; ++l) {
        const math::LatentGrad<double> kl = math::gaussian_kl_grad(posterior, mu(r, l), s(r, l));
        double dmu = kl_scale * kl.mu, ds = kl_scale * kl.s;
        for (int64_t k = 0; k < samples_; ++k) {
          const double d = dz[static_cast<size_t>((r * samples_ + k) * latent_ + l)];
          dmu += d;
          ds += d * math::sample_slope(posterior, s(r, l), epsilon(r, k, l));
        }
        expected[static_cast<size_t>(r * 2 * latent_ + l)] = dmu;
        expected[static_cast<size_t>(r * 2 * latent_ + latent_ + l)] = ds;
      }
    }
    const Array<float> dstats_d(stats_.size(), offset_), dstats_unfused(stats_.size());
    SampleLatentBackward a{.stats = stats_d_.data(),
                           .dz = dz_d.data(),
                           .state = state_d_.data(),
                           .posterior = posterior,
                           .kl_scale = kl_scale,
                           .dstats = dstats_d.data(),
                           .rows = rows_,
                           .samples = samples_,
                           .latent = latent_};
    run([&] { sample_latent_backward_fused(a, stream_); }, {&dstats_d});
    expect_near(dstats_d, expected, 1e-5, 1e-5);  // sums of up to 17 terms of size 1
    a.dstats = dstats_unfused.data();
    run([&] { sample_latent_backward_unfused(a, scratch_.data(), stream_); }, {&dstats_unfused});
    EXPECT_TRUE(dstats_d.bits() == dstats_unfused.bits());
  }
}

TEST_P(LatentTest, DrawsHaveTheirDivergence) {
  const size_t draws = static_cast<size_t>(rows_ * samples_);
  const std::vector<float> dz = gaussian_values(count_, 3), dkl = gaussian_values(draws, 6);
  const Array<float> dz_d(dz, offset_), dkl_d(dkl), scratch(2 * count_);
  for (const Posterior posterior : {Posterior::log_variance, Posterior::sigma}) {
    std::vector<double> kl(draws), expected(stats_.size());
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t l = 0; l < latent_; ++l) {
        for (int64_t k = 0; k < samples_; ++k) {
          const size_t draw = static_cast<size_t>(r * samples_ + k);
          const double eps = epsilon(r, k, l), z = mu(r, l) + math::posterior_sigma(posterior, s(r, l)) * eps;
          const double weight = 0.5 + static_cast<double>(dkl[draw]);
          const double g =
              static_cast<double>(dz[draw * static_cast<size_t>(latent_) + static_cast<size_t>(l)]) + weight * z;
          kl[draw] += math::sampled_kl(posterior, s(r, l), z, eps);
          expected[static_cast<size_t>(r * 2 * latent_ + l)] += g;
          expected[static_cast<size_t>(r * 2 * latent_ + latent_ + l)] +=
              g * math::sample_slope(posterior, s(r, l), eps) + weight * math::sampled_kl_slope(posterior, s(r, l));
        }
      }
    }
    const Array<float> z_d(count_, offset_), kl_d(draws), z_unfused(count_), kl_unfused(draws);
    SampleLatent a{.stats = stats_d_.data(),
                   .state = state_d_.data(),
                   .posterior = posterior,
                   .z = z_d.data(),
                   .kl_partial = nullptr,
                   .sampled_kl = kl_d.data(),
                   .rows = rows_,
                   .samples = samples_,
                   .latent = latent_};
    run([&] { sample_latent_fused(a, stream_); }, {&z_d, &kl_d});
    expect_near(kl_d, kl, 1e-5, 1e-4);  // sums of up to 132 terms, of which the squares are up to 20
    a.z = z_unfused.data();
    a.sampled_kl = kl_unfused.data();
    run([&] { sample_latent_unfused(a, scratch.data(), stream_); }, {&z_unfused, &kl_unfused});
    EXPECT_TRUE(z_d.bits() == z_unfused.bits());
    expect_near(kl_unfused, kl, 1e-5, 1e-4);

    const Array<float> dstats_d(stats_.size(), offset_), dstats_unfused(stats_.size());
    SampleLatentBackward b{.stats = stats_d_.data(),
                           .dz = dz_d.data(),
                           .state = state_d_.data(),
                           .posterior = posterior,
                           .kl_scale = 0.0f,
                           .sampled_kl_scale = 0.5f,
                           .dsampled_kl = dkl_d.data(),
                           .dstats = dstats_d.data(),
                           .rows = rows_,
                           .samples = samples_,
                           .latent = latent_};
    run([&] { sample_latent_backward_fused(b, stream_); }, {&dstats_d});
    expect_near(dstats_d, expected, 1e-5, 1e-4);
    b.dstats = dstats_unfused.data();
    run([&] { sample_latent_backward_unfused(b, scratch.data(), stream_); }, {&dstats_unfused});
    EXPECT_TRUE(dstats_d.bits() == dstats_unfused.bits());
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, LatentTest,
                         testing::Values(LatentCase{1, 1, 1, 0}, LatentCase{31, 1, 2, 0}, LatentCase{32, 2, 3, 0},
                                         LatentCase{33, 1, 4, 0}, LatentCase{33, 1, 4, 1}, LatentCase{5, 8, 5, 0},
                                         LatentCase{3, 9, 8, 0}, LatentCase{70, 1, 20, 0}, LatentCase{2, 17, 32, 0},
                                         LatentCase{34, 3, 33, 0}, LatentCase{2, 1, 64, 2},
                                         // Enough for threads of several rows.
                                         LatentCase{1030, 1, 128, 0}, LatentCase{1003, 1, 132, 0},
                                         LatentCase{1030, 9, 65, 0}, LatentCase{2050, 2, 65, 0}));

// The values are ops_test's to judge; here fused and unfused are one, in every order of threads.
TEST_F(KernelTest, ImportanceBound) {
  struct Case {
    int64_t rows, samples, chunks;
  };
  for (const Case c : {Case{1, 1, 1}, Case{5, 31, 2}, Case{4, 32, 1}, Case{9, 33, 3}, Case{2, 100, 1}}) {
    const size_t rows = static_cast<size_t>(c.rows), draws = static_cast<size_t>(c.rows * c.samples);
    const size_t parts = draws * static_cast<size_t>(c.chunks);
    const Array<float> nll(gaussian_values(parts, 7)), kl(gaussian_values(draws, 8));
    const Array<float> loss(rows), dnll(parts), dkl(draws), scratch(draws + 2 * rows);
    const Array<float> loss_unfused(rows), dnll_unfused(parts), dkl_unfused(draws);
    kernels::ImportanceBound a{.nll_partial = nll.data(),
                               .sampled_kl = kl.data(),
                               .grad_scale = 0.25f,
                               .loss = loss.data(),
                               .dnll_partial = dnll.data(),
                               .dsampled_kl = dkl.data(),
                               .rows = c.rows,
                               .samples = c.samples,
                               .chunks = c.chunks};
    run([&] { importance_bound_fused(a, stream_); }, {&loss, &dnll, &dkl});
    a.loss = loss_unfused.data();
    a.dnll_partial = dnll_unfused.data();
    a.dsampled_kl = dkl_unfused.data();
    run([&] { importance_bound_unfused(a, scratch.data(), stream_); }, {&loss_unfused, &dnll_unfused, &dkl_unfused});
    const auto as_doubles = [](const Array<float>& array) {
      const std::vector<float> v = array.get();
      return std::vector<double>(v.begin(), v.end());
    };
    expect_near(loss, as_doubles(loss_unfused), 1e-6, 1e-6);  // logarithms of weights are rounded to float there
    expect_near(dkl, as_doubles(dkl_unfused), 2e-6, 0);
    expect_near(dnll, as_doubles(dnll_unfused), 2e-6, 0);
  }
}

TEST_F(KernelTest, LatentKeepsNaN) {
  std::vector<float> stats = gaussian_values(2 * 2 * 4, 4);
  stats[8 + 5] = nan_value;  // s of row 1, unit 1
  const Array<float> stats_d(stats), z(8), kl(4), dstats(16), dz(gaussian_values(8, 5));
  const Array<StepState> state({some_state()});
  sample_latent_fused({.stats = stats_d.data(),
                       .state = state.data(),
                       .posterior = Posterior::log_variance,
                       .z = z.data(),
                       .kl_partial = kl.data(),
                       .rows = 2,
                       .samples = 1,
                       .latent = 4},
                      stream_);
  sample_latent_backward_fused({.stats = stats_d.data(),
                                .dz = dz.data(),
                                .state = state.data(),
                                .posterior = Posterior::log_variance,
                                .kl_scale = 1.0f,
                                .dstats = dstats.data(),
                                .rows = 2,
                                .samples = 1,
                                .latent = 4},
                               stream_);
  synchronize();
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(std::isnan(z.get()[i]), i == 5) << i;
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(std::isnan(kl.get()[i]), i == 1) << i;
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(std::isnan(dstats.get()[i]), i == 13) << i;
}

// ---- Likelihood -------------------------------------------------------------------------------------

struct LossCase {
  int64_t rows, samples, pixels;
};

class LikelihoodTest : public KernelTest, public testing::WithParamInterface<LossCase> {
 protected:
  template <class Target>
  void check(Likelihood likelihood, const std::vector<Target>& target, PixelMean mean = PixelMean::identity);
  template <class Target>
  void check_bf16(Likelihood likelihood, const std::vector<Target>& target, PixelMean mean, float variance,
                  float scale);
  // Numbers that the decoder gives of each pixel: a learned log variance is within a few of 0.
  std::vector<float> outputs_of(Likelihood likelihood) const {
    const size_t each = static_cast<size_t>(outputs_of_pixel(likelihood)), pixels = static_cast<size_t>(pixels_);
    std::vector<float> output = gaussian_values(each * count_, 6, 4.0f);
    for (size_t i = 0; i < output.size(); ++i)
      if (i % (each * pixels) >= pixels) output[i] *= 0.25f;
    return output;
  }

  const int64_t rows_ = GetParam().rows, samples_ = GetParam().samples, pixels_ = GetParam().pixels;
  const size_t count_ = static_cast<size_t>(rows_ * samples_ * pixels_);
};

double stored(std::uint8_t x) { return math::pixel_value<double>(x); }
double stored(float x) { return x; }

template <class Target>
void LikelihoodTest::check(Likelihood likelihood, const std::vector<Target>& target, PixelMean mean) {
  const float variance = 0.3f, scale = 0.25f;
  const std::vector<float> output = outputs_of(likelihood);
  const int64_t chunks = ceil_div(pixels_, pixel_chunk);
  std::vector<double> value(static_cast<size_t>(rows_ * samples_ * chunks)), grad(output.size()),
      weighed_grad(output.size());
  const std::vector<float> weights = gaussian_values(value.size(), 24);
  for (int64_t row = 0; row < rows_ * samples_; ++row) {
    for (int64_t p = 0; p < pixels_; ++p) {
      const int each = outputs_of_pixel(likelihood);
      const size_t at = static_cast<size_t>(row * each * pixels_ + p), raw_at = at + static_cast<size_t>(pixels_);
      const double x = stored(target[static_cast<size_t>(row / samples_ * pixels_ + p)]), o = output[at];
      const size_t chunk = static_cast<size_t>(row * chunks + p / pixel_chunk);
      if (likelihood == Likelihood::gaussian_learned) {
        const math::PixelOutput<double, 2> both{o, output[raw_at]};
        const auto v = mean == PixelMean::sigmoid ? math::gaussian_learned<PixelMean::sigmoid>(both, x)
                                                  : math::gaussian_learned<PixelMean::identity>(both, x);
        value[chunk] += v.value;
        for (const size_t n : {size_t{0}, size_t{1}}) {
          grad[n == 0 ? at : raw_at] = scale * v.grad[n == 0 ? 0 : 1];
          weighed_grad[n == 0 ? at : raw_at] = (double{scale} + weights[chunk]) * v.grad[n == 0 ? 0 : 1];
        }
        continue;
      }
      const math::ValueGrad<double> v = likelihood == Likelihood::bernoulli
                                            ? math::bernoulli(o, x)
                                            : math::gaussian(o, x, 0.5 / variance, 0.5 * std::log(2 * M_PI * variance));
      value[chunk] += v.value;
      grad[at] = scale * v.grad;
      weighed_grad[at] = (double{scale} + weights[chunk]) * v.grad;
    }
  }

  const Array<float> output_d(output), weights_d(weights), partial_d(value.size()), grad_d(output.size()),
      scratch(count_);
  const Array<Target> target_d(target);
  LikelihoodLoss<Target> a{.output = output_d.data(),
                           .target = target_d.data(),
                           .variance = variance,
                           .mean = mean,
                           .grad_scale = scale,
                           .nll_partial = partial_d.data(),
                           .grad = grad_d.data(),
                           .rows = rows_,
                           .samples = samples_,
                           .pixels = pixels_};
  // Up to 32 terms a lane and a tree of at most 8 levels; a term may cancel against its neighbours.
  const double value_error = 2e-6 * std::sqrt(static_cast<double>(pixels_));
  // A learned log variance is rounded beside 11, the least one, before it is an exponent: a few 1e-6 of the precision.
  const bool is_learned = likelihood == Likelihood::gaussian_learned;
  const double value_relative = is_learned ? 3e-6 : 1e-6, grad_error = is_learned ? 4e-6 : 5e-7;
  const Array<float> in_place(output.size()), output_odd(output, 1), grad_odd(output.size(), 1);
  const Array<Target> target_odd(target, 1);
  std::string grad_bits, weighed_bits;
  for (const auto kernel :
       {likelihood_fused<Target, float>, likelihood_fused_log<Target, float>, likelihood_two_pass<Target, float>}) {
    run([&] { kernel(likelihood, a, stream_); }, {&partial_d, &grad_d});
    expect_near(partial_d, value, value_relative, value_error);
    expect_near(grad_d, grad, grad_error, grad_error);
    const std::string partial_bits = partial_d.bits();
    if (grad_bits.empty()) grad_bits = grad_d.bits();
    EXPECT_TRUE(grad_d.bits() == grad_bits) << "gradients of rivals";

    // The loss alone, and the gradient in the output's place.
    LikelihoodLoss<Target> value_only = a;
    value_only.grad = nullptr;
    run([&] { kernel(likelihood, value_only, stream_); }, {&partial_d});
    EXPECT_TRUE(partial_d.bits() == partial_bits) << "value only";
    LikelihoodLoss<Target> alias = a;
    alias.output = alias.grad = in_place.data();
    run(
        [&] {
          in_place.set(output);
          kernel(likelihood, alias, stream_);
        },
        {&partial_d, &in_place});
    EXPECT_TRUE(partial_d.bits() == partial_bits && in_place.bits() == grad_bits) << "in place";

    // Buffers that allow no vector access.
    LikelihoodLoss<Target> odd = a;
    odd.output = output_odd.data();
    odd.target = target_odd.data();
    odd.grad = grad_odd.data();
    run([&] { kernel(likelihood, odd, stream_); }, {&partial_d, &grad_odd});
    EXPECT_TRUE(partial_d.bits() == partial_bits && grad_odd.bits() == grad_bits) << "alignment";

    // The gradient alone, also weighed by a tensor, then with and without the loss beside it.
    LikelihoodLoss<Target> gradient_only = a;
    gradient_only.nll_partial = nullptr;
    run([&] { kernel(likelihood, gradient_only, stream_); }, {&grad_d});
    EXPECT_TRUE(grad_d.bits() == grad_bits) << "gradient only";
    for (LikelihoodLoss<Target> weighed : {gradient_only, odd}) {
      weighed.dnll_partial = weights_d.data();
      const Array<float>& into = weighed.nll_partial ? grad_odd : grad_d;
      run([&] { kernel(likelihood, weighed, stream_); }, {&partial_d, &into});
      expect_near(into, weighed_grad, grad_error, grad_error);
      EXPECT_TRUE(into.bits() == weighed_bits || weighed_bits.empty()) << "gradients of rivals, weighed";
      weighed_bits = into.bits();
    }
    EXPECT_TRUE(partial_d.bits() == partial_bits) << "a loss beside a weighed gradient";
  }

  check_bf16(likelihood, target, mean, variance, scale);

  // One launch for each operation.
  LikelihoodLoss<Target> unfused = a;
  unfused.output = unfused.grad = in_place.data();
  run(
      [&] {
        in_place.set(output);
        likelihood_unfused(likelihood, unfused, scratch.data(), stream_);
      },
      {&partial_d, &in_place});
  EXPECT_TRUE(in_place.bits() == grad_bits) << "gradients, fused and unfused";
  expect_near(partial_d, value, value_relative, value_error);
  unfused = a;
  unfused.nll_partial = nullptr;
  unfused.dnll_partial = weights_d.data();
  run([&] { likelihood_unfused(likelihood, unfused, nullptr, stream_); }, {&grad_d});
  EXPECT_TRUE(grad_d.bits() == weighed_bits) << "weighed gradients, fused and unfused";
}

// A bf16 output is what the same numbers as floats are: the same losses, and the gradients rounded, bit for bit.
template <class Target>
void LikelihoodTest::check_bf16(Likelihood likelihood, const std::vector<Target>& target, PixelMean mean,
                                float variance, float scale) {
  std::vector<float> floats = outputs_of(likelihood);
  std::vector<math::Bf16> halves;
  for (float& x : floats) {
    halves.push_back(math::to_bf16(x));
    x = math::to_float(halves.back());
  }
  const size_t partials = static_cast<size_t>(rows_ * samples_ * ceil_div(pixels_, pixel_chunk));
  const Array<Target> target_d(target);
  const Array<float> floats_d(floats), partial_d(partials), grad_d(floats.size()), partial_bf16(partials);
  const LikelihoodLoss<Target> a{.output = floats_d.data(),
                                 .target = target_d.data(),
                                 .variance = variance,
                                 .mean = mean,
                                 .grad_scale = scale,
                                 .nll_partial = partial_d.data(),
                                 .grad = grad_d.data(),
                                 .rows = rows_,
                                 .samples = samples_,
                                 .pixels = pixels_};
  const auto compare = [&](auto kernel, auto kernel_of_bf16, const float* weights) {
    LikelihoodLoss<Target> of_floats = a;
    of_floats.dnll_partial = weights;
    run([&] { kernel(likelihood, of_floats, stream_); }, {&partial_d, &grad_d});
    std::vector<std::uint16_t> expected;
    for (const float g : grad_d.get()) expected.push_back(math::to_bf16(g).bits);
    for (const size_t offset : {0, 1}) {  // 1: buffers that allow no vector access; and the gradient in place
      const Array<math::Bf16> halves_d(halves, offset), apart(halves.size());
      const Array<math::Bf16>& grad = offset == 0 ? apart : halves_d;
      const LikelihoodLoss<Target, math::Bf16> b{.output = halves_d.data(),
                                                 .target = target_d.data(),
                                                 .variance = variance,
                                                 .mean = mean,
                                                 .grad_scale = scale,
                                                 .dnll_partial = weights,
                                                 .nll_partial = partial_bf16.data(),
                                                 .grad = grad.data(),
                                                 .rows = rows_,
                                                 .samples = samples_,
                                                 .pixels = pixels_};
      run(
          [&] {
            halves_d.set(halves);
            kernel_of_bf16(likelihood, b, stream_);
          },
          {&partial_bf16, &grad});
      EXPECT_TRUE(partial_bf16.bits() == partial_d.bits()) << "offset " << offset;
      std::vector<std::uint16_t> got;
      for (const math::Bf16 g : grad.get()) got.push_back(g.bits);
      EXPECT_EQ(got, expected) << "offset " << offset;
    }
  };
  const Array<float> weights_d(gaussian_values(partials, 24));
  compare(likelihood_fused<Target, float>, likelihood_fused<Target, math::Bf16>, nullptr);
  compare(likelihood_fused_log<Target, float>, likelihood_fused_log<Target, math::Bf16>, nullptr);
  compare(likelihood_two_pass<Target, float>, likelihood_two_pass<Target, math::Bf16>, nullptr);
  compare(likelihood_fused<Target, float>, likelihood_fused<Target, math::Bf16>, weights_d.data());
}

TEST_P(LikelihoodTest, BernoulliOfPixels) {
  check(Likelihood::bernoulli, pixels_of(static_cast<size_t>(rows_ * pixels_), 7));
}
TEST_P(LikelihoodTest, GaussianOfPixels) {
  check(Likelihood::gaussian, pixels_of(static_cast<size_t>(rows_ * pixels_), 8));
}
TEST_P(LikelihoodTest, LearnedGaussianOfPixels) {
  check(Likelihood::gaussian_learned, pixels_of(static_cast<size_t>(rows_ * pixels_), 8));
}
TEST_P(LikelihoodTest, LearnedGaussianWithMeansBetween0And1) {
  check(Likelihood::gaussian_learned, pixels_of(static_cast<size_t>(rows_ * pixels_), 8), PixelMean::sigmoid);
}
TEST_P(LikelihoodTest, LearnedGaussianOfFloats) {
  check(Likelihood::gaussian_learned, gaussian_values(static_cast<size_t>(rows_ * pixels_), 10));
}
TEST_P(LikelihoodTest, BernoulliOfFloats) {
  std::vector<float> target = gaussian_values(static_cast<size_t>(rows_ * pixels_), 9);
  for (float& x : target) x = 0.5f + 0.5f * std::tanh(x);
  check(Likelihood::bernoulli, target);
}
TEST_P(LikelihoodTest, GaussianOfFloats) {
  check(Likelihood::gaussian, gaussian_values(static_cast<size_t>(rows_ * pixels_), 10));
}

INSTANTIATE_TEST_SUITE_P(Shapes, LikelihoodTest,
                         testing::Values(LossCase{1, 1, 1}, LossCase{2, 1, 3}, LossCase{3, 2, 4}, LossCase{2, 3, 5},
                                         LossCase{2, 1, 511}, LossCase{2, 1, 512}, LossCase{2, 1, 513},
                                         LossCase{3, 1, 560}, LossCase{2, 2, 784}, LossCase{2, 1, 1024},
                                         LossCase{1, 2, 1025}, LossCase{1, 1, 2100}, LossCase{1, 2, 4095},
                                         LossCase{2, 1, 4096}, LossCase{1, 1, 4097}, LossCase{1, 1, 8200}));

// A block takes one short row of few and four of many, the last block fewer: the same bits.
TEST_F(KernelTest, LikelihoodOfARowIsTheSameAmongMany) {
  constexpr int64_t rows = 2050, samples = 3, pixels = 5, few = samples;
  constexpr size_t count = rows * samples * pixels;
  const Array<float> output(gaussian_values(count, 11, 4.0f)), grad(count), partial(rows * samples);
  const Array<std::uint8_t> target(pixels_of(rows * pixels, 12));
  LikelihoodLoss<std::uint8_t> a{.output = output.data(),
                                 .target = target.data(),
                                 .variance = 1,
                                 .grad_scale = 0.25f,
                                 .nll_partial = partial.data(),
                                 .grad = grad.data(),
                                 .rows = rows,
                                 .samples = samples,
                                 .pixels = pixels};
  likelihood_fused(Likelihood::bernoulli, a, stream_);
  synchronize();
  const std::vector<float> all = partial.get(), all_grad = grad.get();
  for (const int64_t row : {int64_t{0}, int64_t{1000}, rows - 1}) {
    grad.poison();
    partial.poison();
    a.output = output.data() + row * samples * pixels;
    a.target = target.data() + row * pixels;
    a.rows = 1;
    likelihood_fused(Likelihood::bernoulli, a, stream_);
    synchronize();
    const std::vector<float> one = partial.get(), one_grad = grad.get();
    for (int64_t i = 0; i < few; ++i)
      EXPECT_EQ(one[static_cast<size_t>(i)], all[static_cast<size_t>(row * samples + i)]) << row;
    for (int64_t i = 0; i < few * pixels; ++i)
      EXPECT_EQ(one_grad[static_cast<size_t>(i)], all_grad[static_cast<size_t>(row * samples * pixels + i)]) << row;
  }
}

TEST(DivisorTest, DividesAsTheHostDoes) {
  std::vector<std::uint32_t> numbers = {0, 1, 2, 0x7ffffffe, 0x7fffffff};
  for (std::uint32_t power = 4; power <= 0x40000000; power *= 2) {
    for (const std::uint32_t n : {power - 1, power, power + 1, power / 3 * 2 + 1}) numbers.push_back(n);
  }
  std::mt19937 bits(13);
  for (int i = 0; i < 200; ++i) numbers.push_back(static_cast<std::uint32_t>(bits() >> 1 >> i % 31));
  for (const std::uint32_t d : numbers) {
    if (d == 0) continue;
    const Divisor divisor(d);
    for (const std::uint32_t n : numbers) {
      ASSERT_EQ(divisor.quotient(n), n / d) << n << " / " << d;
      // Just below and at a multiple of d, where a rounding would show.
      const std::uint32_t multiple = n / d * d;
      ASSERT_EQ(divisor.quotient(multiple), n / d) << multiple << " / " << d;
      if (multiple > 0) {
        ASSERT_EQ(divisor.quotient(multiple - 1), n / d - 1) << multiple - 1 << " / " << d;
      }
    }
  }
}

TEST_F(KernelTest, BernoulliIsExactFarOut) {
  const std::vector<float> logits = {-200, -100, -20, 0, 20, 100, 200, 1e30f};
  const Array<float> output(logits), grad(8), partial(8);
  const Array<std::uint8_t> target(std::vector<std::uint8_t>(8, 255));
  likelihood_fused(Likelihood::bernoulli,
                   LikelihoodLoss<std::uint8_t>{.output = output.data(),
                                                .target = target.data(),
                                                .variance = 1,
                                                .grad_scale = 1,
                                                .nll_partial = partial.data(),
                                                .grad = grad.data(),
                                                .rows = 8,
                                                .samples = 1,
                                                .pixels = 1},
                   stream_);
  synchronize();
  expect_near(partial, {200, 100, 20, std::log(2.0), 0, 0, 0, 0}, 1e-6, 1e-8);
  expect_near(grad, {-1, -1, -1, -0.5, -2e-9, 0, 0, 0}, 1e-6, 1e-8);
}

TEST_F(KernelTest, LikelihoodKeepsNaNAndInfinity) {
  constexpr int64_t rows = 3, pixels = 4100;                   // two chunks a row
  constexpr size_t count = rows * pixels, at = pixels + 4098;  // row 1, second chunk
  for (const Likelihood likelihood : {Likelihood::bernoulli, Likelihood::gaussian}) {
    for (const float planted : {nan_value, infinity, -infinity}) {
      std::vector<float> values = gaussian_values(count, 11);
      values[at] = planted;
      const Array<float> output(values), grad(count), partial(6), scratch(count);
      const Array<std::uint8_t> target(std::vector<std::uint8_t>(count, 0));
      const LikelihoodLoss<std::uint8_t> a{.output = output.data(),
                                           .target = target.data(),
                                           .variance = 1,
                                           .grad_scale = 1,
                                           .nll_partial = partial.data(),
                                           .grad = grad.data(),
                                           .rows = rows,
                                           .samples = 1,
                                           .pixels = pixels};
      for (const bool is_fused : {true, false}) {
        if (is_fused) {
          likelihood_fused(likelihood, a, stream_);
        } else {
          likelihood_unfused(likelihood, a, scratch.data(), stream_);
        }
        synchronize();
        const std::vector<float> p = partial.get(), g = grad.get();
        for (size_t i = 0; i < p.size(); ++i) EXPECT_EQ(std::isfinite(p[i]), i != 3) << planted << " chunk " << i;
        if (std::isnan(planted)) {
          for (size_t i = 0; i < count; ++i) ASSERT_EQ(std::isnan(g[i]), i == at) << i;
        }
      }
    }
  }
}

// ---- Layers -----------------------------------------------------------------------------------------

constexpr Activation activations[] = {Activation::identity, Activation::relu, Activation::tanh, Activation::softplus};

TEST_F(KernelTest, BiasAndActivation) {
  struct Case {
    size_t rows, columns, offset;
  };
  for (const auto [rows, columns, offset] :
       {Case{1, 1, 0}, Case{2, 3, 0}, Case{7, 4, 0}, Case{7, 4, 1}, Case{3, 5, 0}, Case{5, 500, 0}, Case{2, 1001, 0}}) {
    for (const Activation activation : activations) {
      const std::vector<float> x = gaussian_values(rows * columns, 12, 3.0f), bias = gaussian_values(columns, 13);
      std::vector<double> expected(x.size());
      for (size_t i = 0; i < x.size(); ++i) {
        expected[i] = math::activate(activation, static_cast<double>(x[i]) + bias[i % columns]);
      }
      const Array<float> y_d(x, offset), bias_d(bias);
      run(
          [&] {
            y_d.set(x);
            bias_activation(y_d.data(), bias_d.data(), static_cast<int64_t>(rows), static_cast<int64_t>(columns),
                            activation, stream_);
          },
          {&y_d});
      expect_near(y_d, expected, 1e-6, 1e-6);  // the sum is rounded once
    }
  }
}

TEST_F(KernelTest, ActivationBackward) {
  for (const size_t count : {1, 3, 4, 5, 511, 512, 513, 2047}) {
    for (const Activation activation : activations) {
      for (const size_t offset : {0, 1}) {
        std::vector<float> y = gaussian_values(count, 14);
        for (float& v : y) v = math::activate(activation, v);
        const std::vector<float> dy = gaussian_values(count, 15);
        std::vector<double> expected(count);
        for (size_t i = 0; i < count; ++i) {
          expected[i] = dy[i] * math::activation_slope(activation, static_cast<double>(y[i]));
        }
        const Array<float> y_d(y, offset), dy_d(dy, offset);
        run(
            [&] {
              dy_d.set(dy);
              activation_backward(y_d.data(), dy_d.data(), dy_d.data(), static_cast<int64_t>(count), activation,
                                  stream_);
            },
            {&dy_d});
        expect_near(dy_d, expected, 1e-6, 3e-7);
      }
    }
  }
}

TEST_F(KernelTest, ColumnSum) {
  for (const size_t rows : {1, 7, 8, 9, 100}) {
    for (const size_t columns : {1, 31, 32, 33, 500}) {
      const std::vector<float> x = gaussian_values(rows * columns, 16);
      std::vector<double> expected(columns);
      for (size_t i = 0; i < x.size(); ++i) expected[i % columns] += x[i];
      const Array<float> x_d(x), sum_d(columns);
      run(
          [&] {
            column_sum(x_d.data(), sum_d.data(), static_cast<int64_t>(rows), static_cast<int64_t>(columns), stream_);
          },
          {&sum_d});
      expect_near(sum_d, expected, 1e-6, 4e-6);  // 100 terms of size 1
    }
  }
}

TEST_F(KernelTest, LayersKeepNaN) {
  std::vector<float> x = gaussian_values(2 * 5, 17);
  x[3] = nan_value;
  for (const Activation activation : activations) {
    const Array<float> y(x), dy(x), bias(std::vector<float>(5, 0.0f)), sum(5);
    column_sum(y.data(), sum.data(), 2, 5, stream_);
    activation_backward(y.data(), dy.data(), dy.data(), 10, activation, stream_);
    bias_activation(y.data(), bias.data(), 2, 5, activation, stream_);
    synchronize();
    EXPECT_TRUE(std::isnan(y.get()[3]) && std::isnan(dy.get()[3]) && std::isnan(sum.get()[3]));
    EXPECT_FALSE(std::isnan(y.get()[4]) || std::isnan(sum.get()[4]));
  }
}

// ---- Optimiser, sums, step --------------------------------------------------------------------------

struct OptimizerCase {
  OptimizerType type;
  size_t count, offset;
};

class OptimizerTest : public KernelTest, public testing::WithParamInterface<OptimizerCase> {
 protected:
  const math::OptimizerSettings settings_{
      .type = GetParam().type, .learning_rate = 0.01f, .momentum = 0.9f, .weight_decay = 0.1f};
  const size_t count_ = GetParam().count, offset_ = GetParam().offset;
  const std::vector<float> p_ = gaussian_values(count_, 18), g_ = gaussian_values(count_, 19),
                           m_ = gaussian_values(count_, 20);
  const std::vector<float> v_ = [this] {
    std::vector<float> v = gaussian_values(count_, 21);
    for (float& x : v) x = x * x;
    return v;
  }();
};

TEST_P(OptimizerTest, FollowsTheFormula) {
  const StepState state = some_state();
  std::vector<float> first = m_;
  if (settings_.type == OptimizerType::adagrad) first = v_;  // a sum of squares
  std::vector<double> p(count_), m(count_), v(count_);
  for (size_t i = 0; i < count_; ++i) {
    p[i] = p_[i], m[i] = first[i], v[i] = v_[i];
    math::optimizer_update(p[i], static_cast<double>(g_[i]), m[i], v[i], settings_,
                           static_cast<double>(state.correction1), static_cast<double>(state.correction2));
  }
  const Array<float> p_d(count_, offset_), g_d(g_, offset_), m_d(count_, offset_), v_d(count_, offset_);
  const Array<StepState> state_d({state});
  run(
      [&] {
        p_d.set(p_), m_d.set(first), v_d.set(v_);
        optimizer_step({.parameters = p_d.data(),
                        .gradients = g_d.data(),
                        .first = m_d.data(),
                        .second = v_d.data(),
                        .state = state_d.data(),
                        .settings = settings_,
                        .count = static_cast<int64_t>(count_)},
                       stream_);
      },
      {&p_d, &m_d, &v_d});
  expect_near(p_d, p, 1e-6, 1e-6);
  expect_near(m_d, m, 1e-6, 1e-6);
  expect_near(v_d, v, 1e-6, 1e-6);
  EXPECT_EQ(state_d.get()[0].bad_update, StepState::none);
}

TEST_P(OptimizerTest, StopsAtABadStepAndNotesABadUpdate) {
  StepState state = some_state();
  state.bad_step = 2;
  const Array<float> p_d(p_, offset_), g_d(g_, offset_), m_d(m_, offset_), v_d(v_, offset_);
  const Array<StepState> state_d({state});
  const auto update = [&] {
    optimizer_step({.parameters = p_d.data(),
                    .gradients = g_d.data(),
                    .first = m_d.data(),
                    .second = v_d.data(),
                    .state = state_d.data(),
                    .settings = settings_,
                    .count = static_cast<int64_t>(count_)},
                   stream_);
    synchronize();
  };
  update();
  EXPECT_EQ(p_d.get(), p_);
  EXPECT_EQ(m_d.get(), m_);

  state.bad_step = StepState::none;
  for (const size_t at : {size_t{0}, count_ - 1}) {
    std::vector<float> g = g_;
    g[at] = nan_value;
    g_d.set(g);
    state.bad_update = StepState::none;
    state_d.set({state});
    update();
    EXPECT_EQ(state_d.get()[0].bad_update, state.step);
    state.bad_update = 1;  // an earlier one stays
    state_d.set({state});
    update();
    EXPECT_EQ(state_d.get()[0].bad_update, 1u);
    p_d.set(p_), m_d.set(m_), v_d.set(v_);
  }

  std::vector<float> p = p_;  // a weight that is not finite, from a gradient that is
  p[count_ / 2] = infinity;
  p_d.set(p), g_d.set(g_);
  state.bad_update = StepState::none;
  state_d.set({state});
  update();
  EXPECT_EQ(state_d.get()[0].bad_update, state.step);
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, OptimizerTest,
    testing::Values(OptimizerCase{OptimizerType::adam, 1, 0}, OptimizerCase{OptimizerType::adam, 3, 0},
                    OptimizerCase{OptimizerType::adam, 4, 0}, OptimizerCase{OptimizerType::adam, 1023, 0},
                    OptimizerCase{OptimizerType::adam, 1024, 0}, OptimizerCase{OptimizerType::adam, 2050, 1},
                    OptimizerCase{OptimizerType::adagrad, 1025, 0}, OptimizerCase{OptimizerType::adagrad, 7, 1},
                    OptimizerCase{OptimizerType::sgd, 1025, 0}, OptimizerCase{OptimizerType::sgd, 6, 1},
                    // More than a wave of one multiprocessor: 3 blocks of 2,048 at a time.
                    OptimizerCase{OptimizerType::adam, 20492, 0}, OptimizerCase{OptimizerType::sgd, 13001, 0}));

// In whatever order blocks and threads come: the same bits as those of the three kernels that it stands for.
TEST_P(OptimizerTest, FinishStepIsWhatItsPartsAre) {
  const Schedule schedule{.batches_per_epoch = 3, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f};
  const std::vector<float> nll = gaussian_values(33 * 2, 31, 100.0f), kl = gaussian_values(2 * 3, 32);
  const Array<float> p_d(count_, offset_), g_d(g_, offset_), m_d(count_, offset_), v_d(count_, offset_), nll_d(nll),
      kl_d(kl);
  const Array<double> sums_d(5);
  const Array<StepState> state_d(1);
  const Array<std::uint64_t> fault_d(1);
  const auto outcome = [&] { return p_d.bits() + m_d.bits() + v_d.bits() + sums_d.bits() + fault_d.bits(); };
  for (const float last : {g_.back(), nan_value}) {
    std::vector<float> g = g_;
    g.back() = last;
    g_d.set(g);
    const Accumulate totals{.losses = {{nll_d.data(), 33 * 2, 0, 1}, {kl_d.data(), 2 * 3, 3, 1}},
                            .count = 2,
                            .state = state_d.data(),
                            .sums = sums_d.data(),
                            .rows = 33};
    const OptimizerStep update{.parameters = p_d.data(),
                               .gradients = g_d.data(),
                               .first = m_d.data(),
                               .second = v_d.data(),
                               .state = state_d.data(),
                               .settings = settings_,
                               .count = static_cast<int64_t>(count_)};
    const auto set = [&] {
      p_d.set(p_), m_d.set(v_), v_d.set(v_);
      sums_d.set({1, 2, 3, 4, 5});
      state_d.set({some_state()});
      fault_d.set({StepState::none});
    };
    run(
        [&] {
          set();
          finish_step(totals, update, schedule, fault_d.data(), 1, stream_);
        },
        {&p_d, &m_d, &v_d, &sums_d, &fault_d});
    const std::string at_once = outcome();
    const StepState state = state_d.get()[0];
    set();
    accumulate(totals, stream_);
    optimizer_step(update, stream_);
    advance(state_d.data(), schedule, fault_d.data(), stream_);
    synchronize();
    EXPECT_TRUE(at_once == outcome());
    EXPECT_EQ(state.step, some_state().step + 1);
    EXPECT_EQ(state.bad_step, state_d.get()[0].bad_step);
    EXPECT_EQ(fault_d.get()[0], std::isnan(last) ? some_state().step : StepState::none);
    EXPECT_EQ(state.blocks_done, 0u);
  }
}

// The last block to come moves the state on, whichever it is, and once; what its kernel would do with a plain counter
// is noticed. (That its fences are needed, ThreadSanitizer sees: planted_bugs.cpp.)
TEST_F(KernelTest, FinishStepEndsOnceInEveryOrderOfItsBlocks) {
  const Schedule schedule{.batches_per_epoch = 3, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f};
  constexpr size_t count = 8 * 256 * 6 + 5;  // more blocks than run at a time
  const std::vector<float> p = gaussian_values(count, 41), g = gaussian_values(count, 42);
  const Array<float> p_d(count), g_d(g), m_d(count), v_d(count), nll_d(std::vector<float>(33, 1.0f)),
      kl_d(std::vector<float>(6, 1.0f));
  const Array<double> sums_d(5);
  const Array<StepState> state_d(1);
  const Array<std::uint64_t> fault_d(1);
  const auto steps_made = [&](const cusim::Schedule& order, const cusim::Planted& planted) {
    cusim::set_schedule(order);
    cusim::plant(planted);
    p_d.set(p), m_d.set(std::vector<float>(count, 0.0f)), v_d.set(std::vector<float>(count, 0.0f));
    sums_d.set({0, 0, 0, 0, 0}), state_d.set({some_state()}), fault_d.set({StepState::none});
    finish_step({{{nll_d.data(), 33, 0, 1}, {kl_d.data(), 2 * 3, 3, 1}}, 2, state_d.data(), sums_d.data(), 33},
                {p_d.data(), g_d.data(), m_d.data(), v_d.data(), state_d.data(), {}, count}, schedule, fault_d.data(),
                2, stream_);
    synchronize();
    cusim::plant({});
    const StepState after = state_d.get()[0];
    EXPECT_EQ(sums_d.get(), (std::vector<double>{33, 33, 2, 2, 2}));
    if (!planted.plain_atomics) {
      EXPECT_EQ(after.blocks_done, 0u);
    }
    return after.step - some_state().step;
  };
  using cusim::Blocks, cusim::Order;
  for (const Blocks blocks : {Blocks::in_turn, Blocks::together, Blocks::apart}) {
    EXPECT_EQ(steps_made({Order::forward, 1, blocks}, {}), 1u);
    EXPECT_EQ(steps_made({Order::reverse, 1, blocks}, {}), 1u);
    for (const std::uint64_t seed : {1, 2, 3}) EXPECT_EQ(steps_made({Order::random, seed, blocks}, {}), 1u) << seed;
  }
#if !defined(__SANITIZE_THREAD__)  // the race that it is
  for (const Order order : {Order::forward, Order::reverse, Order::random})
    EXPECT_NE(steps_made({order, 1, Blocks::apart}, {.plain_atomics = true}), 1u);
#endif
}

struct SumCase {
  int64_t count, columns, samples;  // columns 0: one sum of all
};
using SumCases = std::vector<SumCase>;

class AccumulateTest : public KernelTest, public testing::WithParamInterface<SumCases> {
 protected:
  AccumulateTest() {
    for (const SumCase& c : GetParam()) {
      const auto k = static_cast<std::uint32_t>(values_.size());
      values_.push_back(gaussian_values(static_cast<size_t>(c.count), 22 + k, 100.0f));
      sums_ += static_cast<size_t>(std::max<int64_t>(1, c.columns));
    }
  }
  // The losses as they are in device memory.
  Accumulate losses_of(const std::vector<std::unique_ptr<Array<float>>>& memory, StepState* state, double* sums) const {
    Accumulate a{.losses = {}, .count = static_cast<int>(memory.size()), .state = state, .sums = sums, .rows = 33};
    for (size_t k = 0; k < memory.size(); ++k) {
      const auto [count, columns, samples] = GetParam()[k];
      a.losses[k] = {memory[k]->data(), count, columns, samples};
    }
    return a;
  }
  std::vector<std::unique_ptr<Array<float>>> upload() const {
    std::vector<std::unique_ptr<Array<float>>> memory;
    for (const std::vector<float>& v : values_) memory.push_back(std::make_unique<Array<float>>(v));
    return memory;
  }

  std::vector<std::vector<float>> values_;  // of each loss
  size_t sums_ = 1;
};

TEST_P(AccumulateTest, AddsToTheSums) {
  std::vector<double> before(sums_, 1000.0), expected = before;
  expected[0] += 33;
  size_t at = 1;
  for (size_t k = 0; k < values_.size(); ++k) {
    const auto sums = static_cast<size_t>(std::max<int64_t>(1, GetParam()[k].columns));
    for (size_t i = 0; i < values_[k].size(); ++i)
      expected[at + i % sums] += values_[k][i] / static_cast<double>(GetParam()[k].samples);
    at += sums;
  }
  const auto memory = upload();
  const Array<StepState> state_d({some_state()});
  const Array<double> sums_d(before);
  const Accumulate losses = losses_of(memory, state_d.data(), sums_d.data());
  run(
      [&] {
        sums_d.set(before);
        accumulate(losses, stream_);
      },
      {&sums_d});
  expect_near(sums_d.get(), expected, 1e-13, 1e-10);  // in double
  EXPECT_EQ(state_d.get()[0].bad_step, StepState::none);
}

TEST_P(AccumulateTest, NotesALossThatIsNotFinite) {
  const StepState state = some_state();
  for (const float planted : {nan_value, infinity, -infinity}) {
    for (std::vector<float>& v : values_) {
      const float kept = std::exchange(v.back(), planted);
      const auto memory = upload();
      const Array<double> sums_d(std::vector<double>(sums_, 0.0));
      const Array<StepState> state_d({state});
      const auto step = [&] {
        accumulate(losses_of(memory, state_d.data(), sums_d.data()), stream_);
        synchronize();
        return state_d.get()[0].bad_step;
      };
      EXPECT_EQ(step(), state.step);
      StepState earlier = state;
      earlier.bad_step = 1;
      state_d.set({earlier});
      EXPECT_EQ(step(), 1u);
      v.back() = kept;
    }
  }
}

// A reconstruction and the KL of latent units, as in every model; more losses, and others.
INSTANTIATE_TEST_SUITE_P(Shapes, AccumulateTest,
                         testing::Values(SumCases{{1, 0, 1}, {1, 1, 1}}, SumCases{{33, 0, 1}, {2 * 2, 2, 1}},
                                         SumCases{{100 * 5, 0, 5}, {4 * 20, 20, 1}},
                                         SumCases{{64 * 29, 0, 1}, {2 * 300, 300, 1}}, SumCases{{7, 0, 1}},
                                         SumCases{{33, 0, 1}, {2 * 2, 2, 1}, {33, 0, 1}},
                                         SumCases{{3 * 257, 257, 3}, {1000, 0, 1}, {5, 5, 1}, {12, 0, 4}}));

TEST_F(KernelTest, AdvanceMovesOnAndReportsTheFirstBadStep) {
  const Schedule training{.batches_per_epoch = 3, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f};
  const Schedule evaluation{.batches_per_epoch = 3, .rows_per_batch = 10};
  const Array<std::uint64_t> fault(std::vector<std::uint64_t>{77});
  for (const Schedule& schedule : {training, evaluation}) {
    const Array<StepState> state_d({state_at(9, 0, schedule)});
    for (std::uint32_t step = 1; step < 8; ++step) {
      advance(state_d.data(), schedule, fault.data(), stream_);
      synchronize();
      const StepState got = state_d.get()[0], expected = state_at(9, step, schedule);
      EXPECT_EQ(got.seed, expected.seed);
      EXPECT_EQ(got.step, expected.step);
      EXPECT_EQ(got.epoch, expected.epoch);
      EXPECT_EQ(got.batch, expected.batch);
      EXPECT_EQ(got.noise_step, expected.noise_step);
      EXPECT_EQ(got.row0, expected.row0);
      EXPECT_EQ(got.correction1, expected.correction1);
      EXPECT_EQ(got.correction2, expected.correction2);
      EXPECT_EQ(got.bad_step, StepState::none);
      EXPECT_EQ(got.bad_update, StepState::none);
      EXPECT_EQ(fault.get()[0], 77u);
    }
  }
  struct Case {
    std::uint64_t step, update, first;
  };
  for (const auto [step, update, first] :
       {Case{4, StepState::none, 4}, Case{StepState::none, 3, 3}, Case{4, 3, 3}, Case{2, 3, 2}}) {
    StepState s = some_state();
    s.bad_step = step;
    s.bad_update = update;
    const Array<StepState> state_d({s});
    advance(state_d.data(), training, fault.data(), stream_);
    synchronize();
    EXPECT_EQ(state_d.get()[0].bad_step, first);
    EXPECT_EQ(state_d.get()[0].bad_update, update);
    EXPECT_EQ(fault.get()[0], first);
  }
}

// ---- Launchers --------------------------------------------------------------------------------------

TEST_F(KernelTest, LaunchersNameWhatIsWrong) {
  const Array<float> f(16);
  const Array<StepState> state({some_state()});
  const Array<std::uint8_t> bytes(16);
  const SampleLatent latent{.stats = f.data(),
                            .state = state.data(),
                            .posterior = Posterior::sigma,
                            .z = f.data(),
                            .kl_partial = f.data(),
                            .rows = 1,
                            .samples = 1,
                            .latent = 0};
  LikelihoodLoss<float> loss{.output = f.data(),
                             .target = f.data(),
                             .variance = 0.0f,
                             .grad_scale = 1.0f,
                             .nll_partial = f.data(),
                             .grad = nullptr,
                             .rows = 1,
                             .samples = 1,
                             .pixels = 4};
  expect_error([&] { column_sum(nullptr, f.data(), 1, 1, stream_); }, "column_sum: a null buffer");
  expect_error([&] { sample_latent_fused(latent, stream_); }, "sample_latent_fused: 1 rows, 1 samples, 0 latent");
  expect_error([&] { likelihood_fused(Likelihood::gaussian, loss, stream_); }, "likelihood_fused: a variance of 0");
  expect_error([&] { likelihood_unfused(Likelihood::bernoulli, loss, nullptr, stream_); },
               "likelihood_unfused: no scratch");
  loss.nll_partial = nullptr;
  expect_error([&] { likelihood_two_pass(Likelihood::bernoulli, loss, stream_); },
               "likelihood_two_pass: a null buffer");
  loss.nll_partial = f.data();
  loss.pixels = int64_t{1} << 50;
  expect_error([&] { likelihood_fused(Likelihood::bernoulli, loss, stream_); }, "likelihood_fused");
  const Array<double> sums(4);
  Accumulate losses{.losses = {{f.data(), 4, 0, 1}}, .count = 1, .state = state.data(), .sums = sums.data(), .rows = 2};
  const auto refused = [&](const char* message) { expect_error([&] { accumulate(losses, stream_); }, message); };
  losses.count = 5;
  refused("accumulate: 5 losses; 1 to 4");
  losses.count = 2;
  refused("accumulate: a null buffer");
  losses.losses[1] = {f.data(), 4, 2, 0};
  refused("accumulate: a loss of 2 columns and 0 samples");
  losses.losses[1] = {f.data(), 0, 0, 1};
  refused("accumulate: a loss of 0 partial sums");
  expect_error(
      [&] {
        gather_batch({.source = bytes.data(),
                      .state = state.data(),
                      .indexing = Indexing::ring,
                      .binarize = Binarize::none,
                      .input = f.data(),
                      .target = bytes.data(),
                      .images = 5,
                      .rows = 2,
                      .pixels = 3},
                     stream_);
      },
      "gather_batch: a ring of 5 rows");
}

}  // namespace
}  // namespace elbo::kernels
