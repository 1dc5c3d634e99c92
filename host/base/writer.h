// Work for the disk, done by a thread of its own, so that nobody waits for an fsync.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace elbo {

// Jobs are done one after the other, in the order in which they were added; after one that has thrown, the others are
// dropped. A job may not touch a device: a device is used by one thread only.
class Writer {
 public:
  using Job = std::function<void()>;

  Writer();
  // Does what was added. Nobody hears of an error now: call finish() before.
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void add(Job);
  // Throws Error with what a job has thrown, if one has.
  void check();
  // Waits until nothing is left to do; then as check().
  void finish();

 private:
  void work();
  void check_locked() const;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;  // the first is under way
  bool closing_ = false;
  std::optional<std::string> error_;  // its text, and not the exception, whose memory two threads would share
  std::thread thread_;                // the last member: it uses the others
};

}  // namespace elbo
