// Matrix products by oneDNN. The only file that knows oneDNN, and which of its versions 2 and 3 it is.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "elbo/types.h"

namespace elbo {

class Gemm {
 public:
  // fp32, or bf16 (products of bf16 numbers summed in fp32) where the CPU has AMX. Throws Error otherwise.
  Gemm(Precision, int threads);
  ~Gemm();

  // c [m, n] = op(a) op(b), all f32, dense and row-major; op transposes where its flag is set:
  // a is [m, k], or [k, m] with transpose_a; b is [k, n], or [n, k] with transpose_b.
  void multiply(std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a, bool transpose_b, const float* a,
                const float* b, float* c);

  static std::string library();  // "oneDNN 2.6.3"

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace elbo
