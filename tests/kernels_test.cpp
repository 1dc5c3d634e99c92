// What operations do not reach of the kernels (operations/ has the rest): what launchers refuse, the quotients of
// indices, and the blocks of the kernel that ends a step in every order.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kernels/dense.h"
#include "kernels/divisor.h"
#include "kernels/gather.h"
#include "kernels/latent.h"
#include "kernels/launch.h"
#include "kernels/likelihood.h"
#include "kernels/optimizer.h"
#include "tests/errors.h"

namespace elbo::kernels {
namespace {

// Values in the device's memory.
template <class T>
class Array {
 public:
  explicit Array(const std::vector<T>& values) : n_(values.size()) {
    void* p = nullptr;
    check_cuda(cudaMalloc(&p, n_ * sizeof(T)), "cudaMalloc");
    start_ = static_cast<T*>(p);
    set(values);
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { cudaFree(start_); }

  T* data() const { return start_; }
  void set(const std::vector<T>& values) const {
    check_cuda(cudaMemcpy(start_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  std::vector<T> get() const {
    std::vector<T> values(n_);
    check_cuda(cudaMemcpy(values.data(), start_, n_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return values;
  }

 private:
  T* start_ = nullptr;
  std::size_t n_;
};

TEST(Divisor, DividesAsTheHostDoes) {
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

// The last block to come moves the state on, whichever it is, and once; what its kernel would do with a plain counter
// is noticed. (That its fences are needed, ThreadSanitizer sees: planted_bugs.cpp.)
TEST(FinishStep, EndsOnceInEveryOrderOfItsBlocks) {
  const Schedule schedule{.batches_per_epoch = 3, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f};
  constexpr std::size_t count = 8 * 256 * 6 + 5;  // more blocks than run at a time
  const std::vector<float> half(count, 0.5f), zero(count, 0.0f);
  const Array<float> p(half), g(half), m(zero), v(zero), nll(std::vector<float>(33, 1.0f)),
      kl(std::vector<float>(6, 1.0f));
  const Array<double> sums(std::vector<double>(5));
  const StepState before = state_at(1, 5, schedule);
  const Array<StepState> state({before});
  const Array<std::uint64_t> fault(std::vector{StepState::none});
  const auto steps_made = [&](const cusim::Schedule& order, const cusim::Planted& planted) {
    cusim::set_schedule(order);
    cusim::plant(planted);
    p.set(half), m.set(zero), v.set(zero);
    sums.set({0, 0, 0, 0, 0}), state.set({before}), fault.set({StepState::none});
    finish_step({{{nll.data(), 33, 0, 1}, {kl.data(), 2 * 3, 3, 1}}, 2, state.data(), sums.data(), 33},
                {p.data(), g.data(), m.data(), v.data(), state.data(), {}, count}, schedule, fault.data(), 2, nullptr);
    check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    cusim::plant({});
    cusim::set_schedule(std::nullopt);
    const StepState after = state.get()[0];
    EXPECT_EQ(sums.get(), (std::vector<double>{33, 33, 2, 2, 2}));
    if (!planted.plain_atomics) {
      EXPECT_EQ(after.blocks_done, 0u);
    }
    return after.step - before.step;
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

TEST(Launchers, NameWhatIsWrong) {
  const Array<float> f(std::vector<float>(16));
  const Array<StepState> state({state_at(1, 5, {})});
  const Array<std::uint8_t> bytes(std::vector<std::uint8_t>(16));
  const auto expect_error = [](const char* what, const std::function<void()>& launch) {
    const std::string said = test::error_of(launch);
    EXPECT_TRUE(said.starts_with(what)) << what << ": " << said;
  };
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
  expect_error("column_sum: a null buffer", [&] { column_sum(nullptr, f.data(), 1, 1, nullptr); });
  expect_error("sample_latent_fused: 1 rows, 1 samples, 0 latent", [&] { sample_latent_fused(latent, nullptr); });
  expect_error("likelihood_fused: a variance of 0", [&] { likelihood_fused(Likelihood::gaussian, loss, nullptr); });
  expect_error("likelihood_unfused: no scratch",
               [&] { likelihood_unfused(Likelihood::bernoulli, loss, nullptr, nullptr); });
  loss.nll_partial = nullptr;
  expect_error("likelihood_two_pass: a null buffer",
               [&] { likelihood_two_pass(Likelihood::bernoulli, loss, nullptr); });
  loss.nll_partial = f.data();
  loss.pixels = std::int64_t{1} << 50;
  expect_error("likelihood_fused: ", [&] { likelihood_fused(Likelihood::bernoulli, loss, nullptr); });
  const Array<double> sums(std::vector<double>(4));
  Accumulate losses{.losses = {{f.data(), 4, 0, 1}}, .count = 1, .state = state.data(), .sums = sums.data(), .rows = 2};
  const auto refused = [&](const char* message) { expect_error(message, [&] { accumulate(losses, nullptr); }); };
  losses.count = 5;
  refused("accumulate: 5 losses; 1 to 4");
  losses.count = 2;
  refused("accumulate: a null buffer");
  losses.losses[1] = {f.data(), 4, 2, 0};
  refused("accumulate: a loss of 2 columns and 0 samples");
  losses.losses[1] = {f.data(), 0, 0, 1};
  refused("accumulate: a loss of 0 partial sums");
  expect_error("gather_batch: a ring of 5 rows", [&] {
    gather_batch({.source = bytes.data(),
                  .state = state.data(),
                  .indexing = Indexing::ring,
                  .binarize = Binarize::none,
                  .input = f.data(),
                  .target = bytes.data(),
                  .images = 5,
                  .rows = 2,
                  .pixels = 3},
                 nullptr);
  });
}

}  // namespace
}  // namespace elbo::kernels
