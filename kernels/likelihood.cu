// The reconstruction loss and its gradient: Bernoulli from logits, Gaussian with a given variance or a learned one.
//
// What: nll_partial = -log p(x | output) in nats, summed over chunks of 4096 pixels of a row;
//   grad = (grad_scale + dnll_partial) d(-log p) / d output, dnll_partial (or 0) being that of the pixel's chunk.
//   Row r of the target serves outputs r * samples and following. Either may be wanted alone.
// Shapes: output, grad [rows * samples, pixels], both f32 or both bf16; target [rows, pixels], u8 or f32. Where the
//   variance is learned output and grad have 2 pixels columns, the means first;
//   nll_partial, dnll_partial [rows * samples, ceil_div(pixels, 4096)].
// Bytes, fused: reads the output (4, or 2 of bf16) and the target (1 or 4) once, writes the gradient (4 or 2): 9 or
//   12 a pixel, 5 or 8 of bf16; in 16-byte accesses (8 for bf16, 4 for u8) where pixels is a multiple of 4 and the
//   buffers are aligned. Two passes: output and target are read again, 14 or 20, of bf16 8 or 14. (unfused.cu: 30 or
//   36.) The gradient alone: as fused. A dnll_partial is known only behind the value, so its gradient is a pass of its
//   own. With a learned variance output and gradient are twice as many: fused 17 or 20, of bf16 9 or 12; two passes 26
//   or 32, of bf16 14 or 20; unfused 50 or 56.
// Instructions: a warp takes a strip of up to 1,024 pixels of a row, a lane up to eight quads of output and of target,
//   all under way before it uses the first. No IEEE division and no full-range exp, so no slow paths: the error that
//   ex2 and rcp bring is in elbo/math/arithmetic.h. At 65536x784 the fused Bernoulli kernel issues 22.5 (f32, f32) to
//   26.7 (bf16, u8) lane slots a pixel: 0.54 of an H100's memory time at most, 0.77 of an H200's, by arithmetic over
//   the machine code (tools/kernels/sass.py), not measured. With a learned variance it is 37.2 to 43.5, or 52.0 to 58.3
//   where the mean is a sigmoid: 0.66 and 0.94 of that time. tests/sass_test.py holds them to that.
// Rivals: fused is the default. On a CPU it was the fastest of them, or level with the fastest
//   (results/cpu-amd-epyc-2-cores/2026-11-22/loss.md); on a GPU they have not been measured yet.
// Arithmetic is f32; a bf16 gradient is the f32 one, rounded.
// NaN and infinity: a NaN in the output or target makes the value of its chunk and its own gradient NaN; an infinite
//   output makes the value NaN or infinite, since it contains l x, which no approximation touches. An infinity that a
//   learned variance or a squashed mean would hide is added to the value (elbo/math/likelihood.h).
// Deterministic: a lane adds up its quads in order, then the lanes of a warp, then the warps of a chunk, in a fixed
//   tree that follows from `pixels` alone. Alignment and the number of rows change accesses and blocks, not the order.
#include "kernels/likelihood.h"

#include <algorithm>
#include <type_traits>

#include "kernels/divisor.h"
#include "kernels/loaded_quad.h"
#include "kernels/loss_parts.h"
#include "kernels/quad.h"
#include "kernels/reduce.h"

namespace elbo::kernels {
namespace {

using BernoulliLoss = math::Bernoulli<math::Approximate>;
using GaussianLoss = math::Gaussian<math::Approximate>;
template <PixelMean mean>
using GaussianLearnedLoss = math::GaussianLearned<math::Approximate, mean>;

constexpr unsigned quads_per_lane = 8;
constexpr unsigned strip_pixels = quads_per_lane * warp_size * 4;  // a warp's part of a row
constexpr unsigned max_warps = pixel_chunk / strip_pixels, max_threads = max_warps * warp_size;

// ---- Sums of losses ---------------------------------------------------------------------------------

// The sum of a lane's losses; add() returns the gradient of the one it adds.
template <class Loss>
class Sum {
 public:
  __device__ explicit Sum(const Loss& loss) : loss_(loss) {}
  __device__ PixelOutput<Loss::outputs> add(PixelOutput<Loss::outputs> output, float x) {
    const math::PixelLoss<float, Loss::outputs> p = loss_(output, x);
    sum_ += p.value;
    return p.grad;
  }
  __device__ float total() const { return sum_; }

