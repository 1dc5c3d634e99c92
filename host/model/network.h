// A network of dense layers, as PyTorch's nn.Sequential of nn.Linear and activation modules.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "host/model/parameters.h"

namespace elbo {

class Network {
 public:
  // `name`: of its parameters and, in a profile, of its calls: "encoder", "encode". Hidden layers as the spec has them,
  // then one of `out` outputs without activation.
  Network(Parameters&, std::string name, std::string scope, std::int64_t in, const std::vector<LayerSpec>& hidden,
          std::int64_t out);

  // [R, out] of x [R, ...].
  Value operator()(const Value& x) const;

  std::int64_t outputs() const { return outputs_; }  // of all layers, for a row

 private:
  struct Layer {
    std::string name;  // "encoder.0"
    std::size_t weight;
    Activation activation;
  };
  Parameters& parameters_;
  std::string scope_;
  std::vector<Layer> layers_;
  std::int64_t outputs_ = 0;
};

}  // namespace elbo
