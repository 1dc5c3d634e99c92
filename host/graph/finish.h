// The end of a step in a graph.
#pragma once
#include "host/graph/graph.h"

namespace elbo {

// Accumulate, OptimizerStep and Advance, one behind the other, are one call.
bool fuse_end_of_step(Graph&, std::size_t call);

}  // namespace elbo
