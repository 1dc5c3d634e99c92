#include "tests/allocations.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<long long> in_use = 0, peak = 0;
}

namespace elbo::test {

void watch_allocations() {
  in_use = 0;
  peak = 0;
}

std::size_t peak_allocation() { return static_cast<std::size_t>(peak); }

}  // namespace elbo::test

void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  void* p = std::malloc(n);
  if (!p) return nullptr;
  in_use += static_cast<long long>(malloc_usable_size(p));
  peak = std::max<long long>(peak, in_use);
  return p;
}

void* operator new(std::size_t n) {
  if (void* p = operator new(n, std::nothrow)) return p;
  throw std::bad_alloc();
}

void operator delete(void* p) noexcept {
  if (!p) return;
  in_use -= static_cast<long long>(malloc_usable_size(p));
  std::free(p);
}

void operator delete(void* p, std::size_t) noexcept { operator delete(p); }
