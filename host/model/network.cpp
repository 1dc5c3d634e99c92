#include "host/model/network.h"

#include "host/graph/dense.h"

namespace elbo {

// nn.Sequential counts activation modules, too: Linear, ReLU, Linear are numbers 0, 1, 2.
Network::Network(Parameters& parameters, std::string name, std::string scope, std::int64_t in,
                 const std::vector<LayerSpec>& hidden, std::int64_t out)
    : parameters_(parameters), scope_(std::move(scope)) {
  int module = 0;
  const auto add = [&](std::int64_t units, Activation activation) {
    const std::string layer = name + "." + std::to_string(module);
    layers_.push_back({layer, parameters_.add_layer(layer, in, units), activation});
    module += activation == Activation::identity ? 1 : 2;
    outputs_ += units;
    in = units;
  };
  for (const LayerSpec& layer : hidden) add(layer.units, layer.activation);
  add(out, Activation::identity);
}

Value Network::operator()(const Value& x) const {
  Graph& graph = x.graph();
  const Graph::Scope network(graph, scope_);
  Value y = x;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Graph::Scope layer(graph, "dense" + std::to_string(i));
    const std::size_t weight = layers_[i].weight, bias = weight + 1;
    y = dense(y, parameters_.value(graph, weight), parameters_.value(graph, bias), layers_[i].activation);
    graph.describe(y, "the output of " + layers_[i].name);
  }
  return y;
}

}  // namespace elbo
