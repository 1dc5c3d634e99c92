// The CPU backend's threads: every index once, whoever takes it; and that they are good neighbours on a machine which
// has other work.
#include "cpu/team.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/limits.h"
#include "tests/errors.h"

namespace elbo {
namespace {

using namespace cpu;

using std::chrono::steady_clock;

double seconds_of(const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); }

// Of all threads of this process.
double processor_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
}

TEST(Team, DoesEveryIndexOnce) {
  for (const int threads : {1, 2, 3, 7}) {
    Team team(threads);
    EXPECT_EQ(team.threads(), threads);
    for (const std::int64_t n : {0, 1, 2, 3, 5, 8, 64, 1001}) {
      std::vector<std::atomic<int>> times(static_cast<std::size_t>(n));
      team.run(n, [&](std::int64_t i) { ++times[static_cast<std::size_t>(i)]; });
      for (std::int64_t i = 0; i < n; ++i)
        ASSERT_EQ(times[static_cast<std::size_t>(i)], 1) << i << " of " << n << ", " << threads << " threads";
    }
  }
}

TEST(Team, DoesPiecesThatAreWholeButForTheLast) {
  Team team(3);
  std::vector<int> owner(1000, -1);
  team.run_pieces(1000, 64, [&](std::int64_t begin, std::int64_t end) {
    EXPECT_EQ(begin % 64, 0);
    EXPECT_EQ(end, std::min<std::int64_t>(begin + 64, 1000));
    for (std::int64_t i = begin; i < end; ++i) owner[static_cast<std::size_t>(i)] = static_cast<int>(begin);
  });
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(owner[static_cast<std::size_t>(i)], i / 64 * 64);
}

// What one loop has written the next one reads, whichever threads did the two; with pauses in which they fall asleep.
TEST(Team, ALoopSeesAllOfTheOneBefore) {
  Team team(4);
  std::vector<std::int64_t> a(512, 0), b(512, 0);
  for (int round = 1; round <= 2000; ++round) {
    if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    team.run(512, [&](std::int64_t i) { a[static_cast<std::size_t>(i)] = b[static_cast<std::size_t>(511 - i)] + 1; });
    team.run(512,
             [&](std::int64_t i) { b[static_cast<std::size_t>(i)] = a[static_cast<std::size_t>((i + 129) % 512)]; });
  }
  for (const std::int64_t value : b) ASSERT_EQ(value, 2000);
}

// A thread that sleeps in the middle of its work is not waited for before the rest is done by the others.
TEST(Team, TakesOverWhatOthersHaveNotBegun) {
  Team team(2);
  std::vector<std::thread::id> by(16);
  const auto caller = std::this_thread::get_id();
  std::atomic<int> done_by_caller = 0;
  team.run(16, [&](std::int64_t i) {
    by[static_cast<std::size_t>(i)] = std::this_thread::get_id();
    if (by[static_cast<std::size_t>(i)] == caller) {
      ++done_by_caller;
      return;
    }
    // One index a block: the caller has eight, and takes the other seven while this one waits for it.
    const auto end = steady_clock::now() + std::chrono::seconds(20);
    while (done_by_caller < 15 && steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  EXPECT_GE(done_by_caller, 15);
}

TEST(Team, ThrowsWhatABodyHasThrown) {
  Team team(2);
  for (const std::int64_t bad : {0, 99}) {
    std::atomic<int> calls = 0;
    try {
      team.run(100, [&](std::int64_t i) {
        ++calls;
        if (i == bad) throw std::runtime_error("index " + std::to_string(i));
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& e) {
      EXPECT_EQ(e.what(), "index " + std::to_string(bad));
    }
    EXPECT_GE(calls, 93);  // a block, of at most 7 indices, ends with its failure
  }
  int sum = 0;
  team.run(1, [&](std::int64_t) { ++sum; });
  EXPECT_EQ(sum, 1);
}

TEST(Team, SleepsWhenThereIsNothingToDo) {
  Team team(3);
  std::atomic<int> calls = 0;
  team.run(100, [&](std::int64_t) { ++calls; });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = processor_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(processor_seconds() - before, 0.1) << "two threads that look out take 0.6 s of processor in 0.3";
  team.run(100, [&](std::int64_t) { ++calls; });
  EXPECT_EQ(calls, 200);
}

// Short loops, as a step has them, beside twice as many busy threads as there are cores: a fair share is then a third
// of the speed. A thread that spins at a barrier, while another waits for its core, makes each loop as long as a turn
// of the kernel's.
TEST(Team, IsNotHeldUpByABusyMachine) {
  const auto time_loops = [] {
    Team team(std::min(usable_cores(), 4));
    std::vector<float> values(64, 1.0f);
    const auto begin = steady_clock::now();
    for (int loop = 0; loop < 10000; ++loop)
      team.run(64, [&](std::int64_t i) {
        float& value = values[static_cast<std::size_t>(i)];
        for (int k = 0; k < 200; ++k) value = value * 0.99f + 0.5f;
      });
    return std::chrono::duration<double>(steady_clock::now() - begin).count();
  };
  const double alone = time_loops();
  std::atomic<bool> stop = false;
  std::vector<std::thread> busy;
  for (int i = 0; i < 2 * usable_cores(); ++i)
    busy.emplace_back([&] {
      while (!stop) continue;
    });
  const double beside = time_loops();
  stop = true;
  for (std::thread& thread : busy) thread.join();
  RecordProperty("alone", std::to_string(alone));
  RecordProperty("beside", std::to_string(beside));
  EXPECT_LT(beside, 15 * alone);
}

TEST(Team, RefusesWhatCannotBe) {
  test::expect_words(test::error_of([] { Team team(-1); }), {"-1 threads", "0 (one for each core)"});
}

}  // namespace
}  // namespace elbo
