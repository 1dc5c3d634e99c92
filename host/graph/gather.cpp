#include "host/graph/gather.h"

namespace elbo {

Batch gather_batch(const Value& source, const Value& state, std::int64_t rows, Indexing indexing, Binarize binarize) {
  Graph& graph = source.graph();
  const Shape& images = source.shape();
  const Shape shape{rows, images[1], images[2], images[3]};
  const Batch batch{graph.make(shape), graph.make(shape, DType::u8)};
  graph.add(GatherBatch{.source = source.flattened(),
                        .state = state,
                        .indexing = indexing,
                        .binarize = binarize,
                        .input = batch.input.flattened(),
                        .target = batch.target.flattened()});
  return batch;
}

}  // namespace elbo
