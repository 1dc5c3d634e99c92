// Dense layers. The thread that has computed a part of a product adds the bias and applies the activation, or
// multiplies by its slope, while the part is in that thread's caches.
#include <algorithm>

#include "cpu/constant.h"
#include "cpu/device.h"
#include "elbo/math/activation.h"

namespace elbo::cpu {
namespace {

constexpr std::int64_t piece = 4096;  // elements that a thread takes at a time, where there is no product

template <class F>
void with_activation(Activation activation, const F& f) {
  switch (activation) {
    case Activation::identity: return f(constant<Activation::identity>);
    case Activation::relu: return f(constant<Activation::relu>);
    case Activation::tanh: return f(constant<Activation::tanh>);
    case Activation::softplus: return f(constant<Activation::softplus>);
  }
}

// y = activation(y + bias) in a part of y [rows, columns].
void bias_activation(float* y, const float* bias, std::int64_t columns, const Rectangle& part, Activation kind) {
  with_activation(kind, [&](auto activation) {
    const float* const b = bias + part.column;
    for (std::int64_t r = part.row; r < part.row + part.rows; ++r) {
      float* const row = y + r * columns + part.column;
#pragma omp simd
      for (std::int64_t c = 0; c < part.columns; ++c) row[c] = math::activate<float>(activation, row[c] + b[c]);
    }
  });
}

// dx = dy activation' in a part of dx [rows, columns], where y is what the activation has made. dx may be dy.
void activation_backward(const float* y, const float* dy, float* dx, std::int64_t columns, const Rectangle& part,
                         Activation kind) {
  with_activation(kind, [&](auto activation) {
    for (std::int64_t r = part.row; r < part.row + part.rows; ++r) {
      const std::int64_t at = r * columns + part.column;
      const float *const output = y + at, *const from = dy + at;
      float* const to = dx + at;
#pragma omp simd
      for (std::int64_t c = 0; c < part.columns; ++c)
        to[c] = from[c] * math::activation_slope<float>(activation, output[c]);
    }
  });
}

// Sums of the columns begin .. end - 1 of x [rows, columns].
void column_sum(const float* x, float* sum, std::int64_t rows, std::int64_t columns, std::int64_t begin,
                std::int64_t end) {
  std::fill(sum + begin, sum + end, 0.0f);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* const row = x + r * columns;
#pragma omp simd
    for (std::int64_t c = begin; c < end; ++c) sum[c] += row[c];
  }
}

}  // namespace

void CpuBackend::do_run(const DenseForward& op) {
  const std::int64_t rows = op.x.rows(), in = op.x.columns(), out = op.weight.rows();
  float* const y = op.y.as<float>();
  CutProduct& product = gemm_.product(rows, out, in, false, true);
  product.set(op.x.as<float>(), op.weight.as<float>(), y);
  team_.run(product.parts(),
            [&](std::int64_t i) { bias_activation(y, op.bias.as<float>(), out, product.multiply(i), op.activation); });
}

// Neither gradient waits for the other, so the team takes the parts of both in one loop.
void CpuBackend::do_run(const DenseBackward& op) {
  const std::int64_t rows = op.x.rows(), in = op.x.columns(), out = op.weight.rows();
  const float *const x = op.x.as<float>(), *const dz = op.dz.as<float>();
  CutProduct *dweight = nullptr, *dx = nullptr;
  if (op.dweight) {
    dweight = &gemm_.product(out, in, rows, true, false);
    dweight->set(dz, x, op.dweight.as<float>());
  }
  if (op.dx) {
    dx = &gemm_.product(rows, in, out, false, false);
    dx->set(dz, op.weight.as<float>(), op.dx.as<float>());
  }
  const std::int64_t first = dweight ? dweight->parts() : 0, all = first + (dx ? dx->parts() : 0);
  team_.run(all, [&](std::int64_t i) {
    if (i < first) {
      const Rectangle part = dweight->multiply(i);
      if (part.column == 0) column_sum(dz, op.dbias.as<float>(), rows, out, part.row, part.row + part.rows);
    } else {
      const Rectangle part = dx->multiply(i - first);
      if (op.input_activation != Activation::identity)
        activation_backward(x, op.dx.as<float>(), op.dx.as<float>(), in, part, op.input_activation);
    }
  });
}

void CpuBackend::do_run(const ActivationBackward& op) {
  const float *const y = op.y.as<float>(), *const dy = op.dy.as<float>();
  float* const dx = op.dx.as<float>();
  team_.run_pieces(op.y.count(), piece, [&](std::int64_t begin, std::int64_t end) {
    activation_backward(y, dy, dx, op.y.count(), {.row = 0, .rows = 1, .column = begin, .columns = end - begin},
                        op.activation);
  });
}

void CpuBackend::do_run(const Add& op) {
  const float *const a = op.a.as<float>(), *const b = op.b.as<float>();
  float* const sum = op.sum.as<float>();
  team_.run_pieces(op.sum.count(), piece, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) sum[i] = a[i] + b[i];
  });
}

}  // namespace elbo::cpu
