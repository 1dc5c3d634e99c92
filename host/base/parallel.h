// A loop over very many elements, on every core that this process may use.
#pragma once
#include <cstdint>
#include <functional>

namespace elbo {

// Elements that are given away at a time. A multiple of 4, and part of what a sum over chunks in their order is.
inline constexpr std::int64_t parallel_chunk = std::int64_t{1} << 16;

// Calls `work(begin, end)` for every chunk of 0 .. count, each once, on several threads and in any order. `work` must
// not throw.
void parallel_for(std::int64_t count, const std::function<void(std::int64_t begin, std::int64_t end)>& work);

}  // namespace elbo
