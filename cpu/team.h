// The threads of one CPU backend.
#pragma once
#include <cstdint>

namespace elbo {

class Team {
 public:
  // threads: 0 means one for each core this process may use (limits.h). Where there is a thread for each of those
  // cores, every thread but the caller is pinned to a core of its own; with fewer threads the kernel is
  // left free to keep them apart. OMP_PROC_BIND, if set, has the say instead.
  explicit Team(int threads);

  int threads() const { return threads_; }

  // body(i) for every i in [0, n), each thread a consecutive share. What body computes may depend on i
  // alone, so that a result never depends on the number of threads. Always the whole team: GNU's OpenMP
  // ends threads that a smaller team leaves out, and starting them again costs more than most loops.
  template <class Body>
  void run(std::int64_t n, Body&& body) const {
    if (threads_ == 1 || n == 1) {
      for (std::int64_t i = 0; i < n; ++i) body(i);
      return;
    }
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t i = 0; i < n; ++i) body(i);
  }

  // The same over [0, n) in pieces: body(begin, end).
  template <class Body>
  void run_pieces(std::int64_t n, std::int64_t piece, Body&& body) const {
    run((n + piece - 1) / piece, [&](std::int64_t i) {
      const std::int64_t begin = i * piece, end = begin + piece;
      body(begin, end < n ? end : n);
    });
  }

 private:
  int threads_;
};

}  // namespace elbo
