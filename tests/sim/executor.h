// Runs the blocks of a kernel one after another, their threads as fibers on one core.
//
// What it checks by itself: barriers and warp operations that not all threads reach, or that they reach
// at different places. What it makes visible: shared memory is filled with 0xFF (a NaN) for each block;
// threads run in the order asked for, so that a missing barrier changes the result; to
// ThreadSanitizer each thread is a thread, ordered by barriers alone; to AddressSanitizer a shared array
// ends where it ends.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <source_location>
#include <stdexcept>
#include <tuple>
#include <type_traits>

#include "tests/sim/vectors.h"

namespace cusim {

// A kernel did what would fail, hang or be undefined on a GPU. Says where: block, thread, file and line.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The order in which ready threads, and blocks, run. `random` also holds back whole warps for a while.
enum class Order : std::uint8_t { forward, reverse, random };

struct Schedule {
  Order order = Order::forward;
  std::uint64_t seed = 1;
};

// From now on. Without one, ELBO_SIM_ORDER=forward|reverse|random[:seed] is read whenever work is queued.
void set_schedule(std::optional<Schedule>);
// Throws std::invalid_argument where ELBO_SIM_ORDER is another word.
Schedule schedule();
// The order of the last schedule() that was asked for.
Order order();

// The next number of the generator that random orders are drawn from.
std::uint64_t draw();

// ---- What a running thread sees ------------------------------------------------------------------------

struct Here {
  const uint3* thread = nullptr;
  uint3 block{};
  dim3 block_size, grid_size;
};
extern Here here;

using Place = std::source_location;

// A shared array is found by its declaration, of which each has one of these.
struct SharedArray {
  std::uint64_t block = 0;  // the one that `address` belongs to
  void* address = nullptr;
};
void* shared(SharedArray&, std::size_t bytes, std::size_t alignment);

enum class WarpOp : std::uint8_t { sync, shuffle, vote };
void block_barrier(const Place&);
// `lane` is the one whose value a shuffle returns. A vote returns the lanes whose value is not 0.
std::uint64_t warp_operation(WarpOp, unsigned mask, std::uint64_t value, unsigned lane, const Place&);
unsigned lane_id();

template <class T>
T shuffle(unsigned mask, T value, unsigned lane, const Place& place) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = warp_operation(WarpOp::shuffle, mask, bits, lane, place);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// ---- Running a grid -------------------------------------------------------------------------------------

// Calls `thread(data)` once for each thread. Throws Fault.
void run_grid(unsigned blocks, unsigned threads, void (*thread)(const void* data), const void* data);

template <class... P>
void run_grid(unsigned blocks, unsigned threads, void (*kernel)(P...), const std::tuple<P...>& parameters) {
  const std::tuple<void (*)(P...), const std::tuple<P...>&> call{kernel, parameters};
  run_grid(
      blocks, threads,
      [](const void* data) {
        const auto& [f, p] = *static_cast<decltype(&call)>(data);
        std::apply(f, p);
      },
      &call);
}

}  // namespace cusim
