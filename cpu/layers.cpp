// Dense layers: each part of a product gets what belongs to it, bias or gradients, by the thread that has computed it,
// while it is in that thread's caches.
#include <algorithm>

#include "cpu/constant.h"
#include "cpu/device.h"
#include "elbo/math/activation.h"

namespace elbo {
namespace {

template <class F>
void with_activation(Activation activation, F&& f) {
  with_constant<Activation::identity, Activation::relu, Activation::tanh, Activation::softplus>(activation, f);
}

// y = activation(y + bias) in a part of y [rows, columns].
void add_bias_and_activate(float* y, const float* bias, std::int64_t columns, const Rectangle& part, Activation kind) {
  with_activation(kind, [&](auto activation) {
    const float* const b = bias + part.column;
    for (std::int64_t r = part.row; r < part.row + part.rows; ++r) {
      float* const row = y + r * columns + part.column;
#pragma omp simd
      for (std::int64_t c = 0; c < part.columns; ++c) row[c] = math::activate<float>(activation, row[c] + b[c]);
    }
  });
}

// dx *= activation'(x) in a part of dx [rows, columns], where x is what the activation has made.
void multiply_by_slope(const float* x, float* dx, std::int64_t columns, const Rectangle& part, Activation kind) {
  with_activation(kind, [&](auto activation) {
    for (std::int64_t r = part.row; r < part.row + part.rows; ++r) {
      const float* const from = x + r * columns + part.column;
      float* const to = dx + r * columns + part.column;
#pragma omp simd
      for (std::int64_t c = 0; c < part.columns; ++c) to[c] *= math::activation_slope<float>(activation, from[c]);
    }
  });
}

// Sums of the columns begin .. end - 1 of x [rows, columns].
void sum_columns(const float* x, float* sum, std::int64_t rows, std::int64_t columns, std::int64_t begin,
                 std::int64_t end) {
  std::fill(sum + begin, sum + end, 0.0f);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* const row = x + r * columns;
#pragma omp simd
    for (std::int64_t c = begin; c < end; ++c) sum[c] += row[c];
  }
}

}  // namespace

void CpuBackend::do_dense_forward(const DenseForward& a) {
  const std::int64_t rows = a.x.rows(), in = a.x.columns(), out = a.weight.rows();
  float* const y = a.y.as<float>();
  CutProduct& product = gemm_.product(rows, out, in, false, true);
  product.set(a.x.as<float>(), a.weight.as<float>(), y);
  team_.run(product.parts(), [&](std::int64_t i) {
    add_bias_and_activate(y, a.bias.as<float>(), out, product.multiply(i), a.activation);
  });
}

// Neither gradient waits for the other, so the team takes the parts of both in one loop.
void CpuBackend::do_dense_backward(const DenseBackward& a) {
  const std::int64_t rows = a.x.rows(), in = a.x.columns(), out = a.weight.rows();
  const float *const x = a.x.as<float>(), *const dz = a.dz.as<float>();
  CutProduct& dweight = gemm_.product(out, in, rows, true, false);
  dweight.set(dz, x, a.dweight.as<float>());
  CutProduct* dx = nullptr;
  if (a.dx) {
    dx = &gemm_.product(rows, in, out, false, false);
    dx->set(dz, a.weight.as<float>(), a.dx.as<float>());
  }
  const std::int64_t first = dweight.parts(), all = first + (dx ? dx->parts() : 0);
  team_.run(all, [&](std::int64_t i) {
    if (i < first) {
      const Rectangle part = dweight.multiply(i);
      if (part.column == 0) sum_columns(dz, a.dbias.as<float>(), rows, out, part.row, part.row + part.rows);
    } else {
      const Rectangle part = dx->multiply(i - first);
      if (a.activation != Activation::identity) multiply_by_slope(x, a.dx.as<float>(), in, part, a.activation);
    }
  });
}

}  // namespace elbo
