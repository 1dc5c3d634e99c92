#include "host/graph/likelihood.h"

namespace elbo {
namespace {

class Loss final : public OperationOf<LikelihoodLoss> {
 public:
  using OperationOf::OperationOf;

  void differentiate(Gradients& gradients) const override {
    LikelihoodLoss gradient = op;
    gradient.grad_scale = gradients.weight_of(op.nll_partial);
    gradient.dnll_partial = gradients.of(op.nll_partial);
    gradient.nll_partial = {};
    gradient.grad = gradients.into(op.output);
    gradient.scratch = {};
    gradients.graph().add(gradient);
  }
};

}  // namespace

RowLoss likelihood_loss(const Value& output, const Value& target, const LikelihoodOptions& options) {
  Graph& graph = output.graph();
  const Value said = output.flattened(), pixels = target.flattened();
  const std::int64_t outputs = said.rows();
  const Value nll = graph.make({outputs, ceil_div(pixels.columns(), pixel_chunk)});
  LikelihoodLoss op{.output = said,
                    .target = pixels,
                    .likelihood = options.likelihood,
                    .variant = options.variant,
                    .variance = options.variance,
                    .mean = options.mean,
                    .nll_partial = nll,
                    .grad = {},
                    .scratch = {}};
  op.scratch = graph.scratch(op.scratch_size());
  graph.append(std::make_unique<Loss>(op));
  return {nll, pixels.rows(), outputs / pixels.rows()};
}

bool fuse_value_with_gradient(Graph& graph, std::size_t call) {
  const auto* const gradient = graph.calls()[call].operation->as<LikelihoodLoss>();
  if (!gradient || gradient->nll_partial || gradient->dnll_partial) return false;
  const auto same = [](const Tensor& a, const Tensor& b) { return a.data == b.data && a.shape == b.shape; };
  for (std::size_t i = 0; i < call; ++i) {
    auto* const value = graph.calls()[i].operation->as<LikelihoodLoss>();
    if (!value || value->grad || !same(value->output, gradient->output) || !same(value->target, gradient->target) ||
        value->likelihood != gradient->likelihood || value->variant != gradient->variant ||
        value->variance != gradient->variance || value->mean != gradient->mean ||
        !graph.stays(value->output, i, call) || !graph.stays(value->target, i, call) ||
        !graph.is_unused(gradient->grad, i, call))
      continue;
    value->grad_scale = gradient->grad_scale;
    value->grad = gradient->grad;
    graph.remove(call);
    return true;
  }
  return false;
}

}  // namespace elbo
