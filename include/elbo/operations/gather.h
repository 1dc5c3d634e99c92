// A batch out of a data set.
#pragma once
#include "elbo/operation.h"
#include "elbo/types.h"

namespace elbo {

// Rows of uint8 images, chosen by the step's state: gathered, binarised, and made into floats.
struct GatherBatch {
  static constexpr const char* name = "gather_batch";

  Tensor source;  // u8 [N, D]; Indexing::ring: [slots * R, D]
  Tensor state;   // StepState
  Indexing indexing = Indexing::shuffled;
  Binarize binarize = Binarize::none;
  Tensor input;   // f32 [R, D] out: pixels in [0, 1]
  Tensor target;  // u8  [R, D] out: pixels in 0..255; 0 or 255 when binarised

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("source", op.source, Access::rows);
    f("state", op.state, Access::read);
    f("input", op.input, Access::write);
    f("target", op.target, Access::write);
  }
  void check() const;
  std::string sizes() const { return cat(input.shape, " of ", source.shape); }
};

}  // namespace elbo
