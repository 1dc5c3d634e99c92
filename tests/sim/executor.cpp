// Built, like fiber.cpp, without ThreadSanitizer's instrumentation. What runs on a thread's fiber here uses
// plain arrays: it would see a container allocate, and take that for the thread's doing.
#include "tests/sim/executor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace cusim {

Here here;

namespace {

constexpr unsigned max_threads = 1024, warp = 32, max_fibers = 2 * max_threads;
constexpr std::size_t max_shared = 48 << 10;  // of a block, without asking for more at the launch
constexpr std::size_t arena_bytes = 256 << 10, red_zone = 64;

enum class State : std::uint8_t { ready, at_barrier, in_warp_operation, done };

struct Thread {
  uint3 index{};
  unsigned number = 0;
  State state = State::ready;
  Fiber* fiber = nullptr;  // null: not started
  Place place;             // of the barrier or warp operation that it reached last
  WarpOp operation{};
  unsigned mask = 0, lane = 0;
  std::uint64_t value = 0, result = 0;
};

struct Warp {
  unsigned waiting = 0;  // lanes in a warp operation
  unsigned phase = 0;
  std::uint64_t synced[64]{};  // addresses that stand for its __syncwarp, in turn
};

std::string text_of(const Place& p) { return std::string(p.file_name()) + ":" + std::to_string(p.line()); }

std::optional<Schedule> chosen;
std::string environment;  // ELBO_SIM_ORDER, as last parsed
Schedule from_environment;
Order order_now = Order::forward;
std::uint64_t generator = 1;

class Executor {
 public:
  Executor();
  void run_grid(unsigned blocks, unsigned threads, void (*thread)(const void*), const void* data);

  void* shared(SharedArray&, std::size_t bytes, std::size_t alignment);
  void block_barrier(const Place&);
  std::uint64_t warp_operation(WarpOp, unsigned mask, std::uint64_t value, unsigned lane, const Place&);
  unsigned lane_id() const { return current_->number % warp; }

 private:
  static void fiber_main();
  void work();
  void run_block(unsigned block);
  void abandon_block();
  void start_pass();
  Thread* next();
  void continue_with(Thread&);
  void wait();
  Fiber* take_fiber();
  void make_fiber();
  void rest(Fiber&);
  void open_barrier();
  void finish_warp_operation(Warp&, Thread& last);
  Fault stuck();
  Fault located(const std::string& what) const;
  [[noreturn]] void fault(const std::string& what) const;

  void (*body_)(const void*) = nullptr;
  const void* data_ = nullptr;
  Order order_ = Order::forward;

  // The block that runs
  std::uint64_t serial_ = 0;
  unsigned count_ = 0, live_ = 0, at_barrier_ = 0, barriers_ = 0;
  Thread* current_ = nullptr;
  Place first_place_;  // of the barrier that threads wait at
  Thread threads_[max_threads];
  Warp warps_[max_threads / warp];
  // Addresses that stand for what orders memory. A barrier's is used again so late that it does not seem to
  // order one block after another.
  std::uint64_t barrier_[4096]{}, begun_ = 0, ended_ = 0;
  std::exception_ptr error_;

  // Whose turn it is: threads are visited in passes, each in the order of turn_
  unsigned turn_[max_threads];
  unsigned cursor_ = 0;
  bool progress_ = false, passed_over_ = false;
  unsigned held_back_ = 0;  // warps, random order only

  char* arena_ = nullptr;  // shared memory
  std::size_t arena_used_ = 0, shared_bytes_ = 0;

