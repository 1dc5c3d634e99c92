// How much heap a piece of code takes, seen by the sanitizer's allocator: nothing can hide from it.
#pragma once
#include <sanitizer/allocator_interface.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

// While one lives, the heap of this thread may grow by at most `limit` bytes; what takes more aborts, so that
// libFuzzer keeps the input.
class HeapLimit {
 public:
  explicit HeapLimit(std::size_t limit) {
    static const bool hooked = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) != 0;
    if (!hooked) std::abort();
    used_ = 0;
    limit_ = static_cast<long long>(limit);
  }
  ~HeapLimit() { limit_ = no_limit; }
  HeapLimit(const HeapLimit&) = delete;
  HeapLimit& operator=(const HeapLimit&) = delete;

 private:
  static constexpr long long no_limit = -1;

  static void on_malloc(const volatile void*, std::size_t size) {
    used_ += static_cast<long long>(size);
    if (limit_ == no_limit || used_ <= limit_) return;
    std::fprintf(stderr, "%lld bytes of heap in use; this input may take %lld\n", used_, limit_);
    std::abort();
  }
  static void on_free(const volatile void* p) {
    if (p) used_ -= static_cast<long long>(__sanitizer_get_allocated_size(const_cast<const void*>(p)));
  }

  static inline thread_local long long used_ = 0, limit_ = no_limit;
};
