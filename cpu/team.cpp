#include "cpu/team.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

#include "cpu/limits.h"
#include "elbo/error.h"

namespace elbo::cpu {
namespace {

constexpr std::int64_t blocks_a_share = 8;

// How long a thread polls before it sleeps: longer than the longest stretch of a step that only one thread works on,
// and shorter than a time slice of the kernel's scheduler (about 3 ms).
constexpr std::chrono::microseconds patience{200};

// What Member::left is beside a number of blocks.
constexpr std::uint32_t asleep = 1U << 31, ended = 1U << 30, blocks_mask = ended - 1;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Polls `condition` for as long as `patience`; returns whether it came true.
template <class Condition>
bool look_out_for(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + patience;
  do {
    for (int i = 0; i < 32; ++i) {
      if (condition()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return condition();
}

// Asks for time slices of 0.2 ms, where the scheduler's are 3 ms long. A thread's share of a busy core stays the same,
// but its turn comes sooner, and the team waits for it less long. Linux takes the hint from version 6.12 on.
void ask_for_short_turns() {
  struct {
    std::uint32_t size, policy;
    std::uint64_t flags;
    std::int32_t nice;
    std::uint32_t priority;
    std::uint64_t runtime, deadline, period;
  } attributes{};  // sched_setattr(2); the C library has no such call
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0 || attributes.policy != SCHED_OTHER) return;
  attributes.runtime = 200'000;  // ns
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace

Team::Team(int threads)
    : members_([&] {
        require(threads >= 0 && threads <= 1024, "device 'cpu': ", threads,
                " threads; expected 0 (one for each core) or 1 to 1024");
        return static_cast<std::size_t>(threads == 0 ? usable_cores() : threads);
      }()) {
  if (members_.size() > 1) ask_for_short_turns();  // the threads inherit it
  try {
    for (std::size_t i = 1; i < members_.size(); ++i) members_[i].thread = std::thread([this, i] { serve(i); });
  } catch (const std::system_error& e) {
    end();
    fail("device 'cpu': ", members_.size(), " threads cannot be had: ", e.code().message());
  } catch (...) {
    end();
    throw;
  }
}

Team::~Team() { end(); }

void Team::end() noexcept {
  for (Member& member : members_) {
    if (!member.thread.joinable()) continue;
    member.left = ended;
    member.left.notify_one();
    member.thread.join();
  }
}

std::int64_t Team::begin_of_share(std::size_t member) const {
  const auto threads = static_cast<std::int64_t>(members_.size());  // rounded up, so that the caller is not left out
  return (loop_.n * static_cast<std::int64_t>(member) + threads - 1) / threads;
}

std::uint32_t Team::blocks_of(std::size_t member) const {
  return static_cast<std::uint32_t>(std::min(blocks_a_share, begin_of_share(member + 1) - begin_of_share(member)));
}

void Team::share_out(const Loop& loop) {
  loop_ = loop;
  std::uint32_t blocks = 0;
  for (std::size_t i = 0; i < members_.size(); ++i) blocks += blocks_of(i);
  to_do_.store(blocks, std::memory_order_relaxed);
  // The caller's own share comes last: until then it has no time for it.
  for (std::size_t i = members_.size(); i-- > 0;) {
    const std::uint32_t share = blocks_of(i);
    if (share > 0 && members_[i].left.exchange(share, std::memory_order_release) == asleep)
      members_[i].left.notify_one();
  }
  work(0);
  wait_for_the_others();
  if (failed_.exchange(false)) std::rethrow_exception(std::exchange(error_, nullptr));
}

// Whoever has taken a block may read the loop: it is not done, and so not replaced, before that block is reported.
void Team::work(std::size_t member) {
  std::uint32_t done = 0;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    const std::size_t of = (member + i) % members_.size();
    std::atomic<std::uint32_t>& left = members_[of].left;
    for (std::uint32_t blocks = left.load(std::memory_order_relaxed); (blocks & blocks_mask) > 0;) {
      if (!left.compare_exchange_weak(blocks, blocks - 1, std::memory_order_acquire, std::memory_order_relaxed))
        continue;
      const std::int64_t first = begin_of_share(of), size = begin_of_share(of + 1) - first, count = blocks_of(of);
      const std::int64_t block = count - blocks;
      try {
        loop_.call(loop_.body, first + size * block / count, first + size * (block + 1) / count);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
      ++done;
      blocks = left.load(std::memory_order_relaxed);
    }
  }
  if (done > 0 && to_do_.fetch_sub(done, std::memory_order_acq_rel) == (done | asleep)) to_do_.notify_one();
}

void Team::wait_for_the_others() {
  if (look_out_for([&] { return to_do_.load(std::memory_order_acquire) == 0; })) return;
  std::uint32_t blocks = to_do_.fetch_or(asleep, std::memory_order_acq_rel) | asleep;
  while ((blocks & blocks_mask) > 0) {
    to_do_.wait(blocks, std::memory_order_acquire);
    blocks = to_do_.load(std::memory_order_acquire);
  }
}

void Team::serve(std::size_t member) {
  do work(member);
  while (await_work(member));
}

// False where the thread shall end.
bool Team::await_work(std::size_t member) {
  std::atomic<std::uint32_t>& left = members_[member].left;
  if (!look_out_for([&] { return left.load(std::memory_order_relaxed) != 0; })) {
    std::uint32_t none = 0;
    if (left.compare_exchange_strong(none, asleep, std::memory_order_acquire))
      while (left.load(std::memory_order_acquire) == asleep) left.wait(asleep, std::memory_order_acquire);
  }
  return left.load(std::memory_order_acquire) != ended;
}

}  // namespace elbo::cpu
