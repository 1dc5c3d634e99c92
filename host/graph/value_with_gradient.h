// The rule of operations that give a value and its gradient in one pass over their inputs.
#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "host/graph/graph.h"

namespace elbo {

// The tensors of an operation that it has by that access, the absent ones too.
template <class Op>
std::vector<Tensor*> tensors_of(Op& op, Access wanted) {
  std::vector<Tensor*> tensors;
  Op::each_tensor(op, [&](const char*, Tensor& t, Access access) {
    if (access == wanted) tensors.push_back(&t);
  });
  return tensors;
}

// An operation's inputs and settings: without what it leaves behind, and the weight of its gradient.
template <class Op>
Op question_of(Op op) {
  for (const Access access : {Access::write, Access::scratch})
    for (Tensor* t : tensors_of(op, access)) *t = {};
  op.grad_scale = 0;
  return op;
}

// Where `call` gives the gradient alone, and an earlier call of the same inputs the value alone, the earlier one gives
// both. `value`: the field of the value.
template <class Op>
bool fuse_value_with_gradient(Graph& graph, std::size_t call, Tensor Op::*value) {
  auto* const gradient = graph.calls()[call].operation->as<Op>();
  if (!gradient || gradient->*value) return false;
  const std::vector<Tensor*> more = tensors_of(*gradient, Access::write);
  for (std::size_t at = 0; at < call; ++at) {
    auto* const earlier = graph.calls()[at].operation->as<Op>();
    if (!earlier || question_of(*earlier) != question_of(*gradient)) continue;
    const std::vector<Tensor*> given = tensors_of(*earlier, Access::write);
    const bool is_value_alone =
        earlier->*value && std::ranges::count_if(given, [](const Tensor* t) { return bool(*t); }) == 1;
    bool fits = is_value_alone && std::ranges::all_of(tensors_of(*earlier, Access::read), [&](const Tensor* t) {
                  return !*t || graph.stays(*t, at, call);
                });
    for (std::size_t i = 0; i < more.size(); ++i)
      if (*more[i]) fits = fits && graph.is_unused(*more[i], at, call);
    if (!fits) continue;
    for (std::size_t i = 0; i < more.size(); ++i)
      if (*more[i]) *given[i] = *more[i];
    earlier->grad_scale = gradient->grad_scale;
    graph.remove(call);
    return true;
  }
  return false;
}

}  // namespace elbo
