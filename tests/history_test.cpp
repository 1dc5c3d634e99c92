// metrics.jsonl against a checkpoint, when a run goes on.
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "host/base/files.h"
#include "host/train/run_folder.h"
#include "tests/errors.h"
#include "tests/temporary_folder.h"

namespace elbo {
namespace {

using test::error_of;
using test::TemporaryFolder;

constexpr std::int64_t steps_per_epoch = 20;
constexpr double no_best = -std::numeric_limits<double>::infinity();

// Test ELBOs of epochs 1, 2, ...: the third is the best of the first four.
double elbo_of(std::int64_t epoch) { return epoch == 3 ? -90.125 : -100.1 + 0.1 * static_cast<double>(epoch); }

std::string line(std::int64_t epoch, std::int64_t step) {
  EpochMetrics m;
  m.epoch = epoch;
  m.step = step;
  m.test.elbo = elbo_of(epoch);
  return to_json_line(m);
}
std::string line(std::int64_t epoch) { return line(epoch, epoch * steps_per_epoch); }

// The epochs read, or the Error; `notes` gets what is noted.
std::string read(const std::vector<std::string>& lines, std::int64_t step, double best, std::string* notes = nullptr) {
  const TemporaryFolder folder;
  std::string text;
  for (const std::string& l : lines) text += l + "\n";
  replace_file(metrics_path(folder.path()), text);
  std::string epochs;
  testing::internal::CaptureStderr();
  const std::string error = error_of([&] {
    for (const EpochMetrics& m : read_history(folder.path(), {step, steps_per_epoch, best}))
      epochs += std::to_string(m.epoch) + " ";
  });
  const std::string noted = testing::internal::GetCapturedStderr();
  if (notes) *notes = noted;
  if (error.empty()) return epochs;
  EXPECT_EQ(noted, "");
  return error.starts_with(metrics_path(folder.path())) ? error.substr(metrics_path(folder.path()).size()) : error;
}

TEST(History, WhatTheCheckpointHasBehindItIsRead) {
  const std::vector<std::string> three = {line(1), line(2), line(3)};
  EXPECT_EQ(read({}, 0, no_best), "");
  EXPECT_EQ(read({}, 19, no_best), "") << "within the first epoch";
  EXPECT_EQ(read(three, 60, elbo_of(3)), "1 2 3 ");
  EXPECT_EQ(read({line(1), "", line(2)}, 40, elbo_of(2)), "1 2 ");
}

// A run was killed, or the power was cut, after its last checkpoint.
TEST(History, WhatFollowsIsDropped) {
  const std::vector<std::string> three = {line(1), line(2), line(3)};
  std::string notes;
  EXPECT_EQ(read(three, 0, no_best, &notes), "");
  EXPECT_EQ(read(three, 40, elbo_of(2), &notes), "1 2 ");
  EXPECT_EQ(read(three, 59, elbo_of(2), &notes), "1 2 ");
  EXPECT_EQ(read({line(1), std::string(3, '\0'), line(3)}, 20, elbo_of(1), &notes), "1 ");
  EXPECT_EQ(read({line(1), line(3), line(3, 7), "{\"epoch\":4,\"st"}, 20, elbo_of(1), &notes), "1 ");
  EXPECT_EQ(notes, "");
}

TEST(History, WhatIsWrongIsSaid) {
  const std::string one = line(1), two = line(2), three = line(3);
  const auto refused = [](const std::vector<std::string>& lines, const std::string& what, std::int64_t step = 60,
                          double best = elbo_of(3)) {
    const std::string error = read(lines, step, best);
    EXPECT_TRUE(test::says(error, what + " ... earlier checkpoint ... moved away"));
  };
  refused({one, three}, ":2: epoch 3 ... epoch 1 ... epochs 1 to 3 ... checkpoint of step 60");
  refused({one, two}, ":2: ... last ... epoch 2");
  refused({one, two, two, three}, ":3: epoch 2 ... epoch 2");
  refused({one, two, three, two}, ":4: epoch 2 ... epoch 3");
  refused({two, one, three}, ":2: epoch 1 ... epoch 2");
  refused({one, three, two}, ":2: epoch 3 ... epoch 1");
  refused({one, line(5)}, ":2: epoch 5 ... epoch 1");
  refused({one, line(2, 41), three}, ":2: epoch 2 ... step 41 ... 20");
  refused({line(0), one, two, three}, ":1: epoch 0 ... step 0");
  refused({one, "{}", three}, ":2: ... epoch: missing");
  refused({one, two, three.substr(0, 30)}, ":3: metrics:1:");
  refused({"\1", two, three}, ":1: metrics:1:1");
  refused({one, two, three}, ":3: ... best test.elbo ... -90.125 ... -90 ... checkpoint", 60, -90);
  refused({one, two, line(4, 60)}, ":3: epoch 4");
  refused({two, three}, ":2: ... best test.elbo ... -90.125 ... -95 ... checkpoint", 60, -95);
}

std::string weighted(std::int64_t epoch) {
  EpochMetrics m;
  m.epoch = epoch;
  m.step = epoch * steps_per_epoch;
  m.test.elbo = elbo_of(epoch);
  m.test.further = {{"iwae", -80 + static_cast<double>(epoch % 2)}};
  return to_json_line(m);
}

TEST(History, EpochsOfDifferentRunsAreNotCompared) {
  EXPECT_TRUE(test::says(read({weighted(1), line(2)}, 40, -79), ":2: epoch 2 ... test.elbo ... epoch 1 test.iwae"));
  EXPECT_TRUE(test::says(read({line(1), weighted(2)}, 40, -79), ":2: epoch 2 ... test.iwae ... epoch 1 test.elbo"));
  EpochMetrics wide = parse_metrics(line(2));
  wide.test.unit_kl = {0.5, 0.25};
  EXPECT_TRUE(test::says(read({line(1), to_json_line(wide)}, 40, elbo_of(2)), ":2: ... unit_kl ... 2 ... 0"));
}

// Where the importance-weighted bound was maximised, it is by that bound that the best epoch is one.
TEST(History, TheBestIsTheBestByTheBoundThatWasMaximised) {
  const std::vector<std::string> two = {weighted(1), weighted(2)};
  EXPECT_EQ(read(two, 40, -79), "1 2 ");
  test::expect_words(read(two, 40, elbo_of(2)), {"best test.iwae", "-79"});
}

// A run goes on from a checkpoint of another folder, or somebody moved the file away.
TEST(History, TheFirstEpochsMayBeMissingAndThatIsSaid) {
  std::string notes;
  EXPECT_EQ(read({line(3), line(4)}, 80, elbo_of(3), &notes), "3 4 ");
  test::expect_words(notes, {"metrics.jsonl: ", "epochs 1 to 2 "});
  EXPECT_EQ(read({line(2)}, 40, -1, &notes), "2 ") << "the best may be one of the missing";
  test::expect_words(notes, {"metrics.jsonl: ", "epoch 1 "});
  EXPECT_EQ(read({}, 60, elbo_of(3), &notes), "");
  test::expect_words(notes, {"metrics.jsonl: ", "epochs 1 to 3 "});
  EXPECT_EQ(read({line(4)}, 60, elbo_of(3), &notes), "");
  test::expect_words(notes, {"metrics.jsonl: ", "epochs 1 to 3 "});
}

}  // namespace
}  // namespace elbo
