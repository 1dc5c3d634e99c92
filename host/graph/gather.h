// A batch of images in a graph.
#pragma once
#include "host/graph/graph.h"

namespace elbo {

struct Batch {
  Value input;   // f32 [R, H, W, C]: pixels in [0, 1]
  Value target;  // u8 [R, H, W, C]: pixels in 0..255
};

// `rows` images of source [N, H, W, C], chosen by the step's state.
Batch gather_batch(const Value& source, const Value& state, std::int64_t rows, Indexing, Binarize);

}  // namespace elbo
