// The formulas of include/elbo/math against frozen float64 vectors from PyTorch (tools/golden/make.py).
//
// Every input in the files is a float, so the float and the double templates start from the same number. An error
// is measured against the size of what the formula adds up, since that is what rounding scales with: KL and losses
// cancel near 0, slopes are differences from 1.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "elbo/math/activation.h"
#include "elbo/math/importance.h"
#include "elbo/math/latent.h"
#include "elbo/math/likelihood.h"
#include "elbo/math/optimizer.h"

namespace elbo {
namespace {

// One line of a table, by column name.
struct Row {
  std::map<std::string, std::string> cells;
  std::string where;

  const std::string& text(const std::string& name) const { return cells.at(name); }
  double operator[](const std::string& name) const { return std::stod(cells.at(name)); }
  Posterior posterior() const { return text("posterior") == "sigma" ? Posterior::sigma : Posterior::log_variance; }
};

std::vector<std::string> split(const std::string& line) {
  std::vector<std::string> cells;
  std::istringstream in(line);
  for (std::string cell; std::getline(in, cell, ',');) cells.push_back(cell);
  return cells;
}

std::vector<Row> read_table(const std::string& name) {
  const std::string path = "tests/golden/" + name + ".csv";
  std::ifstream in(path);
  std::string line;
  EXPECT_TRUE(std::getline(in, line)) << path << " cannot be read; run this test in the repository's root";
  const std::vector<std::string> header = split(line);
  std::vector<Row> rows;
  while (std::getline(in, line)) {
    const std::vector<std::string> cells = split(line);
    Row row{{}, path + ":" + std::to_string(rows.size() + 2)};
    for (std::size_t i = 0; i < header.size(); ++i) row.cells[header[i]] = cells.at(i);
    rows.push_back(row);
  }
  EXPECT_FALSE(rows.empty()) << path;
  return rows;
}

// double: libm against PyTorch's vector functions, a few ulp each and a few operations: far below 1e-12.
// float: exp, log and tanh are within 2 ulp (1 ulp is 1.2e-7 of a value at most), and up to four roundings follow.
template <class T>
constexpr double tolerance = 1e-12;
template <>
constexpr double tolerance<float> = 5e-7;

// What PyTorch's own loss loses to the rounding of 1 + e; float's exp stops far below it, at 2^-126.
constexpr double floor_of_errors = 4e-15;

template <class T>
void expect_close(T got, double expected, double scale, const Row& row, const char* what) {
  const double bound = tolerance<T> * std::max(scale, std::abs(expected));
  EXPECT_LE(std::abs(static_cast<double>(got) - expected), bound + floor_of_errors)
      << row.where << ": " << what << " is " << got << ", PyTorch says " << expected;
}

template <class T>
class Golden : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(Golden, Types);

TYPED_TEST(Golden, elementary) {
  using T = TypeParam;
  for (const Row& row : read_table("elementary")) {
    const std::string& name = row.text("function");
    const T x = static_cast<T>(row["x"]);
    const T got = name == "exp"    ? math::exp(x)
                  : name == "log"  ? math::log(x)
                  : name == "tanh" ? math::tanh(x)
                                   : math::sqrt(x);
    // "within 2 ulp" (elementary.h), no more
    const double ulps = 2.0 * std::numeric_limits<T>::epsilon();
    EXPECT_LE(std::abs(static_cast<double>(got) - row["value"]), ulps * std::abs(row["value"]))
        << row.where << ": " << name << "(" << x << ") is " << got;
  }
}

TYPED_TEST(Golden, activation) {
  using T = TypeParam;
  const std::map<std::string, Activation> kinds = {{"identity", Activation::identity},
                                                   {"relu", Activation::relu},
                                                   {"tanh", Activation::tanh},
                                                   {"softplus", Activation::softplus}};
  for (const Row& row : read_table("activation")) {
    const Activation kind = kinds.at(row.text("activation"));
    const T y = math::activate(kind, static_cast<T>(row["x"]));
    expect_close(y, row["y"], 0, row, "y");
    expect_close(math::activation_slope(kind, y), row["slope"], 1, row, "slope");
  }
}

TYPED_TEST(Golden, bernoulli) {
  using T = TypeParam;
  for (const Row& row : read_table("bernoulli")) {
    const T logit = static_cast<T>(row["logit"]), target = static_cast<T>(row["target"]);
    const double scale = std::abs(row["logit"]) * row["target"];
    const math::ValueGrad<T> got = math::bernoulli(logit, target);
    expect_close(got.value, row["value"], scale, row, "value");
    expect_close(got.grad, row["grad"], row["target"], row, "grad");

    const math::BernoulliParts<T> parts = math::bernoulli_parts(logit, target);
    // the rounding of factor = 1 + e is kept here: an error of half an ulp of 1
    expect_close(parts.linear + math::log(parts.factor), row["value"], std::max(scale, 1.0), row, "value of parts");
    EXPECT_EQ(parts.grad, got.grad) << row.where;
    EXPECT_TRUE(parts.factor >= T(1) && parts.factor <= T(2)) << row.where << ": factor is " << parts.factor;
  }
}

TYPED_TEST(Golden, gaussian) {
  using T = TypeParam;
  for (const Row& row : read_table("gaussian")) {
    const double variance = row["variance"], half_log = 0.5 * std::log(2.0 * M_PI * variance);
    const auto got = math::gaussian(static_cast<T>(row["mean"]), static_cast<T>(row["target"]),
                                    static_cast<T>(0.5 / variance), static_cast<T>(half_log));
    expect_close(got.value, row["value"], std::abs(row["value"] - half_log) + std::abs(half_log), row, "value");
    expect_close(got.grad, row["grad"], 0, row, "grad");
  }
}

template <PixelMean mean, class T>
void expect_learned(const Row& row) {
  const math::PixelOutput<T, 2> o{static_cast<T>(row["output"]), static_cast<T>(row["raw"])};
  const T x = static_cast<T>(row["target"]);
  const double m = mean == PixelMean::sigmoid ? 1 / (1 + std::exp(-row["output"])) : row["output"];
  // Besides the terms: t is rounded beside its size, and is an exponent; a mean is rounded beside 1 or its size.
  const double precision = 1 / row["variance"], d = std::abs(m - row["target"]), t = 12 + std::abs(row["raw"]);
  const double square = precision * d * (t * d + std::abs(m) + 1);
  const double value_scale = square + t, slope_scale = precision * (t * d + std::abs(m) + 1);
  const auto got = math::gaussian_learned<mean>(o, x);
  expect_close(got.value, row["value"], value_scale, row, "value");
  expect_close(got.grad.first, row["doutput"], slope_scale, row, "d output");
  expect_close(got.grad.second, row["draw"], std::abs(row["draw"]) * t + square, row, "d raw");

  const auto parts = math::gaussian_learned_parts<mean>(o, x);
  expect_close(parts.linear + math::log(parts.factor) / T(2), row["value"], value_scale, row, "value of parts");
  EXPECT_TRUE(parts.grad.first == got.grad.first && parts.grad.second == got.grad.second) << row.where;
}

TYPED_TEST(Golden, gaussian_learned) {
  using T = TypeParam;
  for (const Row& row : read_table("gaussian_learned"))
    row.text("mean") == "sigmoid" ? expect_learned<PixelMean::sigmoid, T>(row)
                                  : expect_learned<PixelMean::identity, T>(row);
}

TYPED_TEST(Golden, kl) {
  using T = TypeParam;
  for (const Row& row : read_table("kl")) {
    const T mu = static_cast<T>(row["mu"]), s = static_cast<T>(row["s"]);
    const double terms = std::abs(row["s"]) + row["mu"] * row["mu"] + 1.0;
    expect_close(math::gaussian_kl(row.posterior(), mu, s), row["value"], terms, row, "KL");
    const auto got = math::gaussian_kl_grad(row.posterior(), mu, s);
    expect_close(got.mu, row["dmu"], 0, row, "dKL/dmu");
    expect_close(got.s, row["ds"], 1, row, "dKL/ds");
  }
}

TYPED_TEST(Golden, sample) {
  using T = TypeParam;
  for (const Row& row : read_table("sample")) {
    const T s = static_cast<T>(row["s"]);
    expect_close(math::posterior_sigma(row.posterior(), s), row["sigma"], 0, row, "sigma");
    expect_close(math::sample_slope(row.posterior(), s, static_cast<T>(row["epsilon"])), row["slope"], 0, row, "dz/ds");
  }
}

TYPED_TEST(Golden, sampled_kl) {
  using T = TypeParam;
  for (const Row& row : read_table("sampled_kl")) {
    const T mu = static_cast<T>(row["mu"]), s = static_cast<T>(row["s"]), eps = static_cast<T>(row["epsilon"]);
    const T sigma = math::posterior_sigma(row.posterior(), s), z = math::sample(mu, sigma, eps);
    // z is rounded where mu and sigma eps nearly cancel, and squared.
    const double parts = row["mu"] * row["mu"] + std::pow(static_cast<double>(sigma * eps), 2);
    const double terms = parts + row["epsilon"] * row["epsilon"] + std::abs(row["s"]);
    expect_close(math::sampled_kl(row.posterior(), s, z, eps), row["value"], terms, row, "sampled KL");
    expect_close(z, row["dmu"], std::sqrt(parts), row, "its slope by mu");
    const T slope = math::sample_slope(row.posterior(), s, eps), beside = math::sampled_kl_slope(row.posterior(), s);
    const double scale =
        std::sqrt(parts) * std::abs(static_cast<double>(slope)) + std::abs(static_cast<double>(beside));
    expect_close(z * slope + beside, row["ds"], scale, row, "its slope by s");
  }
}

// In float alone: the operation takes floats.
TEST(GoldenRows, importance) {
  const std::vector<Row> all = read_table("importance");
  for (std::size_t begin = 0, end = 0; begin < all.size(); begin = end) {
    std::vector<double> log_weights;
    for (; end < all.size() && all[end].text("row") == all[begin].text("row"); ++end) {
      const auto nll = static_cast<float>(all[end]["nll"]);
      log_weights.push_back(math::log_weight(&nll, 1, static_cast<float>(all[end]["kl"])));
    }
    const double largest = *std::ranges::max_element(log_weights);
    float sum = 0;
    for (const double w : log_weights) sum += math::relative_weight(w, largest);
    const auto samples = static_cast<std::int64_t>(log_weights.size());
    expect_close(math::importance_loss(largest, sum, samples), all[begin]["loss"], 1, all[begin], "loss");
    for (std::size_t i = begin; i < end; ++i) {
      // The exponential's argument is a float: it errs by half an ulp of it.
      const double argument = log_weights[i - begin] - largest;
      const float share = math::relative_weight(log_weights[i - begin], largest) / sum;
      EXPECT_NEAR(static_cast<double>(share), all[i]["gradient"], (1e-6 - argument * 6e-8) * all[i]["gradient"] + 1e-38)
          << all[i].where;
    }
  }
}

TYPED_TEST(Golden, optimizer) {
  using T = TypeParam;
  const std::map<std::string, OptimizerType> types = {
      {"adam", OptimizerType::adam}, {"adagrad", OptimizerType::adagrad}, {"sgd", OptimizerType::sgd}};
  T parameter{}, first{}, second{};
  for (const Row& row : read_table("optimizer")) {
    const auto number = [&](const char* name) { return static_cast<float>(row[name]); };
    const math::OptimizerSettings settings{.type = types.at(row.text("type")),
                                           .learning_rate = number("learning_rate"),
                                           .beta1 = row["beta1"],
                                           .beta2 = row["beta2"],
                                           .epsilon = number("epsilon"),
                                           .momentum = number("momentum"),
                                           .weight_decay = number("weight_decay")};
    const double t = row["step"];
    if (t == 1) {
      parameter = T(0.75);
      first = second = T(0);
    }
    math::optimizer_update(parameter, static_cast<T>(row["gradient"]), first, second, settings,
                           static_cast<T>(math::adam_correction(settings.beta1, t)),
                           static_cast<T>(math::adam_correction(settings.beta2, t)));
    // float's error grows with the steps: each adds its roundings, the gradient's size is up to 30
    expect_close(parameter, row["parameter"], 1, row, "parameter");
    expect_close(first, row["first"], 1, row, "first");
    expect_close(second, row["second"], 0, row, "second");
  }
}

}  // namespace
}  // namespace elbo
