// All the rules by which calls of a graph become one.
#pragma once
#include "host/graph/graph.h"

namespace elbo {

// Applies every rule wherever it fits.
void fuse(Graph&);

}  // namespace elbo
