#include "host/base/parallel.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

namespace elbo {

void parallel_for(std::int64_t count, const std::function<void(std::int64_t begin, std::int64_t end)>& work) {
  const std::int64_t chunks = (count + parallel_chunk - 1) / parallel_chunk;
  std::atomic<std::int64_t> next = 0;
  const auto take_chunks = [&] {
    for (std::int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;)
      work(chunk * parallel_chunk, std::min(count, (chunk + 1) * parallel_chunk));
  };
  const std::int64_t cores = std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  try {
    while (static_cast<std::int64_t>(threads.size()) < std::min(cores, chunks) - 1) threads.emplace_back(take_chunks);
  } catch (const std::system_error&) {  // no more threads are to be had: those that there are do it
  }
  take_chunks();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace elbo
