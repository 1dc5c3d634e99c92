#include "host/graph/importance.h"

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
  const auto* const gradient = graph.calls()[call].operation->as<ImportanceBound>();
  if (!gradient || gradient->loss) return false;
  for (std::size_t i = 0; i < call; ++i) {
    auto* const value = graph.calls()[i].operation->as<ImportanceBound>();
    if (!value || value->dnll_partial || value->dsampled_kl || value->nll_partial.data != gradient->nll_partial.data ||
        value->sampled_kl.data != gradient->sampled_kl.data || value->variant != gradient->variant ||
        !graph.stays(value->nll_partial, i, call) || !graph.stays(value->sampled_kl, i, call) ||
        (gradient->dnll_partial && !graph.is_unused(gradient->dnll_partial, i, call)) ||
        (gradient->dsampled_kl && !graph.is_unused(gradient->dsampled_kl, i, call)))
      continue;
    value->grad_scale = gradient->grad_scale;
    value->dnll_partial = gradient->dnll_partial;
    value->dsampled_kl = gradient->dsampled_kl;
    graph.remove(call);
    return true;
  }
  return false;
}

}  // namespace elbo
