// How much memory a piece of code asks for: operator new is replaced and counts (allocations.cpp).
#pragma once
#include <cstddef>

namespace elbo::test {

// Restarts the count.
void watch_allocations();
// The most bytes in use at one time since then, above what was in use at its start.
std::size_t peak_allocation();

}  // namespace elbo::test
