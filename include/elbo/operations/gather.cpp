#include "elbo/operations/gather.h"

namespace elbo {

void GatherBatch::check() const {
  require(source && source.dtype == DType::u8, name, ": source should be u8, not ", name_of(source.dtype));
  const std::int64_t pixels = source.columns(), rows = input.rows();
  check_tensor(name, "input", input, DType::f32, {rows, pixels});
  check_tensor(name, "target", target, DType::u8, {rows, pixels});
  check_state(name, state);
  require(rows <= source.rows(), name, ": a batch of ", rows, " rows from ", source.rows(), " images");
  require(indexing != Indexing::ring || source.rows() % rows == 0, name, ": a ring of ", source.rows(),
          " rows is not made of slots of ", rows);
  require(source.rows() <= (std::int64_t{1} << 31), name, ": more than 2^31 images");
}

}  // namespace elbo
