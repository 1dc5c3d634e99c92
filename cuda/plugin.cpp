// The one function that the plug-in exports.
#include "cuda/backend.h"
#include "elbo/plugin_symbol.h"

extern "C" [[gnu::visibility("default")]] elbo::Backend* ELBO_CREATE_BACKEND(const elbo::BackendOptions& options) {
  return elbo::create_cuda_backend(options).release();
}
