// A line of metrics.jsonl and back.
#include "host/train/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "elbo/error.h"
#include "tests/errors.h"

namespace elbo {
namespace {

EpochMetrics example() {
  EpochMetrics m;
  m.epoch = 3;
  m.step = 1407;
  m.train = {-105.5, 106.0, 80.1, 25.4, {12.7, 12.7}};
  m.test = {-106.123456789012345, 107.0, 80.0, 26.1, {0.1, 26.0}};
  m.images_per_second = 51234.5;
  m.seconds = 1e-3;
  return m;
}

std::string error_of(const std::string& line) {
  try {
    parse_metrics(line);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, text.npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Metrics, ALineReadsBackTheSame) {
  const EpochMetrics m = example(), back = parse_metrics(to_json_line(m));
  EXPECT_EQ(back.epoch, m.epoch);
  EXPECT_EQ(back.step, m.step);
  EXPECT_EQ(back.train.objective, m.train.objective);
  EXPECT_EQ(back.train.reconstruction, m.train.reconstruction);
  EXPECT_EQ(back.train.unit_kl, m.train.unit_kl);
  EXPECT_EQ(back.test.elbo, m.test.elbo);
  EXPECT_EQ(back.test.kl, m.test.kl);
  EXPECT_EQ(back.images_per_second, m.images_per_second);
  EXPECT_EQ(back.seconds, m.seconds);
  EXPECT_EQ(to_json_line(back), to_json_line(m));
}

TEST(Metrics, IsOneLineWithReadableNames) {
  EXPECT_EQ(to_json_line(example()),
            R"({"epoch":3,"step":1407,)"
            R"("train":{"elbo":-105.5,"objective":106.0,"reconstruction":80.1,"kl":25.4,"unit_kl":[12.7,12.7]},)"
            R"("test":{"elbo":-106.12345678901235,"objective":107.0,"reconstruction":80.0,"kl":26.1,)"
            R"("unit_kl":[0.1,26.0]},"images_per_second":51234.5,"seconds":0.001})");
}

TEST(Metrics, WhatIsNotFiniteIsNullAndReadsBackAsNaN) {
  EpochMetrics m = example();
  m.train.elbo = std::numeric_limits<double>::quiet_NaN();
  m.test.kl = std::numeric_limits<double>::infinity();
  m.test.unit_kl[1] = -std::numeric_limits<double>::infinity();
  const std::string line = to_json_line(m);
  EXPECT_NE(line.find("\"elbo\":null"), line.npos);
  const EpochMetrics back = parse_metrics(line);
  EXPECT_TRUE(std::isnan(back.train.elbo));
  EXPECT_TRUE(std::isnan(back.test.kl));
  EXPECT_TRUE(std::isnan(back.test.unit_kl[1]));
  EXPECT_EQ(back.test.unit_kl[0], 0.1);
}

TEST(Metrics, AFieldOfALaterVersionIsPassedOver) {
  EXPECT_EQ(parse_metrics(replaced(to_json_line(example()), "{", R"({"later":[1],)")).epoch, 3);
}

TEST(Metrics, MistakesAreNamed) {
  const std::string line = to_json_line(example());
  EXPECT_TRUE(test::says(error_of(replaced(line, "\"step\":1407,", "")), "metrics: step: ... missing"));
  EXPECT_TRUE(test::says(error_of(replaced(line, "\"kl\":25.4,", "")), "metrics: train.kl: ... missing"));
  EXPECT_TRUE(test::says(error_of(replaced(line, "1407", "1.5")), "metrics: step: ... count ... 1.5"));
  EXPECT_TRUE(test::says(error_of(replaced(line, "1407", "-1")), "metrics: step: ... count ... -1"));
  EXPECT_TRUE(test::says(error_of(replaced(line, "1407", "null")), "metrics: step: ... count ... null"));
  EXPECT_TRUE(test::says(error_of(replaced(line, "51234.5", "\"fast\"")),
                         "metrics: images_per_second: ... number ... \"fast\""));
  EXPECT_TRUE(test::says(error_of(replaced(line, "[0.1,26.0]", "0.1")), "metrics: test.unit_kl: ... list ... 0.1"));
  EXPECT_TRUE(
      test::says(error_of(replaced(line, "[0.1,26.0]", "[true]")), "metrics: test.unit_kl: ... number ... true"));
  EXPECT_TRUE(test::says(error_of(R"({"epoch":1,"step":2,"train":7})"), "metrics: train: ... object ... 7"));
  EXPECT_TRUE(test::says(error_of("[]"), "metrics: epoch: ... missing"));
  EXPECT_TRUE(test::says(error_of("{\"epoch\": 1,"), "metrics:1:13: ... field name ... ends"));
  EXPECT_TRUE(test::says(error_of("{\"epoch\": 1, \"epoch\": 2}"), "metrics:1:14: epoch: ... twice ... 1"));
}

}  // namespace
}  // namespace elbo