 private:
  Loss loss_;
  float sum_ = 0.0f;
};

// The same of losses that have parts, with one logarithm for all pixels: that of the product of their factors.
template <class Loss>
class LogOfProduct {
 public:
  __device__ explicit LogOfProduct(const Loss& loss) : loss_(loss) {}
  __device__ PixelOutput<Loss::outputs> add(PixelOutput<Loss::outputs> output, float x) {
    const math::PixelLossParts<float, Loss::outputs> p = loss_.parts(output, x);
    linear_ += p.linear;
    product_ *= p.factor;
    return p.grad;
  }
  __device__ float total() const { return linear_ + Loss::log_part * math::log(product_); }

 private:
  Loss loss_;
  float linear_ = 0.0f, product_ = 1.0f;
};
static_assert(4 * quads_per_lane <= 127, "the product of the factors must stay below 2^127");

// ---- A warp's part ----------------------------------------------------------------------------------

// Who does what: a warp takes a strip of a chunk. Where rows are one strip long, each warp of a block takes a row of
// its own; elsewhere a block takes a chunk.
struct Partition {
  Divisor chunks_of_row, samples;
  unsigned row_chunks, chunks;  // of a row; of all rows
  bool is_row_a_strip;
};

// What a lane has of its warp's strip: quads lane, lane + 32, ... All loads are under way when it is made. outputs: of
// a pixel.
template <bool aligned, int outputs, class Target, class Output>
struct Lane {
  unsigned chunk;
  int pixels;       // from its first one to the end of the chunk; less than 1: it has none
  std::int64_t at;  // of its first pixel in output and grad
  LoadedQuad<aligned, Output> output[outputs][quads_per_lane];
  LoadedQuad<aligned, Target> target[quads_per_lane];

  // All 32 lanes must call it.
  __device__ __forceinline__ Lane(const LikelihoodLoss<Target, Output>& a, const Partition& parts) {
    const unsigned warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
    chunk = parts.is_row_a_strip ? blockIdx.x * (blockDim.x / warp_size) + warp : blockIdx.x;
    const unsigned row = parts.chunks_of_row.quotient(chunk);
    const std::int64_t begin = std::int64_t{chunk - row * parts.row_chunks} * pixel_chunk;  // of the chunk in its row
    const unsigned first = 4 * lane + (parts.is_row_a_strip ? 0 : warp * strip_pixels);
    const std::int64_t left = a.pixels - begin;
    pixels = static_cast<int>(left < pixel_chunk ? left : pixel_chunk) - static_cast<int>(first);
    if (chunk >= parts.chunks) pixels = 0;
    at = row * outputs * a.pixels + begin + first;
    const Target* const targets = a.target + parts.samples.quotient(row) * a.pixels + begin + first;
#pragma unroll
    for (int i = 0; i < outputs; ++i) {
      const Output* const of_mine = a.output + at + i * a.pixels;
#pragma unroll
      for (unsigned k = 0; k < quads_per_lane; ++k) output[i][k].load(of_mine + step(k), pixels - step(k));
    }
#pragma unroll
    for (unsigned k = 0; k < quads_per_lane; ++k) target[k].load(targets + step(k), pixels - step(k));
    all_under_way();
  }

  __device__ static constexpr int step(unsigned k) { return static_cast<int>(4 * warp_size * k); }

