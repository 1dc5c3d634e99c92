#include "host/graph/fusion.h"

#include "host/graph/dense.h"
#include "host/graph/finish.h"
#include "host/graph/importance.h"
#include "host/graph/latent.h"
#include "host/graph/likelihood.h"

namespace elbo {

void fuse(Graph& graph) {
  graph.fuse({fuse_activation_backward, fuse_sample_with_kl, fuse_sample_with_kl_backward,
              fuse_likelihood_with_gradient, fuse_importance_bound_with_gradient, fuse_end_of_step});
}

}  // namespace elbo