  Fiber host_;
  std::optional<Fiber> fibers_[max_fibers];
  unsigned made_ = 0;
  Fiber* idle_[max_fibers];                 // a queue, and a stack
  unsigned first_idle_ = 0, end_idle_ = 0;  // counted on, modulo max_fibers
};

Executor& executor() {
  static Executor* e = new Executor;  // its fibers may be suspended when the program ends
  return *e;
}

Executor::Executor() {
  arena_ = static_cast<char*>(mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (arena_ == MAP_FAILED) throw std::bad_alloc();
  ASAN_POISON_MEMORY_REGION(arena_, arena_bytes);
}

Fault Executor::located(const std::string& what) const {
  std::string message = what + " [block " + std::to_string(here.block.x);
  if (current_) {
    message += ", thread " + std::to_string(current_->number);
    if (current_->place.line()) message += ", after " + text_of(current_->place);
  }
  return Fault(message + "]");
}

[[gnu::noinline]] void Executor::fault(const std::string& what) const { throw located(what); }

// ---- Fibers ---------------------------------------------------------------------------------------------

void Executor::fiber_main() { executor().work(); }

// Runs one thread after another, to their ends, as long as there is one to start.
void Executor::work() {
  for (;;) {
    Thread& self = *current_;
    Fiber& fiber = *self.fiber;
    acquire(&begun_);
    try {
      body_(data_);
    } catch (...) {
      error_ = std::current_exception();
    }
    release(&ended_);
    self.state = State::done;
    self.fiber = nullptr;
    --live_;
    rest(fiber);
    Thread* successor = error_ ? nullptr : next();
    if (!successor) {
      switch_fiber(fiber, host_);
    } else {
      continue_with(*successor);
      if (successor->fiber != &fiber) switch_fiber(fiber, *successor->fiber);
    }
  }
}

// Plain: the one that rested last, so that threads without barriers all run on one. For ThreadSanitizer: the
// one that has rested longest. No fiber then serves two threads of a block, or of neighbouring blocks,
// and it tells them apart.
Fiber* Executor::take_fiber() {
#if defined(CUSIM_TSAN)
  const unsigned at = first_idle_++ % max_fibers;
#else
  if (first_idle_ == end_idle_) make_fiber();
  const unsigned at = --end_idle_ % max_fibers;
#endif
  return idle_[at];
}

void Executor::make_fiber() {
  std::optional<Fiber>& fiber = fibers_[made_++];
  rest(fiber.emplace(fiber_main));
}

void Executor::rest(Fiber& fiber) { idle_[end_idle_++ % max_fibers] = &fiber; }

void Executor::continue_with(Thread& t) {
  if (!t.fiber) t.fiber = take_fiber();
  current_ = &t;
  here.thread = &t.index;
}

// Lets others run until the current thread is ready again and its turn has come.
void Executor::wait() {
  Thread& self = *current_;
  Thread* successor = next();
  if (successor == &self) return;
  if (!successor) return switch_fiber(*self.fiber, host_);
  continue_with(*successor);
  switch_fiber(*self.fiber, *successor->fiber);
}

// ---- Whose turn it is -------------------------------------------------------------------------------------

void Executor::start_pass() {
  cursor_ = 0;
  progress_ = passed_over_ = false;
  if (order_ != Order::random) return;
  for (unsigned i = count_; i > 1; --i) std::swap(turn_[i - 1], turn_[draw() % i]);
  if (draw() % 16 == 0) held_back_ = static_cast<unsigned>(draw());
}

// Null when every thread has ended, or waits for what will not come.
Thread* Executor::next() {
  for (;;) {
    while (cursor_ < count_) {
      Thread& t = threads_[turn_[cursor_++]];
      if (t.state != State::ready) continue;
      if (held_back_ >> (t.number / warp) & 1u) {
        passed_over_ = true;
        continue;
      }
      progress_ = true;
      return &t;
    }
    if (live_ == 0) return nullptr;
    if (!progress_) {
      if (at_barrier_ == live_) {
        open_barrier();  // the others have exited, and do not count
      } else if (passed_over_) {
        held_back_ = 0;
      } else {
        return nullptr;
      }
    }
    start_pass();
  }
}

// ---- Barriers and warp operations ---------------------------------------------------------------------------

void Executor::open_barrier() {
  at_barrier_ = 0;
  ++barriers_;
  for (unsigned i = 0; i < count_; ++i)
    if (threads_[i].state == State::at_barrier) threads_[i].state = State::ready;
  if (order_ == Order::random) held_back_ = static_cast<unsigned>(draw());
}

void Executor::block_barrier(const Place& place) {
  Thread& self = *current_;
  self.place = place;
  if (at_barrier_ == 0) first_place_ = place;
  if (place.line() != first_place_.line())
    fault("other threads wait at another __syncthreads, " + text_of(first_place_));
  std::uint64_t* barrier = &barrier_[barriers_ % std::size(barrier_)];
  release(barrier);
  self.state = State::at_barrier;
  if (++at_barrier_ == live_) open_barrier();
  if (self.state == State::at_barrier || order_ == Order::random) wait();
  acquire(barrier);
}

std::uint64_t Executor::warp_operation(WarpOp operation, unsigned mask, std::uint64_t value, unsigned lane,
                                       const Place& place) {
  Thread& self = *current_;
  Warp& own = warps_[self.number / warp];
  self.place = place;
  self.operation = operation;
  self.mask = mask;
  self.value = value;
  self.lane = lane;
  const unsigned bit = 1u << self.number % warp;
  if (!(mask & bit)) fault("a thread called a warp operation whose mask leaves it out");
  // Only __syncwarp orders memory; shuffles and votes exchange their values and nothing else.
  std::uint64_t* synced = &own.synced[own.phase % std::size(own.synced)];
  if (operation == WarpOp::sync) release(synced);
  self.state = State::in_warp_operation;
  own.waiting |= bit;
  if ((own.waiting & mask) == mask) finish_warp_operation(own, self);
  if (self.state == State::in_warp_operation || order_ == Order::random) wait();
  if (operation == WarpOp::sync) acquire(synced);
  return self.result;
}

void Executor::finish_warp_operation(Warp& own, Thread& last) {
  Thread* lanes = &threads_[last.number / warp * warp];
  std::uint64_t votes = 0;
  for (unsigned i = 0; i < warp; ++i) {
    if (!(last.mask >> i & 1u)) continue;
    const Thread& t = lanes[i];
    if (t.operation != last.operation || t.mask != last.mask || t.place.line() != last.place.line())
      fault("lane " + std::to_string(i) + " of the mask is in another warp operation, " + text_of(t.place));
    if (t.value) votes |= std::uint64_t{1} << i;
  }
  for (unsigned i = 0; i < warp; ++i) {
    if (!(last.mask >> i & 1u)) continue;
    Thread& t = lanes[i];
    if (t.operation == WarpOp::shuffle) {
      if (!(last.mask >> t.lane & 1u)) fault("a shuffle reads lane " + std::to_string(t.lane) + ", outside its mask");
      t.result = lanes[t.lane].value;
    } else {
      t.result = votes;
    }
    t.state = State::ready;
  }
  own.waiting &= ~last.mask;
  ++own.phase;
}

// ---- Shared memory ------------------------------------------------------------------------------------------

void* Executor::shared(SharedArray& array, std::size_t bytes, std::size_t alignment) {
  if (array.block == serial_) return array.address;
  shared_bytes_ += bytes;
  if (shared_bytes_ > max_shared) fault("the block's shared arrays take more than 48 KiB");
  const std::size_t begin = (arena_used_ + red_zone + alignment - 1) / alignment * alignment;
  arena_used_ = (begin + bytes + 7) / 8 * 8;
  if (arena_used_ + red_zone > arena_bytes) fault("the block declares too many shared arrays");
  ASAN_UNPOISON_MEMORY_REGION(arena_ + begin, bytes);
  volatile char* byte = arena_ + begin;  // volatile: a memset would be seen by ThreadSanitizer
  for (std::size_t i = 0; i < bytes; ++i) byte[i] = static_cast<char>(0xFF);
  array = {serial_, arena_ + begin};
  return array.address;
}

// ---- Blocks ---------------------------------------------------------------------------------------------------

void Executor::run_block(unsigned block) {
  here.block = {block, 0, 0};
  ++serial_;
#if defined(CUSIM_TSAN)
  if (arena_used_ > 0)  // ThreadSanitizer forgets the accesses of the block before
    mmap(arena_, (arena_used_ + 4095) / 4096 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
         -1, 0);
#endif
  ASAN_POISON_MEMORY_REGION(arena_, arena_used_);
  arena_used_ = shared_bytes_ = 0;
  for (unsigned i = 0; i < count_; ++i) {
    Thread& t = threads_[i];
    t.state = State::ready;
    t.place = {};
    t.index = {i, 0, 0};
    t.number = i;
    turn_[i] = order_ == Order::reverse ? count_ - 1 - i : i;
  }
  for (Warp& w : warps_) w.waiting = 0;
  live_ = count_;
  at_barrier_ = held_back_ = 0;
  start_pass();

  release(&begun_);
  continue_with(*next());
  switch_fiber(host_, *current_->fiber);
  if (live_ > 0 && !error_) error_ = std::make_exception_ptr(stuck());
  current_ = nullptr;
  if (error_) abandon_block();
}

// Why the threads that are left cannot go on.
Fault Executor::stuck() {
  std::string why;
  for (unsigned i = 0; i < count_; ++i) {
    const Thread& t = threads_[i];
    if (t.state == State::at_barrier && why.empty()) current_ = &threads_[i];
    if (t.state != State::in_warp_operation) continue;
    for (unsigned lane = 0; lane < warp; ++lane) {
      const unsigned other = i / warp * warp + lane;
      if (!(t.mask >> lane & 1u) || (other < count_ && threads_[other].state != State::done)) continue;
      current_ = &threads_[i];
      why = ": a mask names lane " + std::to_string(lane) +
            (other < count_ ? ", which has exited" : ", which there is not");
    }
  }
  return located(std::to_string(at_barrier_) + " threads wait at __syncthreads, " +
                 std::to_string(live_ - at_barrier_) + " in warp operations, and none can go on" + why);
}

// Suspended threads cannot be resumed any more: their fibers go.
void Executor::abandon_block() {
  for (unsigned i = 0; i < count_; ++i)
    if (Fiber* fiber = std::exchange(threads_[i].fiber, nullptr)) release_as(*fiber, &ended_);
  acquire(&ended_);
  while (made_ > 0) fibers_[--made_].reset();
  first_idle_ = end_idle_ = 0;
  std::rethrow_exception(std::exchange(error_, nullptr));
}

void Executor::run_grid(unsigned blocks, unsigned threads, void (*thread)(const void*), const void* data) {
  if (current_) throw Fault("a kernel was launched by a kernel");
  body_ = thread;
  data_ = data;
  order_ = order();
  count_ = threads;
  here.grid_size = dim3(blocks);
  here.block_size = dim3(threads);
  adopt(host_);
#if defined(CUSIM_TSAN)
  while (made_ < 2 * threads) make_fiber();
#endif
  std::vector<unsigned> sequence(blocks);
  std::iota(sequence.begin(), sequence.end(), 0u);
  if (order_ == Order::reverse) std::reverse(sequence.begin(), sequence.end());
  if (order_ == Order::random)
    for (unsigned i = blocks; i > 1; --i) std::swap(sequence[i - 1], sequence[draw() % i]);
  for (unsigned block : sequence) run_block(block);
  acquire(&ended_);
}

}  // namespace

// ---- The outside ------------------------------------------------------------------------------------------------

void set_schedule(std::optional<Schedule> s) {
  chosen = s;
  environment.clear();
  if (s) generator = s->seed;
  schedule();
}

Order order() { return order_now; }

Schedule schedule() {
  if (chosen) {
    order_now = chosen->order;
    return *chosen;
  }
  const char* given = std::getenv("ELBO_SIM_ORDER");
  const std::string text = given && *given ? given : "forward";
  if (text != environment) {
    const std::size_t colon = text.find(':');
    const std::string word = text.substr(0, colon);
    Schedule s;
    if (word == "reverse") {
      s.order = Order::reverse;
    } else if (word == "random") {
      s.order = Order::random;
      if (colon != std::string::npos) s.seed = std::stoull(text.substr(colon + 1));
    } else if (word != "forward") {
      throw std::invalid_argument("ELBO_SIM_ORDER=" + text + ": expected forward, reverse, random or random:SEED");
    }
    environment = text;
    from_environment = s;
    generator = s.seed;
  }
  order_now = from_environment.order;
  return from_environment;
}

std::uint64_t draw() {  // splitmix64: G. Steele et al., OOPSLA 2014
  std::uint64_t z = generator += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

void* shared(SharedArray& array, std::size_t bytes, std::size_t alignment) {
  return executor().shared(array, bytes, alignment);
}
void block_barrier(const Place& place) { executor().block_barrier(place); }
std::uint64_t warp_operation(WarpOp operation, unsigned mask, std::uint64_t value, unsigned lane, const Place& place) {
  return executor().warp_operation(operation, mask, value, lane, place);
}
unsigned lane_id() { return executor().lane_id(); }
void run_grid(unsigned blocks, unsigned threads, void (*thread)(const void* data), const void* data) {
  executor().run_grid(blocks, threads, thread, data);
}

}  // namespace cusim
