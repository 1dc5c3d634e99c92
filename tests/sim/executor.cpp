// Built, like fiber.cpp, without ThreadSanitizer's instrumentation. What runs on a thread's fiber here uses
// plain arrays: it would see a container allocate, and take that for the thread's doing.
#include "tests/sim/executor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "tests/sim/fiber.h"
#include "tests/sim/views.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace cusim {

Here here;

namespace {

constexpr unsigned max_threads = 1024, warp = 32;
constexpr unsigned max_resident = 1024;  // threads of blocks that run together
constexpr unsigned max_fibers = 2 * max_resident;
constexpr unsigned max_blocks = 8;            // that run together
constexpr std::size_t max_shared = 48 << 10;  // of a block, without asking for more at the launch
constexpr std::size_t arena_bytes = 256 << 10, red_zone = 64;
constexpr unsigned none = ~0u;
constexpr unsigned max_arrays = 64;    // of a block
constexpr unsigned max_idle = 100000;  // atomic operations in which no thread gets ahead

enum class State : std::uint8_t { ready, at_barrier, in_warp_operation, done };

struct Block;

struct Thread {
  Block* block = nullptr;
  uint3 index{};
  unsigned number = 0;
  State state = State::ready;
  Fiber* fiber = nullptr;  // null: not started
  Place place;             // of the barrier or warp operation that it reached last
  WarpOp operation{};
  unsigned mask = 0, lane = 0;
  unsigned fences = 0;
  std::uint64_t value = 0, result = 0;
};

struct Warp {
  unsigned waiting = 0;  // lanes in a warp operation
  unsigned phase = 0;
  std::uint64_t synced[64]{};  // addresses that stand for its __syncwarp, in turn
};

// A block that runs, in a slot that serves one after another.
struct Block {
  explicit Block(unsigned number);

  const unsigned slot;
  uint3 index{};
  std::uint64_t serial = 0;
  bool running = false;
  unsigned live = 0, at_barrier = 0;
  Place first_place;                 // of the barrier that threads wait at
  std::uint64_t* barrier = nullptr;  // stands for it
  Thread threads[max_threads];
  Warp warps[max_threads / warp];

  // Whose turn it is: threads are visited in passes, each in the order of `turn`
  unsigned turn[max_threads];
  unsigned cursor = 0;
  bool progress = false, passed_over = false;
  unsigned held_back = 0;  // warps, random order only

