#include "host/graph/importance.h"

#include "host/graph/value_with_gradient.h"

namespace elbo {
namespace {

class Bound final : public OperationOf<ImportanceBound> {
 public:
  using OperationOf::OperationOf;

  void differentiate(Gradients& gradients) const override {
    ImportanceBound gradient = op;
    gradient.loss = {};
    gradient.grad_scale = gradients.weight_of(op.loss);
    gradient.dnll_partial = gradients.into(op.nll_partial);
    gradient.dsampled_kl = gradients.into(op.sampled_kl);
    gradient.scratch = gradients.graph().scratch(op.scratch_size());
    gradients.graph().add(gradient);
  }
};

}  // namespace

RowLoss importance_bound(const RowLoss& nll, const RowLoss& sampled_kl, LossVariant variant) {
  Graph& graph = nll.partial.graph();
  const Value loss = graph.make({sampled_kl.rows});
  ImportanceBound op{.nll_partial = nll.partial,
                     .sampled_kl = sampled_kl.partial,
                     .variant = variant,
                     .loss = loss,
                     .dnll_partial = {},
                     .dsampled_kl = {},
                     .scratch = {}};
  op.scratch = graph.scratch(op.scratch_size());
  graph.append(std::make_unique<Bound>(op));
  return {loss, sampled_kl.rows, 1};
}

bool fuse_importance_bound_with_gradient(Graph& graph, std::size_t call) {
  return fuse_value_with_gradient(graph, call, &ImportanceBound::loss);
}

}  // namespace elbo
