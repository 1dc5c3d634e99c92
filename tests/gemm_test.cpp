// cuda/gemm.cpp over the stand-in for cuBLASLt (tests/sim/cublaslt.cpp): its products against float64, and what it
// makes of everything that the library may say.
#include "cuda/gemm.h"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "cuda/graph.h"
#include "cuda/handles.h"
#include "cuda/tune.h"
#include "elbo/math/random.h"
#include "tests/errors.h"
#include "tests/setting.h"

namespace elbo {
namespace {

using namespace cuda;

using test::error_of;
using test::expect_words;
using test::Setting;

constexpr Epilogue epilogues[] = {Epilogue::none,          Epilogue::bias,  Epilogue::relu_bias,
                                  Epilogue::relu_aux_bias, Epilogue::drelu, Epilogue::bgradb};

// Elements in device memory, `offset` of them behind an address of 256 bytes; what lies around them is watched.
template <class T>
class Elements {
 public:
  Elements(std::size_t count, std::size_t offset, std::uint32_t seed) : count_(count), offset_(offset) {
    cudaMalloc(&memory_, bytes());
    if (seed > 0) {
      values_.resize(count);
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint32_t word = math::random_words({seed, Purpose::prior, 0, 0, 0}, static_cast<std::uint32_t>(i)).x;
        if constexpr (std::is_same_v<T, float>) {
          values_[i] = 2 * math::uniform(word) - 1;
        } else {
          values_[i] = static_cast<T>(word);
        }
      }
      cudaMemcpy(data(), values_.data(), count * sizeof(T), cudaMemcpyHostToDevice);
    }
  }
  ~Elements() {
    std::vector<unsigned char> all(bytes());
    cudaMemcpy(all.data(), memory_, bytes(), cudaMemcpyDeviceToHost);
    const std::size_t begin = offset_ * sizeof(T), end = begin + count_ * sizeof(T);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool within = i >= begin && i < end;
      EXPECT_TRUE(within || all[i] == 0xff) << "byte " << i << ", elements " << begin << " to " << end;
    }
    cudaFree(memory_);
  }
  Elements(const Elements&) = delete;
  Elements& operator=(const Elements&) = delete;

  T* data() const { return static_cast<T*>(memory_) + offset_; }
  const std::vector<T>& before() const { return values_; }
  std::vector<T> now() const {
    std::vector<T> values(count_);
    cudaMemcpy(values.data(), data(), count_ * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }

 private:
  std::size_t bytes() const { return (count_ + offset_) * sizeof(T) + 64; }
  std::size_t count_, offset_;
  void* memory_ = nullptr;
  std::vector<T> values_;
};

struct Shape3 {
  std::int64_t m, n, k;
};

// A product with memory of its own; every operand stands `offset` floats behind an aligned address.
class Case {
 public:
  Case(const Shape3& s, bool transpose_a, bool transpose_b, Epilogue e, std::size_t offset = 0)
      : e_(e),
        a_(size(s.m * s.k), offset, 1),
        b_(size(s.k * s.n), offset, 2),
        c_(size(s.m * s.n), offset, 0),
        vector_(has_vector(e) ? size(e == Epilogue::bgradb ? s.m : s.n) : 0, offset, e == Epilogue::bgradb ? 0 : 3),
        mask_(has_mask(e) ? size(s.m * mask_bytes(s.n)) : 0, 4 * offset, e == Epilogue::drelu ? 4 : 0),
        product{a_.data(), b_.data(), c_.data(), s.m, s.n, s.k, transpose_a, transpose_b} {
    if (e == Epilogue::bgradb) {
      product.row_sums = vector_.data();
    } else if (has_vector(e)) {
      product.bias = vector_.data();
    }
    product.relu = e == Epilogue::relu_bias || e == Epilogue::relu_aux_bias;
    if (e == Epilogue::relu_aux_bias) product.relu_mask = mask_.data();
    if (e == Epilogue::drelu) product.mask = mask_.data();
  }

  std::vector<float> result() const { return c_.now(); }

