// The reconstruction loss and its gradient: Bernoulli from logits, Gaussian with a given variance.
//
// What: nll_partial = -log p(x | output) in nats, summed over chunks of 4096 pixels of a row;
//   grad = grad_scale d(-log p) / d output. Row r of the target serves outputs r * samples and following.
// Shapes: output, grad [rows * samples, pixels], both f32 or both bf16; target [rows, pixels], u8 or f32;
//   nll_partial [rows * samples, tiles(pixels, 4096)].
// Bytes, fused: reads the output (4, or 2 of bf16) and the target (1 or 4) once, writes the gradient (4 or 2): 9 or
//   12 a pixel, 5 or 8 of bf16; in 16-byte accesses (8 for bf16, 4 for u8) where pixels is a multiple of 4 and the
//   buffers are aligned; a thread has up to four of each under way before it uses the first. Two passes: output and
//   target are read again, 14 or 20, of bf16 8 or 14. (unfused.cu: 30 or 36.)
// Rivals: fused is the default. On a CPU it was the fastest of them, or level with the fastest
//   (results/cpu-amd-epyc-2-cores/2026-11-22/loss.md); on a GPU they have not been measured yet.
// Arithmetic is f32; a bf16 gradient is the f32 one, rounded.
// Deterministic: a chunk is summed by one block whose size follows from `pixels` alone, each thread over
//   its quads in order, then the threads in a fixed tree. Alignment changes the accesses, not the order.
#include "kernels/likelihood.h"

#include <type_traits>

#include "kernels/loss_parts.h"
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

// ---- Sums of losses ---------------------------------------------------------------------------------

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

// ---- Fused ------------------------------------------------------------------------------------------

// The part of the loss that a block works on: one chunk of one output row.
template <class Target, class Output>
struct Chunk {
  std::int64_t at;  // of its first pixel in output and grad
  const Output* output;
  const Target* target;
  int pixels;

  __device__ explicit Chunk(const PixelLoss<Target, Output>& a) {
    const unsigned chunks = (a.pixels + pixel_chunk - 1) / pixel_chunk;
    const unsigned row = blockIdx.x / chunks, first = blockIdx.x % chunks * unsigned{pixel_chunk};
    at = row * a.pixels + first;
    output = a.output + at;
    target = a.target + row / static_cast<unsigned>(a.samples) * a.pixels + first;
    pixels = a.pixels - first < pixel_chunk ? static_cast<int>(a.pixels - first) : static_cast<int>(pixel_chunk);
  }
};

template <bool aligned, class Sum, class Loss, class Target, class Output>
__device__ __forceinline__ void loss_and_gradient(const Loss& loss, const PixelLoss<Target, Output>& a) {
  const Chunk<Target, Output> chunk(a);
  const auto first = [](unsigned k) { return static_cast<int>(4 * (threadIdx.x + k * blockDim.x)); };
  const auto count = [&](unsigned k) { return aligned ? 4 : chunk.pixels - first(k); };

  // All loads before the first store: enough of them under way, and grad may be output.
  Quad<Output> output[quads_per_thread];
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
    Quad<Output> grad;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < count(k))
        grad.v[j] =
            math::round_to<Output>(a.grad_scale * sum.add(math::to_float(output[k].v[j]), pixel(target[k].v[j])));
    }
    if (a.grad) store_quad<aligned>(a.grad + chunk.at + first(k), grad, count(k));
  }
  const float total = block_sum(sum.total());
  if (threadIdx.x == 0) a.nll_partial[blockIdx.x] = total;
}

template <bool aligned, class Target, class Output>
__global__ void __launch_bounds__(max_threads) bernoulli_fused(const PixelLoss<Target, Output> a) {
  loss_and_gradient<aligned, LogOfProduct>(Bernoulli{}, a);
}

template <bool aligned, class Target, class Output>
__global__ void __launch_bounds__(max_threads) bernoulli_fused_log(const PixelLoss<Target, Output> a) {
  loss_and_gradient<aligned, Sum<Bernoulli>>(Bernoulli{}, a);
}

template <bool aligned, class Target, class Output>
__global__ void __launch_bounds__(max_threads) gaussian_fused(const Gaussian g, const PixelLoss<Target, Output> a) {
  loss_and_gradient<aligned, Sum<Gaussian>>(g, a);
}

// ---- The second of two passes -----------------------------------------------------------------------

