// Matrix products by oneDNN, cut into parts that the team's threads compute side by side. The only file that knows
// oneDNN, and which of its versions 2 and 3 it is.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "cpu/team.h"
#include "elbo/types.h"

namespace elbo::cpu {

// Rows row .. row + rows - 1 of a matrix, and of these the columns column .. column + columns - 1.
struct Rectangle {
  std::int64_t row, rows, column, columns;
};

// c [m, n] = op(a) op(b), of one shape: made once, computed at every step. Each part of c is computed by one thread,
// any of them.
class CutProduct {
 public:
  virtual ~CutProduct() = default;

  // What is multiplied from now on; where it must be rounded, that is done here, by the whole team.
  virtual void set(const float* a, const float* b, float* c) = 0;
  virtual std::int64_t parts() const = 0;
  // Computes a part, and tells which it is.
  virtual Rectangle multiply(std::int64_t part) = 0;
};

class Gemm {
 public:
  // fp32, or bf16 (products of bf16 numbers summed in fp32) where the CPU has AMX. Throws Error otherwise. The team
  // must outlive it.
  Gemm(Precision, Team&);
  ~Gemm();

  // All f32, dense and row-major; op transposes where its flag is set: a is [m, k], or [k, m] with transpose_a; b is
  // [k, n], or [n, k] with transpose_b. What it returns lives as long as this.
  CutProduct& product(std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a, bool transpose_b);

  static std::string library();  // "oneDNN 2.6.3"

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace elbo::cpu
