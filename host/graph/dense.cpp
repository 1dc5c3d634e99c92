#include "host/graph/dense.h"

namespace elbo {
namespace {

class Dense final : public OperationOf<DenseForward> {
 public:
  using OperationOf::OperationOf;

  void differentiate(Gradients& gradients) const override {
    Graph& graph = gradients.graph();
    Tensor dz = gradients.of(op.y);
    if (op.activation != Activation::identity) {
      const Tensor dy = dz;
      dz = graph.make(op.y.shape);
      graph.add(ActivationBackward{.y = op.y, .dy = dy, .activation = op.activation, .dx = dz});
    }
    Tensor dweight = gradients.into(op.weight), dbias = gradients.into(op.bias);
    if (dweight && !dbias) dbias = graph.make(op.bias.shape);  // they come together
    if (dbias && !dweight) dweight = graph.make(op.weight.shape);
    graph.add(DenseBackward{.x = op.x,
                            .weight = op.weight,
                            .dz = dz,
                            .dweight = dweight,
                            .dbias = dbias,
                            .mask = {},
                            .dx = gradients.into(op.x)});
  }
};

}  // namespace

Value dense(const Value& x, const Value& weight, const Value& bias, Activation activation) {
  Graph& graph = x.graph();
  const Value y = graph.make({x.rows(), weight.rows()});
  graph.append(std::make_unique<Dense>(
      DenseForward{.x = x.flattened(), .weight = weight, .bias = bias, .activation = activation, .y = y, .mask = {}}));
  return y;
}

bool fuse_activation_backward(Graph& graph, std::size_t call) {
  const auto* const slope = graph.calls()[call].operation->as<ActivationBackward>();
  if (!slope) return false;
  const std::vector<std::size_t> writers = graph.writers(slope->dy);
  if (writers.size() != 1 || graph.readers(slope->dy).size() != 1 || graph.is_wanted(slope->dy)) return false;
  auto* const product = graph.calls()[writers[0]].operation->as<DenseBackward>();
  if (!product || product->dx.data != slope->dy.data || product->x.data != slope->y.data ||
      product->x.shape != slope->y.shape)
    return false;
  product->input_activation = slope->activation;
  product->dx = slope->dx;
  if (slope->activation == Activation::relu) {
    // Its signs are all that is wanted of y, if a dense layer has made it.
    const std::vector<std::size_t> makers = graph.writers(slope->y);
    auto* const layer = makers.size() == 1 ? graph.calls()[makers[0]].operation->as<DenseForward>() : nullptr;
    if (layer && layer->y.data == slope->y.data) {
      if (!layer->mask) layer->mask = graph.make({layer->y.rows(), mask_bytes(layer->y.columns())}, DType::u8);
      product->mask = layer->mask;
    }
  }
  graph.remove(call);
  return true;
}

}  // namespace elbo
