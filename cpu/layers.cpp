// Dense layers, apart from their matrix products: bias, activation, and the gradients of both.
#include "cpu/constant.h"
#include "cpu/device.h"
#include "elbo/math/activation.h"

namespace elbo {
namespace {

constexpr std::int64_t piece = 8192;  // elements of an elementwise loop that a thread takes at a time
constexpr std::int64_t strip = 64;    // columns that a thread sums at a time

template <class F>
void with_activation(Activation activation, F&& f) {
  with_constant<Activation::identity, Activation::relu, Activation::tanh, Activation::softplus>(activation, f);
}

}  // namespace

void CpuBackend::do_matmul(const Matmul& p) {
  gemm_.multiply(p.m, p.n, p.k, p.transpose_a, p.transpose_b, p.a, p.b, p.c);
}

void CpuBackend::do_bias_activation(float* y, const float* bias, std::int64_t rows, std::int64_t columns,
                                    Activation activation) {
  with_activation(activation, [&](auto kind) {
    team_.run(rows, [=](std::int64_t r) {
      float* const row = y + r * columns;
#pragma omp simd
      for (std::int64_t c = 0; c < columns; ++c) row[c] = math::activate<float>(kind, row[c] + bias[c]);
    });
  });
}

void CpuBackend::do_activation_backward(const float* y, float* dy, std::int64_t count, Activation activation) {
  with_activation(activation, [&](auto kind) {
    team_.run_pieces(count, piece, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) dy[i] *= math::activation_slope<float>(kind, y[i]);
    });
  });
}

void CpuBackend::do_column_sum(const float* x, float* sum, std::int64_t rows, std::int64_t columns) {
  team_.run_pieces(columns, strip, [=](std::int64_t begin, std::int64_t end) {
    float total[strip] = {};
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* const row = x + r * columns + begin;
#pragma omp simd
      for (std::int64_t c = 0; c < end - begin; ++c) total[c] += row[c];
    }
    for (std::int64_t c = begin; c < end; ++c) sum[c] = total[c - begin];
  });
}

}  // namespace elbo
