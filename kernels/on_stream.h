// A Thrust algorithm as a launch: in the order of a stream, and recorded where the stream is being captured.
#pragma once
#include <cuda_runtime.h>
#include <thrust/execution_policy.h>
#include <thrust/system_error.h>

#include "kernels/launch.h"

namespace elbo::kernels {

// on_stream("likelihood_unfused_scale", stream, [=](const auto& policy) { thrust::transform(policy, ...); });
//
// The call must neither allocate nor wait: neither can be recorded. thrust::transform, tabulate and for_each do
// neither, and launch one kernel each. The simulated device queues the call, which then runs in Thrust's host system;
// what it captured is copied, as a kernel's parameters are. A refused launch is an Error with its name.
template <class Call>
void on_stream(const char* name, cudaStream_t stream, const Call& call) {
#if defined(ELBO_SIM)
  static const char identity = 0;
  check_cuda(cusim::use(name, &identity), name);
  check_cuda(cusim::enqueue(stream, [call] { call(thrust::host); }, {cusim::Label::Kind::kernel, name, 1, 1}), name);
#else
  try {
    call(thrust::cuda::par_nosync.on(stream));
  } catch (const thrust::system_error& e) {
    fail(name, ": ", e.what());
  }
#endif
}

}  // namespace elbo::kernels
