// The reconstruction loss and its gradient: Bernoulli from logits, Gaussian with a given variance.
//
// What: nll_partial = -log p(x | output) in nats, summed over chunks of 4096 pixels of a row;
//   grad = grad_scale d(-log p) / d output. Row r of the target serves outputs r * samples and following.
// Shapes: output, grad [rows * samples, pixels]; target [rows, pixels], u8 or f32;
//   nll_partial [rows * samples, tiles(pixels, 4096)].
// Bytes, fused: reads the output (4) and the target (1 or 4) once, writes the gradient (4): 9 or 12 a pixel,
//   in 16-byte accesses (4 for u8) where pixels is a multiple of 4 and the buffers are aligned; a thread has
//   up to four of each under way before it uses the first. Two passes: output and target are read again, 14 or
//   20. Unfused: one launch for each operation, through a scratch buffer: 30 with u8 targets, 36 with f32.
// Deterministic: a chunk is summed by one block whose size follows from `pixels` alone, each thread over
//   its quads in order, then the threads in a fixed tree. Alignment changes the accesses, not the order.
#include "kernels/likelihood.h"

#include <cmath>
#include <type_traits>

#include "elbo/backend.h"
#include "elbo/math/likelihood.h"
#include "kernels/launcher.h"
#include "kernels/quad.h"
#include "kernels/reduce.h"

namespace elbo::kernels {
namespace {

constexpr unsigned max_threads = 256;
constexpr unsigned quads_per_thread = 4;
static_assert(max_threads * quads_per_thread * 4 == pixel_chunk, "a block takes one chunk");

// Threads of a block: enough for a row or one of its chunks, a whole number of warps.
unsigned threads_for(std::int64_t pixels) {
  const std::int64_t width = pixels < pixel_chunk ? pixels : pixel_chunk;
  return static_cast<unsigned>(tiles(width, 4 * quads_per_thread * warp_size)) * warp_size;
}

__device__ float pixel(std::uint8_t stored) { return math::pixel_value<float>(stored); }
__device__ float pixel(float stored) { return stored; }

// ---- The likelihoods, and sums of their losses ------------------------------------------------------

struct Bernoulli {
  __device__ math::ValueGrad<float> operator()(float logit, float x) const { return math::bernoulli(logit, x); }
};

struct Gaussian {
  float half_precision, half_log;

  __device__ math::ValueGrad<float> operator()(float mean, float x) const {
    return math::gaussian(mean, x, half_precision, half_log);
  }
};

// The sum of a thread's losses; add() returns the gradient of the one it adds.
template <class Loss>
class Sum {
 public:
  __device__ explicit Sum(const Loss& loss) : loss_(loss) {}
  __device__ float add(float output, float x) {
    const math::ValueGrad<float> p = loss_(output, x);
    sum_ += p.value;
    return p.grad;
  }
  __device__ float total() const { return sum_; }

 private:
  Loss loss_;
  float sum_ = 0.0f;
};

// The same of Bernoulli losses, with one logarithm for all pixels: that of the product of their factors.
class LogOfProduct {
 public:
  __device__ explicit LogOfProduct(const Bernoulli&) {}
  __device__ float add(float logit, float x) {
    const math::BernoulliParts<float> p = math::bernoulli_parts(logit, x);
    linear_ += p.linear;
    product_ *= p.factor;
    return p.grad;
  }
  __device__ float total() const { return linear_ + math::log(product_); }

 private:
  float linear_ = 0.0f, product_ = 1.0f;
};
static_assert(4 * quads_per_thread <= 127, "the product of the factors must stay below 2^127");

Gaussian gaussian_of(float variance) {
  constexpr double two_pi = 6.283185307179586;
  return {static_cast<float>(0.5 / variance), static_cast<float>(0.5 * std::log(two_pi * variance))};
}

// ---- Fused ------------------------------------------------------------------------------------------

// The part of the loss that a block works on: one chunk of one output row.
template <class Target>
struct Chunk {
  std::int64_t at;  // of its first pixel in output and grad
  const float* output;
  const Target* target;
  int pixels;

