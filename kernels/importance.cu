// The importance-weighted bound of each row of a batch, and its gradient.
//
// What: loss = -log of the mean of a row's importance weights; the gradient of a draw is grad_scale times its share of
//   them (elbo/math/importance.h).
// Shapes: nll_partial, dnll_partial [rows * samples, chunks]; sampled_kl, dsampled_kl [rows, samples]; loss [rows].
// Bytes: reads nll_partial and sampled_kl and writes the gradients and the loss once: 8 (chunks + 1) a draw and 4 a
//   row. (unfused.cu: 28 more a draw and 28 a row.)
// Instructions: 384 lane slots a draw at 65536 x 32 (tools/kernels/sass.py), 2.4 times the time of its memory: a draw's
//   losses are read and added up in double three times, the later times out of a cache. A batch of 100 rows of 50 draws
//   has 5,000 of them, which a launch outlasts.
// NaN and infinity: a NaN among a row's losses makes all of its gradient and its loss NaN. A draw of an infinite loss
//   beside others of finite ones has the weight 0; where all are infinite, the loss is infinite and the gradient NaN.
// Deterministic: a lane adds up its draws in their order, then the lanes of a warp in a fixed tree.
#include "kernels/importance.h"

#include "elbo/math/arithmetic.h"
#include "elbo/math/importance.h"
#include "kernels/launcher.h"
#include "kernels/loss_parts.h"
#include "kernels/reduce.h"

namespace elbo::kernels {
namespace {

constexpr unsigned threads = 128, warps = threads / warp_size;

__device__ __forceinline__ double warp_largest(double v) {
#pragma unroll
  for (unsigned distance = warp_size / 2; distance > 0; distance /= 2)
    v = fmax(v, __shfl_xor_sync(0xffffffffu, v, distance));
  return v;
}

// A warp takes a row.
__global__ void __launch_bounds__(threads) importance_bound_kernel(const ImportanceBound a) {
  const std::int64_t row = std::int64_t{blockIdx.x} * warps + threadIdx.x / warp_size;
  const unsigned lane = threadIdx.x % warp_size;
  if (row >= a.rows) return;
  const std::int64_t first = row * a.samples;
  const auto log_weight = [&](std::int64_t sample) {
    const std::int64_t draw = first + sample;
    return math::log_weight(a.nll_partial + draw * a.chunks, a.chunks, a.sampled_kl[draw]);
  };
  double largest = math::lowest_log_weight;
#pragma unroll 1
  for (std::int64_t s = lane; s < a.samples; s += warp_size) largest = fmax(largest, log_weight(s));
  largest = warp_largest(largest);
  double sum = 0;
#pragma unroll 1
  for (std::int64_t s = lane; s < a.samples; s += warp_size)
    sum += static_cast<double>(math::relative_weight(log_weight(s), largest));
  const auto total = static_cast<float>(warp_sum(sum));
  if (a.loss && lane == 0) a.loss[row] = math::importance_loss(largest, total, a.samples);
  if (!a.dnll_partial && !a.dsampled_kl) return;
  const float scale = a.grad_scale * math::Approximate::inverse(total);
#pragma unroll 1
  for (std::int64_t s = lane; s < a.samples; s += warp_size) {
    const float share = scale * math::relative_weight(log_weight(s), largest);
    if (a.dsampled_kl) a.dsampled_kl[first + s] = share;
#pragma unroll 1
    for (std::int64_t c = 0; a.dnll_partial && c < a.chunks; ++c) a.dnll_partial[(first + s) * a.chunks + c] = share;
  }
}

}  // namespace

void importance_bound_fused(const ImportanceBound& a, cudaStream_t stream) {
  check("importance_bound_fused", a);
  const Range range("importance_bound_fused");
  const unsigned blocks = blocks_for("importance_bound_fused", a.rows, warps);
  launch("importance_bound_kernel", importance_bound_kernel, {blocks, threads, stream}, a);
}

}  // namespace elbo::kernels
