// Matrix products of the CUDA device. The library that does them is named in gemm.cpp alone, so that the
// simulated device can put another in its place.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "elbo/backend.h"

namespace elbo::cuda {

// C [m, n] = op(A) op(B): row-major, f32, each pointer aligned to 4 bytes. op transposes where its flag is
// set: A is [m, k], or [k, m] when transposed; B is [k, n], or [n, k].
struct Product {
  const float *a = nullptr, *b = nullptr;
  float* c = nullptr;
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  // What may be done on the way, one of these lines; cuBLASLt calls it an epilogue.
  const float* bias = nullptr;         // [n], added to every row of C ...
  bool relu = false;                   // ... and then negative elements become 0, and so may NaN ...
  std::uint8_t* relu_mask = nullptr;   // ... and which were positive is kept here, [m, mask_bytes(n)]
  const std::uint8_t* mask = nullptr;  // such a mask: elements of C become 0 where it says that one was not positive
  float* row_sums = nullptr;           // [m], out: the sums of op(A)'s rows
};

class Gemm {
 public:
  // Products are queued on `stream`, which must outlive this. Throws Error for a precision that it lacks.
  Gemm(Precision precision, cudaStream_t stream);
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // Queues a product. Returns false, with nothing queued, where the library has no algorithm for one with this
  // epilogue; stderr is told so the first time. A plain product that it cannot do is an Error, and so is any other
  // objection. Deterministic: equal operands give equal bits. Legal while the stream is being captured; allocates
  // nothing on the device.
  [[nodiscard]] bool multiply(const Product&);

  // The library and its version; empty where it has one way for every product, and nothing below can be asked of it.
  static std::string library();
  // Every product that was asked for so far.
  std::vector<ProductChoice> choices() const;
  // Up to `most` algorithms for a product that it does not refuse, its own choice first.
  std::vector<ProductChoice> candidates(const ProductShape&, int most) const;
  // From now on its product is done so. Throws Error where the library does not take it.
  void use(const ProductChoice&);
  // From now on the product is done by the library's own choice, as if use() had never been called for it.
  void forget(const ProductShape&);

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

}  // namespace elbo::cuda