  // f(j, output, x) for each of its pixels in order, the j-th of its quad; after quad k done(k, pixels from its first).
  template <class F, class Done>
  __device__ __forceinline__ void for_each(const F& f, const Done& done) const {
#pragma unroll
    for (unsigned k = 0; k < quads_per_lane; ++k) {
      const int count = pixels - step(k);
      if (count <= 0) break;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (aligned || j < count) f(j, pixel_output(k, j), target[k][j]);
      }
      done(k, count);
    }
  }

  // Writes scale * gradient_of(output, x) of each of its pixels.
  template <class F>
  __device__ __forceinline__ void store_gradients(const LikelihoodLoss<Target, Output>& a, float scale,
                                                  const F& gradient_of) const {
    Output* const mine = a.grad + at;
    Quad<Output> g[outputs];
    for_each(
        [&](int j, PixelOutput<outputs> o, float x) {
          const PixelOutput<outputs> d = gradient_of(o, x);
#pragma unroll
          for (int i = 0; i < outputs; ++i) g[i].v[j] = math::round_to<Output>(scale * d[i]);
        },
        [&](unsigned k, int count) {
#pragma unroll
          for (int i = 0; i < outputs; ++i)
            store_quad<aligned>(mine + i * a.pixels + step(k), g[i], aligned ? 4 : count);
        });
  }

