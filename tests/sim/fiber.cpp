// Built without ThreadSanitizer's instrumentation: what the simulator does between two CUDA threads must
// neither be seen by it nor order them. CUSIM_TSAN says that the rest of the program is instrumented.
#include "tests/sim/fiber.h"

#include <sys/mman.h>

#include <new>
#include <utility>

#if !defined(__x86_64__)
#error "the simulated device switches stacks in x86-64 assembly"
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(CUSIM_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

extern "C" void cusim_switch(void** save, void* resume);
asm(R"(
.text
.hidden cusim_switch
.globl cusim_switch
.type cusim_switch,@function
cusim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cusim_switch,.-cusim_switch
)");

namespace cusim {
namespace {

constexpr std::size_t stack_bytes = 256 << 10, guard_bytes = 4096;

[[maybe_unused]] Fiber* previous = nullptr;  // the one that switched last

// The first thing that a resumed fiber does.
void arrived([[maybe_unused]] void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, &previous->stack, &previous->stack_size);
#endif
}

}  // namespace

// A new fiber resumes in this, with the entry in a register that cusim_switch restores.
extern "C" void cusim_start();
extern "C" [[gnu::used]] void cusim_enter(void (*entry)()) {
  arrived(nullptr);
  entry();
}
asm(R"(
.text
.hidden cusim_start
.globl cusim_start
.type cusim_start,@function
cusim_start:
  .cfi_startproc
  .cfi_undefined %rip
  movq %rbx, %rdi
  call cusim_enter@PLT
  ud2
  .cfi_endproc
.size cusim_start,.-cusim_start
)");

Fiber::Fiber(void (*entry)()) : owns_stack(true) {
  void* memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, guard_bytes, PROT_NONE);
  char* lowest = static_cast<char*>(memory) + guard_bytes;
  stack = lowest;
  stack_size = stack_bytes;
  void** top = reinterpret_cast<void**>(lowest + stack_bytes) - 2;  // aligned as before a call
  *--top = reinterpret_cast<void*>(&cusim_start);
  *--top = nullptr;                         // rbp
  *--top = reinterpret_cast<void*>(entry);  // rbx
  for (int r = 12; r <= 15; ++r) *--top = nullptr;
  stack_pointer = top;
#if defined(CUSIM_TSAN)
  identity = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
  if (!owns_stack) return;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack, stack_size);
#endif
#if defined(CUSIM_TSAN)
  __tsan_destroy_fiber(identity);
#endif
  munmap(static_cast<char*>(const_cast<void*>(stack)) - guard_bytes, guard_bytes + stack_size);
}

void switch_fiber(Fiber& from, Fiber& to) {
  previous = &from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_size);
#endif
#if defined(CUSIM_TSAN)
  __tsan_switch_to_fiber(to.identity, __tsan_switch_to_fiber_no_sync);
#endif
  cusim_switch(&from.stack_pointer, to.stack_pointer);
  arrived(from.fake_stack);
}

void adopt([[maybe_unused]] Fiber& self) {
#if defined(CUSIM_TSAN)
  self.identity = __tsan_get_current_fiber();
#endif
}

void release([[maybe_unused]] void* address) {
#if defined(CUSIM_TSAN)
  __tsan_release(address);
#endif
}

void acquire([[maybe_unused]] void* address) {
#if defined(CUSIM_TSAN)
  __tsan_acquire(address);
#endif
}

void release_as([[maybe_unused]] Fiber& fiber, [[maybe_unused]] void* address) {
#if defined(CUSIM_TSAN)
  void* const self = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber.identity, __tsan_switch_to_fiber_no_sync);
  __tsan_release(address);
  __tsan_switch_to_fiber(self, __tsan_switch_to_fiber_no_sync);
#endif
}

// ---- Strands ---------------------------------------------------------------------------------------------

namespace {
Strand* starting = nullptr;
}

void Strand::main() {
  Strand& self = *starting;
  for (;;) {
    try {
      (*self.work_)();
    } catch (...) {
      self.error_ = std::current_exception();
      release(&self.error_);
    }
    switch_fiber(self.fiber_, *self.caller_);
  }
}

void Strand::run(const std::function<void()>& work) {
  Fiber caller;
  adopt(caller);
  caller_ = &caller;
  work_ = &work;
  starting = this;
  switch_fiber(caller, fiber_);
  if (!error_) return;
  acquire(&error_);
  std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace cusim
