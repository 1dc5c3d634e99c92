#include "host/train/optimizer.h"

namespace elbo {

Optimizer::Optimizer(const Spec& spec, const Parameters& parameters, std::int64_t images)
    : parameters_(parameters),
      settings_(spec.optimizer),
      gradients_{"the gradients", {parameters.count()}},
      first_moment_{"the optimiser's first moment", {parameters.count()}},
      second_moment_{"the optimiser's second moment", {parameters.count()}} {
  // -log N(theta; 0, I) = sum theta^2 / 2 + constant, shared among the data points
  if (spec.objective.weight_prior == WeightPrior::standard_normal)
    settings_.weight_decay += 1.0f / static_cast<float>(images);
}

void Optimizer::differentiate(Graph& graph, const Objective& loss) const {
  const Value gradients = graph.of(gradients_);
  std::vector<std::pair<Value, Value>> wanted;
  for (std::size_t i = 0; i < parameters_.layout().size(); ++i) {
    wanted.emplace_back(parameters_.value(graph, i), parameters_.value_in(gradients, i));
    graph.describe(wanted.back().second, gradient_name + parameters_.layout()[i].name);
  }
  graph.differentiate(loss, wanted);
}

OptimizerStep Optimizer::update(Graph& graph, const Value& state) const {
  return {.parameters = graph.of(parameters_.block()),
          .gradients = graph.of(gradients_),
          .first_moment = graph.of(first_moment_),
          .second_moment = graph.of(second_moment_),
          .state = state,
          .settings = settings_};
}

void Optimizer::allocate(Backend& device) {
  arena_ = Arena::of(device, "gradients and optimiser state (fewer model.*.units need less)", [&](Arena& arena) {
    for (Block* block : {&gradients_, &first_moment_, &second_moment_}) block->memory = arena.take(block->shape);
  });
  for (const Block* block : {&gradients_, &first_moment_, &second_moment_}) device.fill(block->memory, 0);
}

}  // namespace elbo
