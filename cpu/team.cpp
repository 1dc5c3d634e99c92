#include "cpu/team.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <cstdlib>
#include <vector>

#include "cpu/limits.h"
#include "elbo/error.h"

namespace elbo {

Team::Team(int threads) : threads_(threads) {
  require(threads >= 0, "device 'cpu': ", threads, " threads; expected 0 (one for each core) or more");
  const std::vector<int> cores = allowed_cores();
  if (threads_ == 0) threads_ = usable_cores();
  if (threads_ == 1 || threads_ != static_cast<int>(cores.size()) || std::getenv("OMP_PROC_BIND")) return;
    // The caller keeps its mask: threads that it starts later inherit it, and the next team reads it.
#pragma omp parallel num_threads(threads_)
  if (const int i = omp_get_thread_num(); i > 0) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cores[static_cast<std::size_t>(i)], &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);  // advice: where it is refused, all still works
  }
}

}  // namespace elbo
