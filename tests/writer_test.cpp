// The thread that writes while others work; ThreadSanitizer sees this one, too.
#include "host/base/writer.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <future>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "tests/errors.h"

namespace elbo {
namespace {

using test::error_of;

TEST(Writer, DoesEverythingInOrderInAThreadOfItsOwn) {
  std::vector<int> done;
  std::vector<std::thread::id> threads;
  Writer writer;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 100; ++i)
      writer.add([&, i] {
        done.push_back(i);
        threads.push_back(std::this_thread::get_id());
      });
    writer.finish();
    ASSERT_EQ(done.size(), 100u * static_cast<unsigned>(round + 1));
  }
  for (std::size_t i = 0; i < done.size(); ++i) EXPECT_EQ(done[i], static_cast<int>(i % 100));
  for (const std::thread::id id : threads) {
    EXPECT_EQ(id, threads[0]);
    EXPECT_NE(id, std::this_thread::get_id());
  }
}

TEST(Writer, AddingAndCheckingDoNotWait) {
  std::promise<void> go;
  bool done = false;
  Writer writer;
  writer.add([&, may_go = go.get_future().share()] {
    may_go.wait();
    done = true;
  });
  writer.add([] {});
  writer.check();  // the first job is under way all the while
  go.set_value();
  writer.finish();
  EXPECT_TRUE(done);
}

TEST(Writer, AfterAnErrorNothingMoreIsDoneAndItIsToldEachTime) {
  bool more = false;
  std::promise<void> go;
  Writer writer;
  writer.add([may_go = go.get_future().share()] {
    may_go.wait();
    fail("the disk is full");
  });
  writer.add([&] { more = true; });  // was waiting when the error came
  go.set_value();
  while (error_of([&] { writer.check(); }).empty()) std::this_thread::yield();  // as one that trains meanwhile
  EXPECT_EQ(error_of([&] { writer.finish(); }), "the disk is full");
  writer.add([&] { more = true; });  // came later
  EXPECT_EQ(error_of([&] { writer.check(); }), "the disk is full");
  EXPECT_EQ(error_of([&] { writer.finish(); }), "the disk is full");
  EXPECT_FALSE(more);

  Writer other;
  other.add([] { throw std::bad_alloc(); });
  EXPECT_EQ(error_of([&] { other.finish(); }), std::bad_alloc().what()) << "not only our own";
}

TEST(Writer, ItsEndDoesWhatWasAdded) {
  int done = 0;
  {
    Writer writer;
    writer.add([] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); });  // the end has come by then
    for (int i = 0; i < 10; ++i) writer.add([&] { ++done; });
  }
  EXPECT_EQ(done, 10);
}

TEST(Writer, WhatAJobHoldsIsFreedWhenAllIsDone) {
  auto large = std::make_shared<std::string>("a checkpoint");
  const std::weak_ptr<std::string> left = large;
  Writer writer;
  writer.add([large = std::move(large)] {});
  writer.finish();
  EXPECT_TRUE(left.expired());
}

// They would end a write early (EINTR), and they are for the thread that trains.
TEST(Writer, SignalsAreForTheOtherThreads) {
  const auto is_blocked = [](int number) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    return sigismember(&mask, number) == 1;
  };
  bool there = false;
  Writer writer;
  writer.add([&] { there = is_blocked(SIGINT) && is_blocked(SIGTERM) && is_blocked(SIGHUP); });
  writer.finish();
  EXPECT_TRUE(there);
  EXPECT_FALSE(is_blocked(SIGINT));
}

}  // namespace
}  // namespace elbo
