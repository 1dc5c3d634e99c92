#include "host/graph/likelihood.h"

#include "host/graph/value_with_gradient.h"

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

bool fuse_likelihood_with_gradient(Graph& graph, std::size_t call) {
  return fuse_value_with_gradient(graph, call, &LikelihoodLoss::nll_partial);
}

}  // namespace elbo