  // Sums of k products in fp32, in any order, err by a few times 6e-8 of the sum of their magnitudes.
  void expect_right(const std::string& what) const {
    const auto [pa, pb, pc, m, n, k, ta, tb, bias, relu, relu_mask, mask, row_sums] = product;
    const std::vector<float>&a = a_.before(), &b = b_.before(), got = c_.now(), vector = vector_.now();
    const std::vector<std::uint8_t> bits = mask_.now();
    const auto close = [&](float value, double want, double magnitude, std::int64_t at) {
      ASSERT_NEAR(value, want, 1e-6 * magnitude) << what << ", element " << at;
    };
    for (std::int64_t i = 0; i < m; ++i) {
      double row = 0, row_magnitude = 0;
      for (std::int64_t l = 0; l < k; ++l) {
        const double v = a[size(ta ? l * m + i : i * k + l)];
        row += v;
        row_magnitude += std::abs(v);
      }
      if (e_ == Epilogue::bgradb) close(vector[size(i)], row, row_magnitude, i);
      for (std::int64_t j = 0; j < n; ++j) {
        double sum = product.bias ? vector[size(j)] : 0, magnitude = std::abs(sum);
        for (std::int64_t l = 0; l < k; ++l) {
          const double term = double{a[size(ta ? l * m + i : i * k + l)]} * b[size(tb ? j * k + l : l * n + j)];
          sum += term;
          magnitude += std::abs(term);
        }
        const float value = got[size(i * n + j)];
        const bool bit = has_mask(e_) && (bits[size(i * mask_bytes(n) + j / 8)] >> j % 8 & 1) != 0;
        if (relu) sum = std::max(sum, 0.0);
        if (e_ == Epilogue::drelu && !bit) sum = 0;
        close(value, sum, magnitude, i * n + j);
        ASSERT_TRUE(e_ != Epilogue::relu_aux_bias || bit == (value > 0)) << what << ", bit " << i * n + j;
      }
    }
  }

 private:
  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
  Epilogue e_;
  Elements<float> a_, b_, c_, vector_;
  Elements<std::uint8_t> mask_;

 public:
  Product product;
};

class GemmTest : public testing::Test {
 protected:
  GemmTest() { cusim::set_schedule(cusim::Schedule{cusim::Order::reverse}); }  // work runs as late as it may
  ~GemmTest() override {
    stream_ = Stream();
    cusim::set_schedule(std::nullopt);
    EXPECT_EQ(cusim::leaks(), std::vector<std::string>());
  }
  void wait() const { ASSERT_EQ(cudaStreamSynchronize(stream_.get()), cudaSuccess); }
  std::size_t nodes_of(Gemm& gemm, const Product& p) const {
    EXPECT_TRUE(gemm.multiply(p));  // before it is recorded, as a step is
    wait();
    const auto recording = capture_graph(
        stream_.get(), [&] { std::ignore = gemm.multiply(p); }, 1);
    return recording->nodes();
  }

