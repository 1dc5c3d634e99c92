// Matrix products of the CUDA device. The library that does them is named in gemm.cpp alone, so that the
// simulated device can put another in its place.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "elbo/types.h"

namespace elbo {

// C [m, n] = op(A) op(B) + bias: row-major, f32, each pointer aligned to 4 bytes. op transposes where its
// flag is set: A is [m, k], or [k, m] when transposed; B is [k, n], or [n, k]. bias [n] is added to every
// row; null: none.
struct Product {
  const float *a, *b;
  float* c;
  std::int64_t m, n, k;
  bool transpose_a, transpose_b;
  const float* bias = nullptr;
};

class Gemm {
 public:
  // Products are queued on `stream`, which must outlive this. Throws Error for a precision that it lacks.
  Gemm(Precision precision, cudaStream_t stream);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // Deterministic: equal operands give equal bits. Legal while the stream is being captured; allocates
  // nothing on the device.
  void multiply(const Product&);

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

}  // namespace elbo
