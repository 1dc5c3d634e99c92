// Runs the blocks of a kernel, their threads as fibers on one core.
//
// What it checks by itself: barriers and warp operations that not all threads reach, or that they reach
// at different places; loops that spin on an atomic for what cannot come. What it makes visible: shared memory is
// filled with 0xFF (a NaN) for each block; threads run in the order asked for, so that a missing barrier changes the
// result; to ThreadSanitizer each thread is a thread, ordered by barriers and fences alone; to AddressSanitizer a
// shared array ends where it ends.
//
// Blocks run one after another, or together: as many as have 1024 threads in all, 8 at most, the next as soon as one
// has ended. One gets ahead until an atomic operation on global memory (before it), a fence (after it) or a barrier
// that opens lets another go on, in the order asked for. A barrier among blocks that fit then works, and one among more
// than that is a fault.
//
// Blocks that run apart have each a view of the memory besides, as a multiprocessor's cache gives it. The others see a
// block's stores from its next fence on, whichever of its threads fences, or when the launch is over; not when the
// block ends. What others have published since it began, a block sees from its own next fence on. An atomic operation
// is done at once, in the memory that all share, and publishes nothing but its own place.
// So these are caught: a missing fence between a store and the atomic that tells of it; one between that atomic and
// the load of what it tells of; a plain increment where an atomic belongs. These are not: a load that a GPU does so
// late that it sees a store which comes after, as before an atomic that lets others overwrite it; loads and
// stores that pass the cache by, which are plain here (a volatile one may be stale); a store of the value that is there
// already. Late loads are ThreadSanitizer's business, to which a fence orders what threads do before and after it, and
// nothing else does between blocks. A launch may have 16 MiB of memory allocated to run so, and allocations besides
// that are larger by themselves, as the workspace of the products: of those all blocks see the same.
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

// The order in which ready threads, and blocks, run. `random` also holds back whole warps for a while, and of blocks
// that run together one, behind a fence, until no other can go on.
enum class Order : std::uint8_t { forward, reverse, random };

enum class Blocks : std::uint8_t { in_turn, together, apart };

struct Schedule {
  Order order = Order::forward;
  std::uint64_t seed = 1;
  Blocks blocks = Blocks::in_turn;
};

// From now on. Without one, ELBO_SIM_ORDER=forward|reverse|random[:seed] and ELBO_SIM_BLOCKS=in_turn|together|apart are
// read whenever work is queued.
void set_schedule(std::optional<Schedule>);
// Throws std::invalid_argument where one of them is another word.
Schedule schedule();
// The order of the last schedule() that was asked for.
Order order();

// What kernels do wrong from now on, to see that it is noticed.
struct Planted {
  unsigned without_fence = 0;  // each thread leaves out this one of its fences, counted from 1; 0: none
  bool plain_atomics = false;  // an atomic operation is a load and a store
};
void plant(const Planted&);

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

// A shared array is found by its declaration, of which each has one of these: where it was last found.
struct SharedArray {
  std::uint64_t block = 0;
  void* address = nullptr;
};
void* shared(SharedArray&, std::size_t bytes, std::size_t alignment);

enum class WarpOp : std::uint8_t { sync, shuffle, vote };
void block_barrier(const Place&);
// `lane` is the one whose value a shuffle returns. A vote returns the lanes whose value is not 0.
std::uint64_t warp_operation(WarpOp, unsigned mask, std::uint64_t value, unsigned lane, const Place&);
unsigned lane_id();

// Around an atomic operation that is one; `changed`: the memory.
bool begin_atomic(const void*, std::size_t bytes, const Place&);  // false: it is to be plain
void end_atomic(const void*, std::size_t bytes, bool changed);
bool begin_fence(const Place&);  // false: it is left out
void end_fence();

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
