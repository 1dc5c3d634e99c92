#include "host/train/step.h"

#include <algorithm>

#include "host/graph/fusion.h"
#include "host/train/metrics.h"

namespace elbo {
namespace {

// Those of the bound of one image, in a graph that nobody runs.
std::vector<LossSums> losses_of(const Spec& spec, const Vae& vae) {
  Graph graph("losses");
  const Shape image{1, vae.image()[0], vae.image()[1], vae.image()[2]};
  const Batch batch{graph.input(image), graph.input(image, DType::u8)};
  return sums_of(training_bound(spec, vae, batch, graph.input({sizeof(StepState)}, DType::u8)));
}

std::int64_t count_of(const std::vector<LossSums>& losses) {
  std::int64_t count = 1;
  for (const LossSums& loss : losses) count += loss.count;
  return count;
}

Accumulate accumulate(Graph& graph, const StepBlocks& blocks, const Bound& bound) {
  Accumulate a{.losses = {},
               .state = graph.of(blocks.state),
               .sums = graph.of(blocks.sums),
               .rows = bound.parts.front().loss.rows};
  for (std::size_t i = 0; i < bound.parts.size(); ++i) {
    const NamedLoss& part = bound.parts[i];
    const RowLoss& loss = part.loss;
    if (loss.rows != a.rows || (!part.by_column && loss.partial.rows() != loss.rows * loss.samples))
      fail("the loss ", part.name, " ", loss.partial.shape(), " is not one of ", a.rows, " rows of ", loss.samples,
           " samples");
    a.losses[i] = {part.loss.partial, part.loss.samples, part.by_column};
  }
  return a;
}

Advance advance(Graph& graph, const StepBlocks& blocks, const Schedule& schedule) {
  return {.state = graph.of(blocks.state), .schedule = schedule, .fault = graph.of(blocks.fault)};
}

}  // namespace

std::vector<LossSums> sums_of(const Bound& bound) {
  std::vector<LossSums> losses;
  for (const NamedLoss& part : bound.parts)
    losses.push_back({part.name, part.by_column ? part.loss.partial.columns() : 1, bound.loss.factor_of(part.loss)});
  require(losses.size() <= most_losses, "a bound of ", losses.size(), " losses; at most ", most_losses,
          " are possible");
  const auto count = [&](const std::string& name) { return std::ranges::count(bound.parts, name, &NamedLoss::name); };
  require(count("reconstruction") == 1 && count("unit_kl") == 1,
          "a bound has one loss named reconstruction and one named unit_kl");
  for (const LossSums& loss : losses) {
    const bool is_further = loss.name != "reconstruction" && loss.name != "unit_kl";
    if (is_further && (count(loss.name) > 1 || Figures::is_of_every_model(loss.name)))
      fail("a bound whose loss ", loss.name, " has the name of another figure");
  }
  for (const Objective::Term& term : bound.loss.terms())
    require(std::ranges::any_of(bound.parts, [&](const NamedLoss& p) { return p.loss.partial == term.loss.partial; }),
            "a bound whose losses leave out one that is minimised");
  return losses;
}

StepBlocks::StepBlocks(const Spec& spec, const Vae& vae, const Shape& images)
    : losses(losses_of(spec, vae)),
      source{"the images", images, DType::u8},
      state{"the state of the step", {sizeof(StepState)}, DType::u8},
      sums{"the sums", {count_of(losses)}, DType::f64},
      fault{"the fault flag", {1}, DType::u64} {}

void require_full_batch(const Spec& spec, std::int64_t images) {
  if (spec.train.batch_size > images)
    fail(spec.where("train.batch_size"), " is ", spec.train.batch_size, ", but there are only ", images,
         " training images");
}

TrainingStep::TrainingStep(const Spec& spec, const Vae& vae, const Optimizer& optimizer, const StepBlocks& blocks,
                           Indexing indexing, const Schedule& schedule)
    : graph(std::make_unique<Graph>("train_step")) {
  Graph& g = *graph;
  const Value state = g.of(blocks.state);
  batch = gather_batch(g.of(blocks.source), state, spec.train.batch_size, indexing, spec.data.binarize);
  const Bound bound = training_bound(spec, vae, batch, state);
  optimizer.differentiate(g, bound.loss);
  g.add(accumulate(g, blocks, bound));
  g.add(optimizer.update(g, state));
  g.add(advance(g, blocks, schedule));
  g.keep(batch.input);
  g.keep(batch.target);
  fuse(g);
}

std::unique_ptr<Graph> evaluation_step(const Spec& spec, const Vae& vae, const StepBlocks& blocks, std::int64_t rows,
                                       Indexing indexing, const Schedule& schedule) {
  auto graph = std::make_unique<Graph>("evaluate_batch");
  Graph& g = *graph;
  const Value state = g.of(blocks.state);
  const Batch batch = gather_batch(g.of(blocks.source), state, rows, indexing, spec.data.binarize);
  g.add(accumulate(g, blocks, evaluation_bound(spec, vae, batch, state)));
  g.add(advance(g, blocks, schedule));
  fuse(g);
  return graph;
}

}  // namespace elbo
