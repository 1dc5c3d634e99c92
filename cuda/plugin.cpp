// What the plug-in exports.
#include "cuda/backend.h"

extern "C" elbo::Backend* elbo_create_backend(const elbo::BackendOptions& options) {
  return elbo::create_cuda_backend(options).release();
}
