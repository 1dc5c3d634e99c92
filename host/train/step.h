// The graphs of training and evaluation.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "host/graph/gather.h"
#include "host/graph/graph.h"
#include "host/model/objective.h"
#include "host/model/vae.h"
#include "host/spec/spec.h"
#include "host/train/optimizer.h"

namespace elbo {

// What the sums of an epoch hold of a loss of the objective (NamedLoss in objective.h).
struct LossSums {
  std::string name;
  std::int64_t count;  // its sums
  double factor;       // of its mean in what is minimised; 0: it is only looked at
};

// Throws Error where they are too many, have not the names that they must, or do not hold all that is minimised.
std::vector<LossSums> sums_of(const Bound&);

// What a step reads and changes beside the model.
struct StepBlocks {
  StepBlocks(const Spec&, const Vae&, const Shape& source);

  std::vector<LossSums> losses;  // of the spec's objective
  Block source;                  // u8 [N, H, W, C]: the images, or the slots of a ring
  Block state;                   // StepState
  Block sums;                    // f64: see Accumulate
  Block fault;                   // u64 [1], pinned: see Advance
};

// Throws Error, naming the field, where there are not enough training images for a batch.
void require_full_batch(const Spec&, std::int64_t images);

// One step of stochastic gradient variational Bayes (algorithm 1 of arXiv 1312.6114).
struct TrainingStep {
  TrainingStep(const Spec&, const Vae&, const Optimizer&, const StepBlocks&, Indexing, const Schedule&);

  std::unique_ptr<Graph> graph;
  Batch batch;  // kept
};

// The bound of a batch of `rows` images, added to the sums.
std::unique_ptr<Graph> evaluation_step(const Spec&, const Vae&, const StepBlocks&, std::int64_t rows, Indexing,
                                       const Schedule&);

}  // namespace elbo
