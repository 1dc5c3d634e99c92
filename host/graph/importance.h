// The importance-weighted bound in a graph.
#pragma once
#include "host/graph/graph.h"

namespace elbo {

// The negative importance-weighted bound of each row, of the two losses of its draws: -log p(x|z) and
// log q(z|x) - log p(z) (see ImportanceBound).
RowLoss importance_bound(const RowLoss& nll, const RowLoss& sampled_kl, LossVariant);

// Where the weight of a row's loss is known beforehand, its value and its gradient are one call.
bool fuse_importance_bound_with_gradient(Graph&, std::size_t call);

}  // namespace elbo