  Stream stream_ = make_stream("test");
};

const ProductChoice& choice_of(const std::vector<ProductChoice>& choices, Epilogue e) {
  return *std::ranges::find_if(choices, [&](const ProductChoice& c) { return c.product.epilogue == e; });
}

// Every algorithm that the library offers, with tails of every kind, and operands aligned to 16, 8 and 4 bytes.
TEST_F(GemmTest, ProductsAreThoseOfFloat64) {
  Gemm fp32(Precision::fp32, stream_.get()), tf32(Precision::tf32, stream_.get());
  std::size_t with_66 = 0;
  for (const Shape3& s :
       {Shape3{1, 1, 1}, Shape3{1, 2, 3}, Shape3{20, 4, 64}, Shape3{31, 17, 20}, Shape3{7, 130, 17}}) {
    for (const int transposes : {0, 1, 2, 3}) {
      Gemm& gemm = transposes % 2 ? tf32 : fp32;
      for (const Epilogue e : epilogues) {
        for (const std::size_t offset : {0, 1, 2}) {
          const std::int64_t alignment = offset == 0 ? 16 : offset == 1 ? 4 : 8;
          const auto choice_now = [&] {
            const std::vector<ProductChoice> all = gemm.choices();
            return *std::ranges::find_if(all, [&](const ProductChoice& c) {
              const ProductShape& p = c.product;
              return p.m == s.m && p.n == s.n && p.k == s.k && p.transpose_a == (transposes & 1) &&
                     p.transpose_b == (transposes > 1) && p.epilogue == e && p.alignment[0] == alignment;
            });
          };
          const auto run = [&](const ProductChoice* choice) {
            const Case c(s, transposes & 1, transposes > 1, e, offset);
            if (choice) gemm.use(*choice);
            ASSERT_TRUE(gemm.multiply(c.product));
            wait();
            c.expect_right(cat(description_of(choice_now().product), ", offset ", offset, ", algorithm ",
                               choice ? choice->algorithm.id : -1));
          };
          run(nullptr);
          const ProductChoice own = choice_now();
          const std::vector<ProductChoice> offered = gemm.candidates(own.product, 32);
          EXPECT_EQ(offered[0].algorithm, own.algorithm) << "its own choice comes first";
          EXPECT_EQ(gemm.candidates(own.product, 1).size(), 1u);
          for (const ProductChoice& choice : offered) {
            run(&choice);
            with_66 += choice.algorithm.id == 66;
            EXPECT_TRUE(choice.algorithm.id != 66 || offset == 0) << "it takes no such alignment";
          }
        }
      }
    }
  }
  EXPECT_GT(with_66, 0u);
}

// An algorithm is chosen for an alignment, not for an address.
TEST_F(GemmTest, APlanServesOtherAddresses) {
  Gemm gemm(Precision::fp32, stream_.get());
  for (const Epilogue e : epilogues) {
    const Case first({9, 12, 8}, false, true, e), second({9, 12, 8}, false, true, e),
        odd({9, 12, 8}, false, true, e, 1);
    for (const Case* c : {&first, &second, &odd}) ASSERT_TRUE(gemm.multiply(c->product));
    wait();
    for (const Case* c : {&first, &second, &odd}) c->expect_right(name_of(e));
  }
  EXPECT_EQ(gemm.choices().size(), 2 * std::size(epilogues));
}

TEST_F(GemmTest, ARefusalIsToldOnceWithAllThatMatters) {
  struct Way {
    const char *variable, *value;
  };
  for (const Way& way :
       {Way{"ELBO_SIM_REFUSES", "all"}, Way{"ELBO_SIM_CUBLASLT", "nothing"}, Way{"ELBO_SIM_CUBLASLT", "unlaunched"}}) {
    const Setting setting(way.variable, way.value);
    Gemm gemm(Precision::tf32, stream_.get());
    for (const Epilogue e : epilogues) {
      const Case c({9, 12, 8}, false, true, e);
      if (e == Epilogue::none) {
        EXPECT_TRUE(gemm.multiply(c.product)) << "a plain product is always there";
        wait();
        continue;
      }
      testing::internal::CaptureStderr();
      for (int i = 0; i < 3; ++i) EXPECT_FALSE(gemm.multiply(c.product));
      const std::string told = testing::internal::GetCapturedStderr();
      expect_words(told, {"note: ", "[9, 8] x [12, 8]'", name_of(e), "tf32", "CUBLAS_STATUS_NOT_SUPPORTED"});
      EXPECT_EQ(std::ranges::count(told, '\n'), 1) << told;
      expect_words(choice_of(gemm.choices(), e).refusal, {"CUBLAS_STATUS_NOT_SUPPORTED"});
      wait();
      EXPECT_TRUE(std::isnan(c.result()[0])) << "something was queued";
    }
    EXPECT_EQ(choice_of(gemm.choices(), Epilogue::none).refusal, "");
  }
}

TEST_F(GemmTest, APlainProductThatIsRefusedIsAnError) {
  const Setting setting("ELBO_SIM_REFUSES", "plain");
  Gemm gemm(Precision::fp32, stream_.get());
  const Case c({9, 12, 8}, true, false, Epilogue::none);
  expect_words(error_of([&] { std::ignore = gemm.multiply(c.product); }),
               {"cuBLASLt has no algorithm", "[8, 9]' x [8, 12]", "default", "fp32", "CUBLAS_STATUS_NOT_SUPPORTED"});
}

TEST_F(GemmTest, AnObjectionIsAnErrorAndNoRefusal) {
  const Setting setting("ELBO_SIM_CUBLASLT", "invalid_value");
  Gemm gemm(Precision::tf32, stream_.get());
  const Case c({9, 12, 8}, false, true, Epilogue::bias);
  for (int i = 0; i < 2; ++i)
    expect_words(error_of([&] { std::ignore = gemm.multiply(c.product); }),
                 {"[9, 8] x [12, 8]'", "bias", "tf32", "cublasLtMatmulAlgoGetHeuristic", "CUBLAS_STATUS_INVALID_VALUE",
                  "--no-epilogues"});
  EXPECT_TRUE(gemm.choices().empty());
}

// The net itself: what a real library would answer with a fault of the GPU, or not at all.
TEST_F(GemmTest, TheStandInLooksAtTheMemoryThatItIsGiven) {
  Gemm gemm(Precision::fp32, stream_.get());
  const Case c({9, 12, 8}, false, true, Epilogue::relu_aux_bias);
  std::vector<float> host(1000);
  const auto refused = [&](const std::function<void(Product&)>& change, const char* why) {
    Product p = c.product;
    change(p);
    expect_words(error_of([&] { std::ignore = gemm.multiply(p); }), {"CUBLAS_STATUS_INVALID_VALUE", why});
  };
  refused([&](Product& p) { p.a = host.data(); }, "a matrix is not in the device's memory");
  refused([&](Product& p) { p.m = 64; }, "leaves its allocation");
  refused([&](Product& p) { p.bias = host.data(); }, "vector is not in the device's memory");
  refused([&](Product& p) { p.relu_mask = reinterpret_cast<std::uint8_t*>(host.data()); }, "mask is not");
}

TEST_F(GemmTest, ASplitProductIsTwoLaunchesAndSaysSo) {
  const Case c({9, 12, 8}, false, true, Epilogue::relu_aux_bias);
  Gemm gemm(Precision::fp32, stream_.get());
  EXPECT_EQ(nodes_of(gemm, c.product), 1u);
  const Setting setting("ELBO_SIM_CUBLASLT", "split");
  Gemm splitting(Precision::fp32, stream_.get());
  EXPECT_EQ(nodes_of(splitting, c.product), 2u);
  const ProductChoice choice = splitting.choices()[0];
  EXPECT_EQ(choice.algorithm.id, 7);
  EXPECT_EQ(choice.algorithm.split_k, 2);
  EXPECT_EQ(choice.algorithm.reduction_scheme, 2);
  EXPECT_EQ(choice.workspace_bytes, 2 * 9 * 12 * 4);
}

TEST_F(GemmTest, AChoiceIsToldInTheLibrarysNumbers) {
  Gemm gemm(Precision::fp32, stream_.get());
  const Case c({9, 12, 8}, false, true, Epilogue::bias);
  ASSERT_TRUE(gemm.multiply(c.product));
  const std::vector<ProductChoice> all = gemm.candidates(gemm.choices()[0].product, 32);
  const auto found = std::ranges::find(all, 66, [](const ProductChoice& p) { return p.algorithm.id; });
  ASSERT_NE(found, all.end());
  EXPECT_EQ(found->algorithm.tile, 18);
  EXPECT_EQ(found->algorithm.custom_option, 1);
  EXPECT_EQ(found->algorithm.inner_shape, 2);  // of 16 bits, like the next
  EXPECT_EQ(found->algorithm.cluster_shape, 3);
  EXPECT_EQ(found->waves, 0.25);
  EXPECT_FALSE(gemm.choices()[0].tuned);
  gemm.use(*found);
  EXPECT_TRUE(gemm.choices()[0].tuned);
  EXPECT_EQ(gemm.choices()[0].algorithm, found->algorithm);
  EXPECT_EQ(Gemm::library().substr(0, 9), "cuBLASLt ");
  wait();
}

// Two of the candidates have the same numbers, and do not do the same.
TEST_F(GemmTest, AnAlgorithmIsMoreThanItsNumbers) {
  Gemm gemm(Precision::fp32, stream_.get());
  const Case c({16, 16, 500}, false, true, Epilogue::none);
  ASSERT_TRUE(gemm.multiply(c.product));
  std::vector<std::vector<float>> results;
  std::vector<Algorithm> algorithms;
  for (const ProductChoice& choice : gemm.candidates(gemm.choices()[0].product, 32)) {
    if (choice.algorithm.id != 66) continue;
    Gemm other(Precision::fp32, stream_.get());  // as in a process that read it from a file
    other.use(choice);
    ASSERT_TRUE(other.multiply(c.product));
    wait();
    results.push_back(c.result());
    algorithms.push_back(choice.algorithm);
  }
  ASSERT_EQ(results.size(), 2u);
  EXPECT_NE(results[0], results[1]);
  algorithms[0].data = algorithms[1].data;
  EXPECT_EQ(algorithms[0], algorithms[1]);
}

TEST_F(GemmTest, AnAlgorithmThatDoesNotFitIsRefused) {
  Gemm gemm(Precision::fp32, stream_.get());
  const Case c({9, 12, 8}, false, true, Epilogue::bias);
  ASSERT_TRUE(gemm.multiply(c.product));
  wait();
  ProductChoice choice = gemm.candidates(gemm.choices()[0].product, 32)[1];
  ASSERT_EQ(choice.algorithm.id, 66);
  ProductChoice odd = choice;
  odd.product.k = 7;
  expect_words(error_of([&] { gemm.use(odd); }),
               {"[9, 7] x [12, 7]' bias", "does not take algorithm 66", "CUBLAS_STATUS_NOT_SUPPORTED"});
  ProductChoice other = choice;
  other.algorithm.tile = 3;
  expect_words(error_of([&] { gemm.use(other); }), {"[9, 8] x [12, 8]' bias", "not those of its numbers"});
  ProductChoice nothing = choice;
  nothing.algorithm = {};
  expect_words(error_of([&] { gemm.use(nothing); }), {"does not take algorithm 0", "CUBLAS_STATUS_INVALID_VALUE"});
  ProductChoice split = gemm.candidates(choice.product, 32).back();
  ASSERT_EQ(split.algorithm.id, 7);
  split.product.m = split.product.n = 4096;
  expect_words(error_of([&] { gemm.use(split); }), {"wants 134217728 bytes of workspace; there are 33554432"});
  EXPECT_FALSE(gemm.choices()[0].tuned);
}

TEST_F(GemmTest, TuningTakesTheFastestThatIsOneLaunch) {
  for (const char* behaviour : {"slow", "split"}) {
    const Setting setting("ELBO_SIM_CUBLASLT", behaviour);
    const bool slow = std::string(behaviour) == "slow";
    Gemm gemm(Precision::fp32, stream_.get());
    for (const Epilogue e : epilogues) {
      const Case c({8, 12, 16}, false, true, e), odd({8, 12, 16}, false, true, e, 1);
      ASSERT_TRUE(gemm.multiply(c.product));
      ASSERT_TRUE(gemm.multiply(odd.product));
      wait();
    }
    std::size_t told = 0;
    const std::vector<Tuning::Product> tuned =
        tune_products(gemm, stream_.get(), 1 << 12, 0, [&](const Tuning::Product&) { ++told; });
    EXPECT_EQ(tuned.size(), 2 * std::size(epilogues));
    EXPECT_EQ(told, tuned.size());
    for (const Tuning::Product& p : tuned) {
      EXPECT_EQ(p.choice.algorithm.split_k, 1);
      const bool aligned = p.choice.product.alignment[0] == 16;
      EXPECT_EQ(p.candidates, aligned ? 4 : 2) << "the split one does not count";
      if (slow) {
        EXPECT_EQ(p.choice.algorithm.id, aligned ? 66 : 21) << description_of(p.choice.product);
        EXPECT_TRUE(!aligned || p.own_microseconds > p.microseconds + 250) << p.own_microseconds;
      }
    }
    for (const ProductChoice& c : gemm.choices()) {
      const auto found = std::ranges::find(tuned, c.product, [](const Tuning::Product& p) { return p.choice.product; });
      ASSERT_NE(found, tuned.end());
      EXPECT_EQ(c.algorithm, found->choice.algorithm);
    }
    for (const Epilogue e : epilogues) {
      const Case c({8, 12, 16}, false, true, e);
      EXPECT_EQ(nodes_of(gemm, c.product), 1u);
      ASSERT_TRUE(gemm.multiply(c.product));
      wait();
      c.expect_right(cat("tuned ", name_of(e)));
    }
  }
}

TEST_F(GemmTest, WhatIsRefusedIsNotTuned) {
  const Setting setting("ELBO_SIM_REFUSES", "bias");
  Gemm gemm(Precision::fp32, stream_.get());
  const Case bias({8, 12, 16}, false, true, Epilogue::bias), plain({8, 12, 16}, false, true, Epilogue::none);
  EXPECT_FALSE(gemm.multiply(bias.product));
  EXPECT_TRUE(gemm.multiply(plain.product));
  const std::vector<Tuning::Product> tuned = tune_products(gemm, stream_.get(), 1 << 12, 0, nullptr);
  ASSERT_EQ(tuned.size(), 1u);
  EXPECT_EQ(tuned[0].choice.product.epilogue, Epilogue::none);
  wait();
}

// Whether that was the library's own choice or one of a tuning before.
TEST_F(GemmTest, AProductWithoutAnAlgorithmOfOneLaunchStaysAsItWas) {
  for (const bool tuned_before : {false, true}) {
    Gemm gemm(Precision::fp32, stream_.get());
    const Case c({8, 12, 16}, false, true, Epilogue::bias);
    ASSERT_TRUE(gemm.multiply(c.product));
    if (tuned_before) gemm.use(gemm.candidates(gemm.choices()[0].product, 32)[1]);
    const ProductChoice before = gemm.choices()[0];
    {
      const Setting setting("ELBO_SIM_CUBLASLT", "split_alone");
      EXPECT_TRUE(tune_products(gemm, stream_.get(), 1 << 12, 0, nullptr).empty());
    }
    const ProductChoice after = gemm.choices()[0];
    EXPECT_EQ(after.tuned, tuned_before);
    EXPECT_EQ(after.algorithm.id, tuned_before ? before.algorithm.id : 7) << "all that the library had to offer";
    EXPECT_EQ(after.algorithm == before.algorithm, tuned_before);
    wait();
  }
}

}  // namespace
}  // namespace elbo
