// What a device tells of the time that its work took.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace elbo {

// What the device took for the calls in a range, from the end of what was queued before it.
struct RangeTime {
  std::string path;  // "train_step/encode/dense0/dense_forward"
  double start = 0;  // microseconds since the first range began
  double microseconds = 0;
  bool innermost = true;  // no other range is in it
};

// A kernel, copy or fill as the device itself ran it, replayed or not.
struct Activity {
  std::string kind;    // "kernel", "copy", "fill"
  std::string name;    // of the kernel, without its templates' and its own arguments; or "copy host to device"
  std::string stream;  // "elbo compute", "elbo copy"; "stream 7" where it has no name
  double start = 0;    // microseconds since the first of those that take_activities() returned began
  double microseconds = 0;
  std::array<std::int64_t, 3> grid{}, block{};  // of a kernel: blocks, and threads in each
  std::int64_t registers = 0;                   // of a thread
  std::int64_t shared_bytes = 0;                // of a block, static and dynamic
  std::int64_t bytes = 0;                       // that were copied or filled
  std::uint64_t graph_node = 0;                 // of a CUDA graph; 0: it was not replayed
};

// Marks moments in the queue of work, numbered from 0; once the work is done, tells the time between two of them.
class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  virtual void mark() = 0;
  virtual double microseconds(std::size_t from, std::size_t to) = 0;
};

}  // namespace elbo