  // Shared memory
  char* arena = nullptr;
  std::size_t arena_used = 0, shared_bytes = 0;
  struct {
    const SharedArray* declared;
    void* address;
  } arrays[max_arrays];
  unsigned declared = 0;
};

Block::Block(unsigned number) : slot(number) {
  arena = static_cast<char*>(mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (arena == MAP_FAILED) throw std::bad_alloc();
  ASAN_POISON_MEMORY_REGION(arena, arena_bytes);
}

std::string text_of(const Place& p) { return std::string(p.file_name()) + ":" + std::to_string(p.line()); }

std::optional<Schedule> chosen;
std::string environment;  // ELBO_SIM_ORDER and ELBO_SIM_BLOCKS, as last parsed
Schedule from_environment;
Order order_now = Order::forward;
Blocks blocks_now = Blocks::in_turn;
std::uint64_t generator = 1;
Planted planted;

class Executor {
 public:
  void run_grid(unsigned blocks, unsigned threads, void (*thread)(const void*), const void* data);

  void* shared(SharedArray&, std::size_t bytes, std::size_t alignment);
  void block_barrier(const Place&);
  std::uint64_t warp_operation(WarpOp, unsigned mask, std::uint64_t value, unsigned lane, const Place&);
  unsigned lane_id() const { return current_->number % warp; }
  bool begin_atomic(const void*, std::size_t bytes, const Place&);
  void end_atomic(const void*, std::size_t bytes, bool changed);
  bool begin_fence(const Place&);
  void end_fence();

 private:
  static void fiber_main();
  void work();
  void start(Block&, unsigned number);
  void run_blocks(const std::vector<unsigned>& sequence);
  void abandon_blocks();
  void start_pass(Block&);
  Thread* next(bool stay);
  Thread* next_in(Block&);
  void continue_with(Thread&);
  void wait(bool stay);
  Fiber* take_fiber();
  void make_fiber();
  void rest(Fiber&);
  void open_barrier(Block&);
  void finish_warp_operation(Warp&, Thread& last);
  bool is_shared(const void*) const;
  Fault stuck();
  Fault located(const std::string& what) const;
  [[noreturn]] void fault(const std::string& what) const;

  void (*body_)(const void*) = nullptr;
  const void* data_ = nullptr;
  Order order_ = Order::forward;
  Blocks blocks_ = Blocks::in_turn;
  unsigned count_ = 0;  // threads of a block

  // The blocks that run
  std::unique_ptr<Block> slots_[max_blocks];
  unsigned used_ = 1;          // of the slots
  unsigned last_ = 0;          // the slot of the thread that ran last
  unsigned held_slot_ = none;  // held back until no other block can go on; random order only
  std::uint64_t serial_ = 0;
  Views views_;
  Thread* current_ = nullptr;
  unsigned idle_ = 0;  // atomic operations since a thread got ahead
  // Addresses that stand for what orders memory. A barrier's is used again so late that it does not seem to
  // order one block after another.
  std::uint64_t barrier_[4096]{}, begun_ = 0, ended_ = 0;
  unsigned barriers_ = 0;
  std::exception_ptr error_;

  Fiber host_;
  std::optional<Fiber> fibers_[max_fibers];
  unsigned made_ = 0;
  Fiber* resting_[max_fibers];                    // a queue, and a stack
  unsigned first_resting_ = 0, end_resting_ = 0;  // counted on, modulo max_fibers
};

Executor& executor() {
  static Executor* e = new Executor;  // its fibers may be suspended when the program ends
  return *e;
}

Fault Executor::located(const std::string& what) const {
  std::string message = what + " [block " + std::to_string(current_ ? current_->block->index.x : here.block.x);
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
    --self.block->live;
    idle_ = 0;
    rest(fiber);
    Thread* successor = error_ || self.block->live == 0 ? nullptr : next(true);
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
  const unsigned at = first_resting_++ % max_fibers;
#else
  if (first_resting_ == end_resting_) make_fiber();
  const unsigned at = --end_resting_ % max_fibers;
#endif
  return resting_[at];
}

void Executor::make_fiber() {
  std::optional<Fiber>& fiber = fibers_[made_++];
  rest(fiber.emplace(fiber_main));
}

void Executor::rest(Fiber& fiber) { resting_[end_resting_++ % max_fibers] = &fiber; }

void Executor::continue_with(Thread& t) {
  if (!t.fiber) t.fiber = take_fiber();
  if (views_.is_open()) views_.show(t.block->slot);
  current_ = &t;
  last_ = t.block->slot;
  here.thread = &t.index;
  here.block = t.block->index;
}

// Lets others run until the current thread is ready again and its turn has come. stay: those of its block first.
void Executor::wait(bool stay) {
  Thread& self = *current_;
  Thread* successor = next(stay);
  if (successor == &self) return;
  if (!successor) return switch_fiber(*self.fiber, host_);
  continue_with(*successor);
  switch_fiber(*self.fiber, *successor->fiber);
}

// ---- Whose turn it is -------------------------------------------------------------------------------------

// Null when every thread of the blocks that run has ended, or waits for what will not come.
Thread* Executor::next(bool stay) {
  if (blocks_ != Blocks::in_turn && order_ == Order::random && !stay) stay = draw() % 2 == 0;
  if (stay || blocks_ == Blocks::in_turn)
    if (Thread* t = next_in(*slots_[last_])) return t;
  const unsigned first = order_ == Order::random && used_ > 1 ? static_cast<unsigned>(draw() % used_) : last_ + 1;
  for (unsigned i = 0; i < used_; ++i) {
    const unsigned slot = (first + i) % used_;
    if (!slots_[slot]->running || slot == held_slot_) continue;
    if (Thread* t = next_in(*slots_[slot])) return t;
  }
  if (held_slot_ == none) return nullptr;
  return next_in(*slots_[std::exchange(held_slot_, none)]);
}

void Executor::start_pass(Block& b) {
  b.cursor = 0;
  b.progress = b.passed_over = false;
  if (order_ != Order::random) return;
  for (unsigned i = count_; i > 1; --i) std::swap(b.turn[i - 1], b.turn[draw() % i]);
  if (draw() % 16 == 0) b.held_back = static_cast<unsigned>(draw());
}

Thread* Executor::next_in(Block& b) {
  for (;;) {
    while (b.cursor < count_) {
      Thread& t = b.threads[b.turn[b.cursor++]];
      if (t.state != State::ready) continue;
      if (b.held_back >> (t.number / warp) & 1u) {
        b.passed_over = true;
        continue;
      }
      b.progress = true;
      return &t;
    }
    if (b.live == 0) return nullptr;
    if (!b.progress) {
      if (b.at_barrier == b.live) {
        open_barrier(b);  // the others have exited, and do not count
      } else if (b.passed_over) {
        b.held_back = 0;
      } else {
        return nullptr;
      }
    }
    start_pass(b);
  }
}

// ---- Barriers and warp operations ---------------------------------------------------------------------------

void Executor::open_barrier(Block& b) {
  b.at_barrier = 0;
  ++barriers_;
  idle_ = 0;
  for (unsigned i = 0; i < count_; ++i)
    if (b.threads[i].state == State::at_barrier) b.threads[i].state = State::ready;
  if (order_ == Order::random) b.held_back = static_cast<unsigned>(draw());
}

void Executor::block_barrier(const Place& place) {
  Thread& self = *current_;
  Block& b = *self.block;
  self.place = place;
  if (b.at_barrier == 0) {
    b.first_place = place;
    b.barrier = &barrier_[barriers_ % std::size(barrier_)];
  }
  if (place.line() != b.first_place.line())
    fault("other threads wait at another __syncthreads, " + text_of(b.first_place));
  std::uint64_t* const barrier = b.barrier;
  release(barrier);
  self.state = State::at_barrier;
  const bool opened = ++b.at_barrier == b.live;
  if (opened) open_barrier(b);
  const bool lets_blocks_go_on = opened && blocks_ != Blocks::in_turn;
  if (!opened || order_ == Order::random || lets_blocks_go_on) wait(!lets_blocks_go_on);
  acquire(barrier);
}

std::uint64_t Executor::warp_operation(WarpOp operation, unsigned mask, std::uint64_t value, unsigned lane,
                                       const Place& place) {
  Thread& self = *current_;
  Warp& own = self.block->warps[self.number / warp];
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
  if (self.state == State::in_warp_operation || order_ == Order::random) wait(true);
  if (operation == WarpOp::sync) acquire(synced);
  return self.result;
}

void Executor::finish_warp_operation(Warp& own, Thread& last) {
  Thread* lanes = &last.block->threads[last.number / warp * warp];
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

// ---- Atomic operations and fences -----------------------------------------------------------------------------

bool Executor::is_shared(const void* p) const {
  const char* const arena = current_->block->arena;
  return p >= arena && p < arena + arena_bytes;
}

bool Executor::begin_atomic(const void* p, std::size_t bytes, const Place& place) {
  if (planted.plain_atomics) return false;
  current_->place = place;
  if (++idle_ > max_idle)
    fault("a loop spins: in 100000 atomic operations no thread got ahead" +
          (blocks_ == Blocks::in_turn ? std::string("; blocks run one after another (ELBO_SIM_BLOCKS=together)")
                                      : ", and " + std::to_string(used_) + " blocks run at a time"));
  if (is_shared(p)) return true;
  if (blocks_ != Blocks::in_turn) wait(false);
  if (views_.is_open()) views_.begin_atomic(p, bytes);
  return true;
}

void Executor::end_atomic(const void* p, std::size_t bytes, bool changed) {
  if (changed) idle_ = 0;
  if (views_.is_open() && !is_shared(p)) views_.end_atomic(p, bytes);
}

bool Executor::begin_fence(const Place& place) {
  current_->place = place;
  if (++current_->fences == planted.without_fence) return false;
  if (views_.is_open()) views_.publish_and_refresh();
  return true;
}

void Executor::end_fence() {
  if (blocks_ == Blocks::in_turn) return;
  if (order_ == Order::random && held_slot_ == none && draw() % 2 == 0) held_slot_ = last_;
  wait(false);
}

// ---- Shared memory ------------------------------------------------------------------------------------------

void* Executor::shared(SharedArray& array, std::size_t bytes, std::size_t alignment) {
  Block& b = *current_->block;
  if (array.block == b.serial) return array.address;
  for (unsigned i = 0; i < b.declared; ++i) {
    if (b.arrays[i].declared != &array) continue;
    array = {b.serial, b.arrays[i].address};
    return array.address;
  }
  b.shared_bytes += bytes;
  if (b.shared_bytes > max_shared) fault("the block's shared arrays take more than 48 KiB");
  const std::size_t begin = (b.arena_used + red_zone + alignment - 1) / alignment * alignment;
  b.arena_used = (begin + bytes + 7) / 8 * 8;
  if (b.arena_used + red_zone > arena_bytes || b.declared == max_arrays)
    fault("the block declares too many shared arrays");
  ASAN_UNPOISON_MEMORY_REGION(b.arena + begin, bytes);
  volatile char* byte = b.arena + begin;  // volatile: a memset would be seen by ThreadSanitizer
  for (std::size_t i = 0; i < bytes; ++i) byte[i] = static_cast<char>(0xFF);
  b.arrays[b.declared++] = {&array, b.arena + begin};
  array = {b.serial, b.arena + begin};
  return array.address;
}

// ---- Blocks ---------------------------------------------------------------------------------------------------

void Executor::start(Block& b, unsigned number) {
  b.index = {number, 0, 0};
  b.serial = ++serial_;
#if defined(CUSIM_TSAN)
  if (b.arena_used > 0)  // ThreadSanitizer forgets the accesses of the block before
    mmap(b.arena, (b.arena_used + 4095) / 4096 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
         -1, 0);
#endif
  ASAN_POISON_MEMORY_REGION(b.arena, b.arena_used);
  b.arena_used = b.shared_bytes = 0;
  b.declared = 0;
  for (unsigned i = 0; i < count_; ++i) {
    Thread& t = b.threads[i];
    t.block = &b;
    t.state = State::ready;
    t.place = {};
    t.fences = 0;
    t.index = {i, 0, 0};
    t.number = i;
    b.turn[i] = order_ == Order::reverse ? count_ - 1 - i : i;
  }
  for (Warp& w : b.warps) w.waiting = 0;
  b.live = count_;
  b.at_barrier = b.held_back = 0;
  b.running = true;
  start_pass(b);
  if (views_.is_open()) views_.begin(b.slot);
  release(&begun_);
}

// Why the threads that are left cannot go on.
Fault Executor::stuck() {
  std::string why;
  unsigned waiting = 0, at_barrier = 0;
  for (unsigned slot = 0; slot < used_; ++slot) {
    Block& b = *slots_[slot];
    if (!b.running) continue;
    waiting += b.live;
    at_barrier += b.at_barrier;
    for (unsigned i = 0; i < count_; ++i) {
      Thread& t = b.threads[i];
      if (t.state == State::at_barrier && why.empty()) current_ = &t;
      if (t.state != State::in_warp_operation) continue;
      for (unsigned lane = 0; lane < warp; ++lane) {
        const unsigned other = i / warp * warp + lane;
        if (!(t.mask >> lane & 1u) || (other < count_ && b.threads[other].state != State::done)) continue;
        current_ = &t;
        why = ": a mask names lane " + std::to_string(lane) +
              (other < count_ ? ", which has exited" : ", which there is not");
      }
    }
  }
  return located(std::to_string(at_barrier) + " threads wait at __syncthreads, " +
                 std::to_string(waiting - at_barrier) + " in warp operations, and none can go on" + why);
}

// Suspended threads cannot be resumed any more: their fibers go.
void Executor::abandon_blocks() {
  for (unsigned slot = 0; slot < used_; ++slot) {
    Block& b = *slots_[slot];
    if (std::exchange(b.running, false))
      for (unsigned i = 0; i < count_; ++i)
        if (Fiber* fiber = std::exchange(b.threads[i].fiber, nullptr)) release_as(*fiber, &ended_);
  }
  acquire(&ended_);
  while (made_ > 0) fibers_[--made_].reset();
  first_resting_ = end_resting_ = 0;
  views_.close();
  std::rethrow_exception(std::exchange(error_, nullptr));
}

void Executor::run_blocks(const std::vector<unsigned>& sequence) {
  std::size_t started = 0;
  unsigned running = 0;
  for (; running < used_; ++running) start(*slots_[running], sequence[started++]);
  last_ = used_ - 1;  // the first comes next
  held_slot_ = none;
  while (running > 0) {
    if (Thread* t = next(false)) {
      continue_with(*t);
      switch_fiber(host_, *t->fiber);
    } else {
      error_ = std::make_exception_ptr(stuck());
    }
    current_ = nullptr;
    if (error_) abandon_blocks();
    for (unsigned slot = 0; slot < used_; ++slot) {
      Block& b = *slots_[slot];
      if (!b.running || b.live > 0) continue;
      b.running = false;
      --running;
      if (views_.is_open()) views_.end(slot);
      if (started == sequence.size()) continue;
      start(b, sequence[started++]);
      ++running;
    }
  }
}

void Executor::run_grid(unsigned blocks, unsigned threads, void (*thread)(const void*), const void* data) {
  if (current_) throw Fault("a kernel was launched by a kernel");
  body_ = thread;
  data_ = data;
  order_ = order_now;
  blocks_ = blocks_now;
  count_ = threads;
  here.grid_size = dim3(blocks);
  here.block_size = dim3(threads);
  used_ = blocks_ == Blocks::in_turn ? 1 : std::min({blocks, max_blocks, std::max(1u, max_resident / threads)});
  idle_ = 0;
  for (unsigned slot = 0; slot < used_; ++slot)
    if (!slots_[slot]) slots_[slot] = std::make_unique<Block>(slot);
  if (blocks_ == Blocks::apart) views_.open(used_);
  adopt(host_);
#if defined(CUSIM_TSAN)
  while (made_ < threads * (used_ + 1)) make_fiber();
#endif
  std::vector<unsigned> sequence(blocks);
  std::iota(sequence.begin(), sequence.end(), 0u);
  if (order_ == Order::reverse) std::reverse(sequence.begin(), sequence.end());
  if (order_ == Order::random)
    for (unsigned i = blocks; i > 1; --i) std::swap(sequence[i - 1], sequence[draw() % i]);
  run_blocks(sequence);
  views_.close();
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

void plant(const Planted& p) { planted = p; }

Schedule schedule() {
  if (chosen) {
    order_now = chosen->order;
    blocks_now = chosen->blocks;
    return *chosen;
  }
  const auto given = [](const char* name, const char* otherwise) {
    const char* const text = std::getenv(name);
    return std::string(text && *text ? text : otherwise);
  };
  const std::string text = given("ELBO_SIM_ORDER", "forward"), blocks = given("ELBO_SIM_BLOCKS", "in_turn");
  if (text + " " + blocks != environment) {
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
    if (blocks == "together") {
      s.blocks = Blocks::together;
    } else if (blocks == "apart") {
      s.blocks = Blocks::apart;
    } else if (blocks != "in_turn") {
      throw std::invalid_argument("ELBO_SIM_BLOCKS=" + blocks + ": expected in_turn, together or apart");
    }
    environment = text + " " + blocks;
    from_environment = s;
    generator = s.seed;
  }
  order_now = from_environment.order;
  blocks_now = from_environment.blocks;
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
bool begin_atomic(const void* p, std::size_t bytes, const Place& place) {
  return executor().begin_atomic(p, bytes, place);
}
void end_atomic(const void* p, std::size_t bytes, bool changed) { executor().end_atomic(p, bytes, changed); }
bool begin_fence(const Place& place) { return executor().begin_fence(place); }
void end_fence() { executor().end_fence(); }
void run_grid(unsigned blocks, unsigned threads, void (*thread)(const void* data), const void* data) {
  executor().run_grid(blocks, threads, thread, data);
}

}  // namespace cusim
