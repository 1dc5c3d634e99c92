// Fibers: stacks that one host thread switches between. The simulated device runs every CUDA thread on
// one. The sanitizers are told of each switch, so that to ThreadSanitizer every fiber is a thread of its own.
#pragma once
#include <cstddef>
#include <exception>
#include <functional>

namespace cusim {

struct Fiber {
  Fiber() = default;                // stands for the stack that the host thread runs on anyway
  explicit Fiber(void (*entry)());  // `entry` never returns; it starts at the first switch here
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  void* stack_pointer = nullptr;  // while suspended
  const void* stack = nullptr;    // lowest address
  std::size_t stack_size = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* identity = nullptr;    // ThreadSanitizer's
  bool owns_stack = false;
};

// Suspends `from`, which is running, and resumes `to`. Orders no memory accesses.
void switch_fiber(Fiber& from, Fiber& to);

// Makes a Fiber() stand for whoever runs now. To be called before switching away from it.
void adopt(Fiber&);

// For ThreadSanitizer: what happened before the release of an address is seen after its acquire.
void release(void* address);
void acquire(void* address);
// A release by a fiber that is suspended and will not be resumed.
void release_as(Fiber&, void* address);

// A fiber that works for others: to ThreadSanitizer, what a CUDA stream does is done by a thread of its own,
// whichever thread of the host called.
class Strand {
 public:
  Strand() : fiber_(main) {}
  // Runs `work` on the strand's stack; throws what it throws.
  void run(const std::function<void()>& work);

 private:
  static void main();
  Fiber fiber_;
  Fiber* caller_ = nullptr;
  const std::function<void()>* work_ = nullptr;
  std::exception_ptr error_;
};

}  // namespace cusim