template <bool aligned, class Loss, class Target, class Output>
__global__ void __launch_bounds__(max_threads) scaled_gradients(const Loss loss, const PixelLoss<Target, Output> a) {
  const Chunk<Target, Output> chunk(a);
  for (int first = 4 * threadIdx.x; first < chunk.pixels; first += 4 * blockDim.x) {
    const int count = aligned ? 4 : chunk.pixels - first;
    const Quad<Output> output = load_quad<aligned>(chunk.output + first, count);
    const Quad<Target> target = load_quad<aligned>(chunk.target + first, count);
    Quad<Output> grad;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      grad.v[j] = math::round_to<Output>(a.grad_scale * loss(math::to_float(output.v[j]), pixel(target.v[j])).grad);
    store_quad<aligned>(a.grad + chunk.at + first, grad, count);
  }
}

template <class Target, class Output>
Grid grid_for(const char* launcher, const PixelLoss<Target, Output>& a, cudaStream_t stream) {
  check(launcher, a);
  return {blocks_for(launcher, a.rows * a.samples * tiles(a.pixels, pixel_chunk)), threads_for(a.pixels), stream};
}

template <class Target, class Output>
bool is_aligned_for_quads(const PixelLoss<Target, Output>& a) {
  return a.pixels % 4 == 0 && is_aligned(a.output, 4 * sizeof(Output)) && is_aligned(a.grad, 4 * sizeof(Output)) &&
         is_aligned(a.target, 4 * sizeof(Target));
}

// BernoulliSum: how the losses of a thread's pixels are added up.
template <class BernoulliSum, class Target, class Output>
void launch_fused(const char* launcher, Likelihood likelihood, const PixelLoss<Target, Output>& a,
                  cudaStream_t stream) {
  const Grid grid = grid_for(launcher, a, stream);
  const bool aligned = is_aligned_for_quads(a);
  switch (likelihood) {
    case Likelihood::bernoulli:
      if constexpr (std::is_same_v<BernoulliSum, LogOfProduct>) {
        launch("bernoulli_fused",
               aligned ? bernoulli_fused<true, Target, Output> : bernoulli_fused<false, Target, Output>, grid, a);
      } else {
        launch("bernoulli_fused_log",
               aligned ? bernoulli_fused_log<true, Target, Output> : bernoulli_fused_log<false, Target, Output>, grid,
               a);
      }
      break;
    case Likelihood::gaussian:
      require(a.variance > 0, launcher, ": a variance of ", a.variance);
      launch("gaussian_fused", aligned ? gaussian_fused<true, Target, Output> : gaussian_fused<false, Target, Output>,
             grid, gaussian_of(a.variance), a);
      break;
  }
}

}  // namespace

template <class Target, class Output>
void likelihood_fused(Likelihood likelihood, const PixelLoss<Target, Output>& a, cudaStream_t stream) {
  const Range range("likelihood_fused");
  launch_fused<LogOfProduct>("likelihood_fused", likelihood, a, stream);
}

template <class Target, class Output>
void likelihood_fused_log(Likelihood likelihood, const PixelLoss<Target, Output>& a, cudaStream_t stream) {
  const Range range("likelihood_fused_log");
  launch_fused<Sum<Bernoulli>>("likelihood_fused_log", likelihood, a, stream);
}

template <class Target, class Output>
void likelihood_two_pass(Likelihood likelihood, const PixelLoss<Target, Output>& a, cudaStream_t stream) {
  const Range range("likelihood_two_pass");
  PixelLoss<Target, Output> value = a;
  value.grad = nullptr;
  launch_fused<LogOfProduct>("likelihood_two_pass", likelihood, value, stream);
  if (!a.grad) return;
  const Grid grid = grid_for("likelihood_two_pass", a, stream);
  const bool aligned = is_aligned_for_quads(a);
  with_loss("likelihood_two_pass", likelihood, a, [&]<class Loss>(const Loss& loss) {
    launch("scaled_gradients",
           aligned ? scaled_gradients<true, Loss, Target, Output> : scaled_gradients<false, Loss, Target, Output>, grid,
           loss, a);
  });
}

#define FOR_TYPES(Target, Output)                                                                 \
  template void likelihood_fused(Likelihood, const PixelLoss<Target, Output>&, cudaStream_t);     \
  template void likelihood_fused_log(Likelihood, const PixelLoss<Target, Output>&, cudaStream_t); \
  template void likelihood_two_pass(Likelihood, const PixelLoss<Target, Output>&, cudaStream_t);
FOR_TYPES(std::uint8_t, float)
FOR_TYPES(float, float)
FOR_TYPES(std::uint8_t, math::Bf16)
FOR_TYPES(float, math::Bf16)
#undef FOR_TYPES

}  // namespace elbo::kernels