 private:
  __device__ __forceinline__ PixelOutput<outputs> pixel_output(unsigned k, int j) const {
    if constexpr (outputs == 1) {
      return {output[0][k][j]};
    } else {
      return {output[0][k][j], output[1][k][j]};
    }
  }
};

// ---- Value and gradient -----------------------------------------------------------------------------

template <bool aligned, class Sum, class Loss, class Target, class Output>
__device__ __forceinline__ void likelihood_fused_of(const Loss& loss, const LikelihoodLoss<Target, Output>& a,
                                                    const Partition& parts) {
  ELBO_SHARED(float, warp_sums, max_warps);
  using Pixel = PixelOutput<Loss::outputs>;
  const Lane<aligned, Loss::outputs, Target, Output> lane(a, parts);
  Sum sum(loss);
  if (a.grad) {
    lane.store_gradients(a, a.grad_scale, [&](Pixel o, float x) { return sum.add(o, x); });
  } else {
    lane.for_each([&](int, Pixel o, float x) { sum.add(o, x); }, [](unsigned, int) {});
  }
  float total = warp_sum(sum.total());
  if (!parts.is_row_a_strip) {
    const unsigned warp = threadIdx.x / warp_size, warps = blockDim.x / warp_size;
    if (threadIdx.x % warp_size == 0) warp_sums[warp] = total;
    __syncthreads();
    if (threadIdx.x != 0) return;
#pragma unroll
    for (unsigned w = 1; w < max_warps; ++w) {
      if (w < warps) total += warp_sums[w];
    }
  }
  if (threadIdx.x % warp_size == 0 && lane.chunk < parts.chunks) a.nll_partial[lane.chunk] = total;
}

template <bool aligned, class Target, class Output>
__global__ void __launch_bounds__(max_threads)
    likelihood_fused_bernoulli_kernel(const LikelihoodLoss<Target, Output> a, const Partition parts) {
  likelihood_fused_of<aligned, LogOfProduct<BernoulliLoss>>(BernoulliLoss{}, a, parts);
}

template <bool aligned, class Target, class Output>
__global__ void __launch_bounds__(max_threads)
    likelihood_fused_log_bernoulli_kernel(const LikelihoodLoss<Target, Output> a, const Partition parts) {
  likelihood_fused_of<aligned, Sum<BernoulliLoss>>(BernoulliLoss{}, a, parts);
}

template <bool aligned, class Target, class Output>
__global__ void __launch_bounds__(max_threads)
    likelihood_fused_gaussian_kernel(const GaussianLoss g, const LikelihoodLoss<Target, Output> a,
                                     const Partition parts) {
  likelihood_fused_of<aligned, Sum<GaussianLoss>>(g, a, parts);
}

template <bool aligned, PixelMean mean, class Target, class Output>
__global__ void __launch_bounds__(max_threads)
    likelihood_fused_gaussian_learned_kernel(const LikelihoodLoss<Target, Output> a, const Partition parts) {
  using Loss = GaussianLearnedLoss<mean>;
  likelihood_fused_of<aligned, LogOfProduct<Loss>>(Loss{}, a, parts);
}

template <bool aligned, PixelMean mean, class Target, class Output>
__global__ void __launch_bounds__(max_threads)
    likelihood_fused_log_gaussian_learned_kernel(const LikelihoodLoss<Target, Output> a, const Partition parts) {
  using Loss = GaussianLearnedLoss<mean>;
  likelihood_fused_of<aligned, Sum<Loss>>(Loss{}, a, parts);
}

// ---- The gradient alone: the second of two passes ----------------------------------------------------

template <bool aligned, class Loss, class Target, class Output>
__global__ void __launch_bounds__(max_threads)
    likelihood_gradient_kernel(const Loss loss, const LikelihoodLoss<Target, Output> a, const Partition parts) {
  const Lane<aligned, Loss::outputs, Target, Output> lane(a, parts);
  const bool is_weighed = a.dnll_partial && lane.chunk < parts.chunks;
  const float weight = is_weighed ? a.dnll_partial[lane.chunk] : 0.0f;
  all_under_way();
  lane.store_gradients(a, a.grad_scale + weight,
                       [&](PixelOutput<Loss::outputs> o, float x) { return loss(o, x).grad; });
}

// ---- Launches ---------------------------------------------------------------------------------------

// f(aligned, partition, grid), with std::true_type where each quad can be one access.
template <class Target, class Output, class F>
void with_partition(const char* launcher, const LikelihoodLoss<Target, Output>& a, cudaStream_t stream, const F& f) {
  check(launcher, a);
  const std::int64_t row_chunks = ceil_div(a.pixels, pixel_chunk);
  const unsigned chunks = blocks_for(launcher, a.rows * a.samples * row_chunks);
  const Partition parts{.chunks_of_row = Divisor(row_chunks),
                        .samples = Divisor(a.samples),
                        .row_chunks = static_cast<unsigned>(row_chunks),
                        .chunks = chunks,
                        .is_row_a_strip = a.pixels <= strip_pixels};
  // Few rows spread over the multiprocessors; of many, a block takes several.
  constexpr unsigned many_rows = 2048;
  const unsigned warps = parts.is_row_a_strip
                             ? (chunks < many_rows ? 1 : max_warps)
                             : static_cast<unsigned>(ceil_div(std::min(a.pixels, pixel_chunk), strip_pixels));
  const Grid grid{.blocks = parts.is_row_a_strip ? (chunks + warps - 1) / warps : chunks,
                  .threads = warps * warp_size,
                  .stream = stream};
  const bool is_aligned_for_quads = a.pixels % 4 == 0 && is_aligned(a.output, 4 * sizeof(Output)) &&
                                    is_aligned(a.grad, 4 * sizeof(Output)) && is_aligned(a.target, 4 * sizeof(Target));
  is_aligned_for_quads ? f(std::true_type{}, parts, grid) : f(std::false_type{}, parts, grid);
}

// The value and, unless grad is null, the gradient. is_log_of_product: whether a lane takes one logarithm.
template <bool is_log_of_product, class Target, class Output>
void launch_fused(const char* launcher, Likelihood likelihood, const LikelihoodLoss<Target, Output>& a,
                  cudaStream_t stream) {
  with_partition(launcher, a, stream, [&](auto aligned, const Partition& parts, const Grid& grid) {
    switch (likelihood) {
      case Likelihood::bernoulli:
        if constexpr (is_log_of_product) {
          launch("likelihood_fused_bernoulli_kernel", likelihood_fused_bernoulli_kernel<aligned, Target, Output>, grid,
                 a, parts);
        } else {
          launch("likelihood_fused_log_bernoulli_kernel",
                 likelihood_fused_log_bernoulli_kernel<aligned, Target, Output>, grid, a, parts);
        }
        break;
      case Likelihood::gaussian:
        check_variance(launcher, a.variance);
        launch("likelihood_fused_gaussian_kernel", likelihood_fused_gaussian_kernel<aligned, Target, Output>, grid,
               GaussianLoss(a.variance), a, parts);
        break;
      case Likelihood::gaussian_learned:
        math::with_pixel_mean(a.mean, [&](auto mean) {
          if constexpr (is_log_of_product) {
            launch("likelihood_fused_gaussian_learned_kernel",
                   likelihood_fused_gaussian_learned_kernel<aligned, mean, Target, Output>, grid, a, parts);
          } else {
            launch("likelihood_fused_log_gaussian_learned_kernel",
                   likelihood_fused_log_gaussian_learned_kernel<aligned, mean, Target, Output>, grid, a, parts);
          }
        });
        break;
    }
  });
}

template <class Target, class Output>
void launch_gradient(const char* launcher, Likelihood likelihood, const LikelihoodLoss<Target, Output>& a,
                     cudaStream_t stream) {
  with_partition(launcher, a, stream, [&](auto aligned, const Partition& parts, const Grid& grid) {
    with_loss<math::Approximate>(launcher, likelihood, a, [&]<class Loss>(const Loss& loss) {
      launch("likelihood_gradient_kernel", likelihood_gradient_kernel<aligned, Loss, Target, Output>, grid, loss, a,
             parts);
    });
  });
}

// A pass for each of value and gradient that is wanted.
template <bool is_log_of_product, class Target, class Output>
void launch_two_passes(const char* launcher, Likelihood likelihood, const LikelihoodLoss<Target, Output>& a,
                       cudaStream_t stream) {
  check(launcher, a);
  LikelihoodLoss<Target, Output> value = a;
  value.grad = nullptr;
  if (a.nll_partial) launch_fused<is_log_of_product>(launcher, likelihood, value, stream);
  if (a.grad) launch_gradient(launcher, likelihood, a, stream);
}

// One pass for both, where both are wanted and every row's gradient has the same weight.
template <bool is_log_of_product, class Target, class Output>
void launch_one_pass(const char* launcher, Likelihood likelihood, const LikelihoodLoss<Target, Output>& a,
                     cudaStream_t stream) {
  a.nll_partial && !a.dnll_partial ? launch_fused<is_log_of_product>(launcher, likelihood, a, stream)
                                   : launch_two_passes<is_log_of_product>(launcher, likelihood, a, stream);
}

}  // namespace

