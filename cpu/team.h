// The threads of one CPU backend.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <type_traits>
#include <vector>

namespace elbo::cpu {

// A loop's indices are shared out among the caller and the threads that the team keeps. Each thread has a consecutive
// share, so that its caches still hold what it left there in the loop before. It takes its share block by block, then
// blocks of the shares that others have not come to: nobody waits for a thread that the machine has given to another
// process, unless it stopped in the middle of a block. A thread without work polls for a while, since the next loop
// comes sooner than a sleeping thread wakes. Then it sleeps, since others may want the core.
class Team {
 public:
  // threads: 0 means one for each core this process may use (limits.h). Throws Error where they cannot be had.
  // With more threads than one the caller's time slices become shorter, too (team.cpp).
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return static_cast<int>(members_.size()); }

  // body(i) for every i in [0, n). What body computes may depend on i alone, so that a result never depends on which
  // thread does what. Throws what a body has thrown, when all others are done. By one caller at a time, and not from
  // within a body.
  template <class Body>
  void run(std::int64_t n, Body&& body) {
    if (threads() == 1 || n == 1) {
      for (std::int64_t i = 0; i < n; ++i) body(i);
    } else if (n > 0) {
      share_out({[](const void* of, std::int64_t begin, std::int64_t end) {
                   auto& call = *static_cast<std::remove_reference_t<Body>*>(const_cast<void*>(of));
                   for (std::int64_t i = begin; i < end; ++i) call(i);
                 },
                 &body, n});
    }
  }

  // The same over [0, n) in pieces: body(begin, end).
  template <class Body>
  void run_pieces(std::int64_t n, std::int64_t piece, Body&& body) {
    run((n + piece - 1) / piece, [&](std::int64_t i) {
      const std::int64_t begin = i * piece, end = begin + piece;
      body(begin, end < n ? end : n);
    });
  }

 private:
  struct Loop {
    void (*call)(const void* body, std::int64_t begin, std::int64_t end) = nullptr;
    const void* body = nullptr;
    std::int64_t n = 0;
  };
  // `left`: blocks of the member's share that nobody has taken; or that its thread sleeps; or that it shall end.
  struct alignas(64) Member {
    std::atomic<std::uint32_t> left = 0;
    std::thread thread;  // none: the caller
  };

  void share_out(const Loop&);
  std::int64_t begin_of_share(std::size_t member) const;
  std::uint32_t blocks_of(std::size_t member) const;
  void work(std::size_t member);
  void wait_for_the_others();
  bool await_work(std::size_t member);
  void serve(std::size_t member);
  void end() noexcept;

  std::vector<Member> members_;
  Loop loop_;  // read only by those who have taken a block of it, which keeps it in place
  std::atomic<bool> failed_ = false;
  std::exception_ptr error_;                          // the first one's who failed
  alignas(64) std::atomic<std::uint32_t> to_do_ = 0;  // blocks of the loop that are not done
};

}  // namespace elbo::cpu
