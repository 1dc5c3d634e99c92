#include "host/base/writer.h"

#include <pthread.h>
#include <signal.h>

#include <exception>
#include <system_error>
#include <utility>

#include "elbo/error.h"

namespace elbo {
namespace {

// Signals of the process are for its other threads: none may cut short what is being written.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace

Writer::Writer() {
  const BlockSignals blocked;  // a thread begins with the mask of its maker
  try {
    thread_ = std::thread([this] { work(); });
  } catch (const std::system_error& e) {
    fail("no thread can be started to write files: ", e.code().message());
  }
}

Writer::~Writer() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Writer::add(Job job) {
  {
    const std::lock_guard lock(mutex_);
    if (error_) return;
    jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
}

void Writer::check() {
  const std::lock_guard lock(mutex_);
  check_locked();
}

void Writer::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return jobs_.empty(); });
  check_locked();
}

void Writer::check_locked() const {
  if (error_) throw Error(*error_);
}

void Writer::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return closing_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    Job job = std::move(jobs_.front());
    lock.unlock();
    std::optional<std::string> error;
    try {
      job();
    } catch (const std::exception& e) {
      error = e.what();
    }
    job = nullptr;  // frees what it holds while nobody has to wait for that
    lock.lock();
    jobs_.pop_front();
    if (error) {
      error_ = std::move(error);
      jobs_.clear();
    }
    changed_.notify_all();
  }
}

}  // namespace elbo