  __device__ explicit Chunk(const PixelLoss<Target>& a) {
    const unsigned chunks = (a.pixels + pixel_chunk - 1) / pixel_chunk;
    const unsigned row = blockIdx.x / chunks, first = blockIdx.x % chunks * unsigned{pixel_chunk};
    at = row * a.pixels + first;
    output = a.output + at;
    target = a.target + row / static_cast<unsigned>(a.samples) * a.pixels + first;
    pixels = a.pixels - first < pixel_chunk ? static_cast<int>(a.pixels - first) : static_cast<int>(pixel_chunk);
  }
};

template <bool aligned, class Sum, class Loss, class Target>
__device__ __forceinline__ void loss_and_gradient(const Loss& loss, const PixelLoss<Target>& a) {
  const Chunk<Target> chunk(a);
  const auto first = [](unsigned k) { return static_cast<int>(4 * (threadIdx.x + k * blockDim.x)); };
  const auto count = [&](unsigned k) { return aligned ? 4 : chunk.pixels - first(k); };

  // All loads before the first store: enough of them under way, and grad may be output.
  Quad<float> output[quads_per_thread];
  Quad<Target> target[quads_per_thread];
#pragma unroll
  for (unsigned k = 0; k < quads_per_thread; ++k) {
    if (first(k) >= chunk.pixels) continue;
    output[k] = load_quad<aligned>(chunk.output + first(k), count(k));
    target[k] = load_quad<aligned>(chunk.target + first(k), count(k));
  }
  Sum sum(loss);
#pragma unroll
  for (unsigned k = 0; k < quads_per_thread; ++k) {
    if (first(k) >= chunk.pixels) continue;
    Quad<float> grad;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < count(k)) grad.v[j] = a.grad_scale * sum.add(output[k].v[j], pixel(target[k].v[j]));
    }
    if (a.grad) store_quad<aligned>(a.grad + chunk.at + first(k), grad, count(k));
  }
  const float total = block_sum(sum.total());
  if (threadIdx.x == 0) a.nll_partial[blockIdx.x] = total;
}

template <bool aligned, class Target>
__global__ void __launch_bounds__(max_threads) bernoulli_fused(const PixelLoss<Target> a) {
  loss_and_gradient<aligned, LogOfProduct>(Bernoulli{}, a);
}

template <bool aligned, class Target>
__global__ void __launch_bounds__(max_threads) bernoulli_fused_log(const PixelLoss<Target> a) {
  loss_and_gradient<aligned, Sum<Bernoulli>>(Bernoulli{}, a);
}

template <bool aligned, class Target>
__global__ void __launch_bounds__(max_threads) gaussian_fused(const Gaussian g, const PixelLoss<Target> a) {
  loss_and_gradient<aligned, Sum<Gaussian>>(g, a);
}

// ---- The second of two passes -----------------------------------------------------------------------

template <bool aligned, class Loss, class Target>
__global__ void __launch_bounds__(max_threads) scaled_gradients(const Loss loss, const PixelLoss<Target> a) {
  const Chunk<Target> chunk(a);
  for (int first = 4 * threadIdx.x; first < chunk.pixels; first += 4 * blockDim.x) {
    const int count = aligned ? 4 : chunk.pixels - first;
    const Quad<float> output = load_quad<aligned>(chunk.output + first, count);
    const Quad<Target> target = load_quad<aligned>(chunk.target + first, count);
    Quad<float> grad;
#pragma unroll
    for (int j = 0; j < 4; ++j) grad.v[j] = a.grad_scale * loss(output.v[j], pixel(target.v[j])).grad;
    store_quad<aligned>(a.grad + chunk.at + first, grad, count);
  }
}

// ---- Unfused: a block for a chunk, one pixel at a time ----------------------------------------------

// values = the loss of every pixel
template <class Loss, class Target>
__global__ void __launch_bounds__(max_threads) pixel_values(const Loss loss, const PixelLoss<Target> a, float* values) {
  const Chunk<Target> c(a);
  for (int i = threadIdx.x; i < c.pixels; i += blockDim.x)
    values[c.at + i] = loss(c.output[i], pixel(c.target[i])).value;
}

template <class Target>
__global__ void __launch_bounds__(max_threads) chunk_sums(const PixelLoss<Target> a, const float* values) {
  const Chunk<Target> c(a);
  float sum = 0.0f;
  for (int i = threadIdx.x; i < c.pixels; i += blockDim.x) sum += values[c.at + i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) a.nll_partial[blockIdx.x] = sum;
}

template <class Loss, class Target>
__global__ void __launch_bounds__(max_threads) pixel_gradients(const Loss loss, const PixelLoss<Target> a) {
  const Chunk<Target> c(a);
  for (int i = threadIdx.x; i < c.pixels; i += blockDim.x)
    a.grad[c.at + i] = loss(c.output[i], pixel(c.target[i])).grad;
}

template <class Target>
__global__ void __launch_bounds__(max_threads) scale_gradients(const PixelLoss<Target> a) {
  const Chunk<Target> c(a);
  for (int i = threadIdx.x; i < c.pixels; i += blockDim.x) a.grad[c.at + i] *= a.grad_scale;
}

template <class Target>
Grid grid_for(const char* launcher, const PixelLoss<Target>& a, cudaStream_t stream) {
  require(a.output && a.target && a.nll_partial, launcher, ": a null buffer");
  require(a.rows > 0 && a.samples > 0 && a.pixels > 0, launcher, ": ", a.rows, " rows, ", a.samples, " samples, ",
          a.pixels, " pixels; each should be at least 1");
  return {blocks_for(launcher, a.rows * a.samples * tiles(a.pixels, pixel_chunk)), threads_for(a.pixels), stream};
}

