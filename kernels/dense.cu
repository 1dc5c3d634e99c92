// Bias and activation, the activation's gradient, the bias's gradient.
//
// What: see dense.h; the formulas are math::activate and math::activation_slope.
// Bytes: bias_activation reads and writes y once; activation_backward reads y and dy, writes dx; column_sum reads x
//   once; add reads a and b, writes the sum. Vectors where the buffers are aligned (and columns is a multiple of 4).
// Deterministic: a column is summed by 8 threads, thread t adding rows t, t + 8, ... in order; then the 8
//   sums in order.
#include "kernels/dense.h"

#include "elbo/math/activation.h"
#include "kernels/launcher.h"
#include "kernels/quad.h"

namespace elbo::kernels {
namespace {

constexpr unsigned threads = 128;   // a thread takes a quad
constexpr unsigned strip = 32;      // columns that a block of column_sum takes
constexpr unsigned row_groups = 8;  // threads that share one column

template <bool aligned>
__global__ void __launch_bounds__(threads) bias_activation_kernel(float* y, const float* bias, std::int64_t rows,
                                                                  std::int64_t columns, Activation activation) {
  const unsigned quads = (columns + 3) / 4, i = blockIdx.x * blockDim.x + threadIdx.x;
  const std::int64_t row = i / quads, column = i % quads * 4;
  if (row >= rows) return;
  const std::int64_t count = aligned ? 4 : columns - column;
  float* const at = y + row * columns + column;
  Quad<float> v = load_quad<aligned>(at, count);
  const Quad<float> b = load_quad<aligned>(bias + column, count);
#pragma unroll
  for (int j = 0; j < 4; ++j) v.v[j] = math::activate(activation, v.v[j] + b.v[j]);
  store_quad<aligned>(at, v, count);
}

template <bool aligned>
__global__ void __launch_bounds__(threads)
    activation_backward_kernel(const float* y, const float* dy, float* dx, std::int64_t count, Activation activation) {
  const std::int64_t i = 4 * (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x), left = count - i;
  if (left <= 0) return;
  const Quad<float> v = load_quad<aligned>(y + i, left);
  Quad<float> d = load_quad<aligned>(dy + i, left);
#pragma unroll
  for (int j = 0; j < 4; ++j) d.v[j] *= math::activation_slope(activation, v.v[j]);
  store_quad<aligned>(dx + i, d, left);
}

template <bool aligned>
__global__ void __launch_bounds__(threads) add_kernel(const float* a, const float* b, float* sum, std::int64_t count) {
  const std::int64_t i = 4 * (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x), left = count - i;
  if (left <= 0) return;
  Quad<float> v = load_quad<aligned>(a + i, left);
  const Quad<float> w = load_quad<aligned>(b + i, left);
#pragma unroll
  for (int j = 0; j < 4; ++j) v.v[j] += w.v[j];
  store_quad<aligned>(sum + i, v, left);
}

__global__ void __launch_bounds__(strip* row_groups)
    column_sum_kernel(const float* x, float* sum, std::int64_t rows, std::int64_t columns) {
  ELBO_SHARED(float, partial, strip* row_groups);
  const unsigned group = threadIdx.x / strip;
  const std::int64_t column = std::int64_t{blockIdx.x} * strip + threadIdx.x % strip;
  float s = 0.0f;
  if (column < columns) {
#pragma unroll 4
    for (std::int64_t row = group; row < rows; row += row_groups) s += x[row * columns + column];
  }
  partial[threadIdx.x] = s;
  __syncthreads();
  if (group != 0 || column >= columns) return;
  for (unsigned g = 1; g < row_groups; ++g) s += partial[g * strip + threadIdx.x];
  sum[column] = s;
}

}  // namespace

void bias_activation(float* y, const float* bias, std::int64_t rows, std::int64_t columns, Activation activation,
                     cudaStream_t stream) {
  require(y && bias, "bias_activation: a null buffer");
  require(rows >= 0 && columns > 0, "bias_activation: [", rows, ", ", columns, "]");
  const Range range("bias_activation");
  const unsigned blocks = blocks_for("bias_activation", rows * ((columns + 3) / 4), threads);
  const bool aligned = columns % 4 == 0 && is_aligned(y, 16) && is_aligned(bias, 16);
  launch("bias_activation_kernel", aligned ? bias_activation_kernel<true> : bias_activation_kernel<false>,
         {blocks, threads, stream}, y, bias, rows, columns, activation);
}

void activation_backward(const float* y, const float* dy, float* dx, std::int64_t count, Activation activation,
                         cudaStream_t stream) {
  require(y && dy && dx, "activation_backward: a null buffer");
  const Range range("activation_backward");
  const unsigned blocks = blocks_for("activation_backward", count, 4 * threads);
  const bool aligned = is_aligned(y, 16) && is_aligned(dy, 16) && is_aligned(dx, 16);
  launch("activation_backward_kernel", aligned ? activation_backward_kernel<true> : activation_backward_kernel<false>,
         {blocks, threads, stream}, y, dy, dx, count, activation);
}

void add(const float* a, const float* b, float* sum, std::int64_t count, cudaStream_t stream) {
  require(a && b && sum, "add: a null buffer");
  const Range range("add");
  const unsigned blocks = blocks_for("add", count, 4 * threads);
  const bool aligned = is_aligned(a, 16) && is_aligned(b, 16) && is_aligned(sum, 16);
  launch("add_kernel", aligned ? add_kernel<true> : add_kernel<false>, {blocks, threads, stream}, a, b, sum, count);
}

void column_sum(const float* x, float* sum, std::int64_t rows, std::int64_t columns, cudaStream_t stream) {
  require(x && sum, "column_sum: a null buffer");
  require(rows >= 0 && columns >= 0, "column_sum: [", rows, ", ", columns, "]");
  const Range range("column_sum");
  launch("column_sum_kernel", column_sum_kernel, {blocks_for("column_sum", columns, strip), strip * row_groups, stream},
         x, sum, rows, columns);
}

}  // namespace elbo::kernels
