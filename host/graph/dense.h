// Dense layers in a graph.
#pragma once
#include "host/graph/graph.h"

namespace elbo {

// y = activation(x weight' + bias): [R, O] of x [R, I], weight [O, I], bias [O].
Value dense(const Value& x, const Value& weight, const Value& bias, Activation);

// The gradient of an activation goes into the product that gives the gradient of the activation's output.
bool fuse_activation_backward(Graph&, std::size_t call);

}  // namespace elbo
