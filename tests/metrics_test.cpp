// The figures of an epoch: made of the losses' sums, as a line of metrics.jsonl and back, as lines for people.
#include "host/train/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "elbo/error.h"
#include "host/train/epoch_text.h"
#include "host/train/trainer.h"
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

TEST(Sums, AreThoseOfTheLossesOfABound) {
  Graph graph("a bound");
  const RowLoss nll{graph.make({6, 2}), 3, 2}, kl{graph.make({1, 4}), 3};
  const auto said = [](const Bound& bound) { return test::error_of([&] { sums_of(bound); }); };
  Bound bound{mean(nll) + 0.5 * (mean(kl) + mean(nll)),
              {{.name = "unit_kl", .loss = kl, .by_column = true}, {.name = "seen", .loss = {graph.make({3}), 3}}}};
  EXPECT_TRUE(test::says(said(bound), "one loss named reconstruction"));
  Bound without = bound;
  without.parts.push_back({.name = "reconstruction", .loss = {graph.make({3}), 3}});
  EXPECT_TRUE(test::says(said(without), "leave out one that is minimised"));
  bound.parts.push_back({.name = "reconstruction", .loss = nll});
  const std::vector<LossSums> sums = sums_of(bound);
  ASSERT_EQ(sums.size(), 3u);
  EXPECT_EQ(sums[0].count, 4);
  EXPECT_EQ(sums[0].factor, 0.5);
  EXPECT_EQ(sums[1].factor, 0.0);
  EXPECT_EQ(sums[2].name, "reconstruction");
  EXPECT_EQ(sums[2].count, 1);
  EXPECT_EQ(sums[2].factor, 1.5);
  for (const char* name : {"seen", "kl", "elbo"}) {
    Bound twice = bound;
    twice.parts.push_back({.name = name, .loss = bound.parts[1].loss});
    EXPECT_TRUE(test::says(said(twice), cat("loss ", name, " has the name of another figure")));
  }
  for (const char* name : {"a", "b"}) bound.parts.push_back({.name = name, .loss = bound.parts[1].loss});
  EXPECT_TRUE(test::says(said(bound), "5 losses ... at most 4"));
}

TEST(Figures, AreMadeOfTheSumsOfNamedLosses) {
  const std::vector<LossSums> losses = {
      {"reconstruction", 1, 1.0}, {"norm", 2, 0.0}, {"unit_kl", 3, 0.5}, {"iwae", 1, 0.25}};
  const Figures f = make_figures({4, 400, 2, 6, 8, 12, 20, 320}, losses);
  EXPECT_EQ(f.reconstruction, 100);
  EXPECT_EQ(f.unit_kl, (std::vector<double>{2, 3, 5}));
  EXPECT_EQ(f.kl, 10);
  EXPECT_EQ(f.elbo, -110);
  EXPECT_EQ(f.objective, 100 + 0.5 * 10 + 0.25 * 80);
  EXPECT_EQ(f.further.size(), 2u);
  EXPECT_EQ(f.further_named("norm"), 2);
  EXPECT_EQ(f.further_named("iwae"), -80) << "a bound is the negative of its loss";
  EXPECT_TRUE(std::isnan(f.further_named("elbo")));
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

TEST(Metrics, FurtherFiguresComeBehindByTheirNames) {
  EpochMetrics m = example();
  m.train.further = {{"iwae", 104.25}, {"a \"b\"", -1.5}};
  m.test.further = {{"iwae", 105.5}, {"a \"b\"", std::numeric_limits<double>::infinity()}};
  const std::string line = to_json_line(m);
  EXPECT_NE(line.find(R"("unit_kl":[12.7,12.7],"iwae":104.25,"a \"b\"":-1.5},"test")"), line.npos) << line;
  const EpochMetrics back = parse_metrics(line);
  EXPECT_EQ(back.train.further.size(), 2u);
  EXPECT_EQ(back.train.further_named("iwae"), 104.25);
  EXPECT_EQ(back.train.further_named("a \"b\""), -1.5);
  EXPECT_EQ(back.test.further_named("iwae"), 105.5);
  EXPECT_TRUE(std::isnan(back.test.further_named("a \"b\"")));
  EXPECT_EQ(to_json_line(back), line);
}

TEST(Metrics, AFieldOfALaterVersionIsPassedOver) {
  EXPECT_EQ(parse_metrics(replaced(to_json_line(example()), "{", R"({"later":[1],)")).epoch, 3);
  const EpochMetrics m = parse_metrics(replaced(to_json_line(example()), R"("unit_kl")", R"("word":"x","unit_kl")"));
  EXPECT_TRUE(m.train.further.empty());
}

TEST(EpochText, HasAColumnForEachFurtherFigure) {
  EpochMetrics m = example();
  EXPECT_EQ(epoch_head(m.test, 5), "              train ELBO    test ELBO reconstruction        KL  images/s\n");
  EXPECT_EQ(epoch_line(m, 5), "epoch   3/5     -105.500     -106.123         80.000    26.100     51234\n");
  EXPECT_EQ(parts_text(m.test), "reconstruction 80.000, KL 26.100");
  m.test.further = {{"iwae", 104.25}, {"a_long_name", 1.25e7}};
  EXPECT_EQ(epoch_head(m.test, 5),
            "              train ELBO    test ELBO reconstruction        KL      iwae  a_long_name  images/s\n");
  EXPECT_EQ(epoch_line(m, 5),
            "epoch   3/5     -105.500     -106.123         80.000    26.100   104.250     1.25e+07     51234\n");
  EXPECT_EQ(parts_text(m.test), "reconstruction 80.000, KL 26.100, iwae 104.250, a_long_name 12500000.000");
  m.test.kl = -123456.789;
  m.test.further = {{"iwae", -654321.125}};
  EXPECT_EQ(epoch_line(m, 5),
            "epoch   3/5     -105.500     -106.123         80.000 -123456.789 -654321.125     51234\n");
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
  EXPECT_TRUE(test::says(error_of(replaced(line, "\"kl\":25.4,", "\"kl\":25.4,\"iwae\":\"high\",")),
                         "metrics: train.iwae: ... number ... \"high\""));
  EXPECT_TRUE(test::says(error_of(R"({"epoch":1,"step":2,"train":7})"), "metrics: train: ... object ... 7"));
  EXPECT_TRUE(test::says(error_of("[]"), "metrics: epoch: ... missing"));
  EXPECT_TRUE(test::says(error_of("{\"epoch\": 1,"), "metrics:1:13: ... field name ... ends"));
  EXPECT_TRUE(test::says(error_of("{\"epoch\": 1, \"epoch\": 2}"), "metrics:1:14: epoch: ... twice ... 1"));
}

}  // namespace
}  // namespace elbo