template <class Target>
bool is_aligned_for_quads(const PixelLoss<Target>& a) {
  return a.pixels % 4 == 0 && is_aligned(a.output, 16) && is_aligned(a.grad, 16) &&
         is_aligned(a.target, 4 * sizeof(Target));
}

// BernoulliSum: how the losses of a thread's pixels are added up.
template <class BernoulliSum, class Target>
void launch_fused(const char* launcher, Likelihood likelihood, const PixelLoss<Target>& a, cudaStream_t stream) {
  const Grid grid = grid_for(launcher, a, stream);
  const bool aligned = is_aligned_for_quads(a);
  switch (likelihood) {
    case Likelihood::bernoulli:
      if constexpr (std::is_same_v<BernoulliSum, LogOfProduct>) {
        launch("bernoulli_fused", aligned ? bernoulli_fused<true, Target> : bernoulli_fused<false, Target>, grid, a);
      } else {
        launch("bernoulli_fused_log", aligned ? bernoulli_fused_log<true, Target> : bernoulli_fused_log<false, Target>,
               grid, a);
      }
      break;
    case Likelihood::gaussian:
      require(a.variance > 0, launcher, ": a variance of ", a.variance);
      launch("gaussian_fused", aligned ? gaussian_fused<true, Target> : gaussian_fused<false, Target>, grid,
             gaussian_of(a.variance), a);
      break;
  }
}

template <class Loss, class Target>
void launch_unfused(const Loss& loss, const PixelLoss<Target>& a, float* scratch, const Grid& grid) {
  launch("pixel_values", pixel_values<Loss, Target>, grid, loss, a, scratch);
  launch("chunk_sums", chunk_sums<Target>, grid, a, scratch);
  if (!a.grad) return;
  launch("pixel_gradients", pixel_gradients<Loss, Target>, grid, loss, a);
  launch("scale_gradients", scale_gradients<Target>, grid, a);
}

}  // namespace

template <class Target>
void likelihood_fused(Likelihood likelihood, const PixelLoss<Target>& a, cudaStream_t stream) {
  const Range range("likelihood_fused");
  launch_fused<LogOfProduct>("likelihood_fused", likelihood, a, stream);
}

template <class Target>
void likelihood_fused_log(Likelihood likelihood, const PixelLoss<Target>& a, cudaStream_t stream) {
  const Range range("likelihood_fused_log");
  launch_fused<Sum<Bernoulli>>("likelihood_fused_log", likelihood, a, stream);
}

template <class Target>
void likelihood_two_pass(Likelihood likelihood, const PixelLoss<Target>& a, cudaStream_t stream) {
  const Range range("likelihood_two_pass");
  PixelLoss<Target> value = a;
  value.grad = nullptr;
  launch_fused<LogOfProduct>("likelihood_two_pass", likelihood, value, stream);
  if (!a.grad) return;
  const Grid grid = grid_for("likelihood_two_pass", a, stream);
  const bool aligned = is_aligned_for_quads(a);
  switch (likelihood) {
    case Likelihood::bernoulli:
      launch("scaled_gradients",
             aligned ? scaled_gradients<true, Bernoulli, Target> : scaled_gradients<false, Bernoulli, Target>, grid,
             Bernoulli{}, a);
      break;
    case Likelihood::gaussian:
      launch("scaled_gradients",
             aligned ? scaled_gradients<true, Gaussian, Target> : scaled_gradients<false, Gaussian, Target>, grid,
             gaussian_of(a.variance), a);
      break;
  }
}

template <class Target>
void likelihood_unfused(Likelihood likelihood, const PixelLoss<Target>& a, float* scratch, cudaStream_t stream) {
  const Range range("likelihood_unfused");
  const Grid grid = grid_for("likelihood_unfused", a, stream);
  require(scratch != nullptr, "likelihood_unfused: no scratch");
  switch (likelihood) {
    case Likelihood::bernoulli: launch_unfused(Bernoulli{}, a, scratch, grid); break;
    case Likelihood::gaussian:
      require(a.variance > 0, "likelihood_unfused: a variance of ", a.variance);
      launch_unfused(gaussian_of(a.variance), a, scratch, grid);
      break;
  }
}

template void likelihood_fused(Likelihood, const PixelLoss<std::uint8_t>&, cudaStream_t);
template void likelihood_fused(Likelihood, const PixelLoss<float>&, cudaStream_t);
template void likelihood_fused_log(Likelihood, const PixelLoss<std::uint8_t>&, cudaStream_t);
template void likelihood_fused_log(Likelihood, const PixelLoss<float>&, cudaStream_t);
template void likelihood_two_pass(Likelihood, const PixelLoss<std::uint8_t>&, cudaStream_t);
template void likelihood_two_pass(Likelihood, const PixelLoss<float>&, cudaStream_t);
template void likelihood_unfused(Likelihood, const PixelLoss<std::uint8_t>&, float*, cudaStream_t);
template void likelihood_unfused(Likelihood, const PixelLoss<float>&, float*, cudaStream_t);

}  // namespace elbo::kernels
