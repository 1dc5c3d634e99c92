#include "host/train/step.h"

#include "host/graph/fusion.h"
#include "host/model/objective.h"

namespace elbo {
namespace {

Accumulate accumulate(Graph& graph, const StepBlocks& blocks, const Elbo& bound) {
  return {.losses = {{{.partial = bound.reconstruction.partial, .samples = bound.reconstruction.samples},
                      {.partial = bound.kl.partial, .by_column = true}}},
          .state = graph.of(blocks.state),
          .sums = graph.of(blocks.sums),
          .rows = bound.reconstruction.rows};
}

Advance advance(Graph& graph, const StepBlocks& blocks, const Schedule& schedule) {
  return {.state = graph.of(blocks.state), .schedule = schedule, .fault = graph.of(blocks.fault)};
}

}  // namespace

StepBlocks::StepBlocks(const Vae& vae, const Shape& images)
    : source{"the images", images, DType::u8},
      state{"the state of the step", {sizeof(StepState)}, DType::u8},
      sums{"the sums", {2 + vae.latent()}, DType::f64},
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
  const Elbo bound = elbo(vae, batch, state, spec.objective.samples, static_cast<float>(spec.objective.beta));
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
  const Elbo bound = elbo(vae, batch, state, 1, static_cast<float>(spec.objective.beta));
  g.add(accumulate(g, blocks, bound));
  g.add(advance(g, blocks, schedule));
  fuse(g);
  return graph;
}

}  // namespace elbo