template <class Target, class Output>
void likelihood_fused(Likelihood likelihood, const LikelihoodLoss<Target, Output>& a, cudaStream_t stream) {
  const Range range("likelihood_fused");
  launch_one_pass<true>("likelihood_fused", likelihood, a, stream);
}

template <class Target, class Output>
void likelihood_fused_log(Likelihood likelihood, const LikelihoodLoss<Target, Output>& a, cudaStream_t stream) {
  const Range range("likelihood_fused_log");
  launch_one_pass<false>("likelihood_fused_log", likelihood, a, stream);
}

template <class Target, class Output>
void likelihood_two_pass(Likelihood likelihood, const LikelihoodLoss<Target, Output>& a, cudaStream_t stream) {
  const Range range("likelihood_two_pass");
  launch_two_passes<true>("likelihood_two_pass", likelihood, a, stream);
}

#define FOR_TYPES(Target, Output)                                                                      \
  template void likelihood_fused(Likelihood, const LikelihoodLoss<Target, Output>&, cudaStream_t);     \
  template void likelihood_fused_log(Likelihood, const LikelihoodLoss<Target, Output>&, cudaStream_t); \
  template void likelihood_two_pass(Likelihood, const LikelihoodLoss<Target, Output>&, cudaStream_t);
FOR_TYPES(std::uint8_t, float)
FOR_TYPES(float, float)
FOR_TYPES(std::uint8_t, math::Bf16)
FOR_TYPES(float, math::Bf16)
#undef FOR_TYPES

}  // namespace elbo::kernels
