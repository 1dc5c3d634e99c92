// The CUDA device. It is made and used by one thread; the GPU stays that thread's current device.
#pragma once
#include "elbo/backend.h"

namespace elbo {

// Throws Error where there is no driver, no such GPU, or a GPU that this build has no code for.
std::unique_ptr<Backend> create_cuda_backend(const BackendOptions&);

}  // namespace elbo
