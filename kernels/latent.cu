// Sample the latent variable and sum its KL divergence; the gradient of both.
//
// What: z = mu + sigma eps, eps of (row, sample, dimension) = the standard normal drawn for it, never
//   stored: the backward pass draws it again. kl_partial: the KL of each latent unit, summed over the rows
//   of a tile of 32 in the order of the rows.
//   dmu = sum over samples of dz + kl_scale dKL/dmu;  ds = sum over samples of dz dz/ds + kl_scale dKL/ds.
//   sampled_kl = log q(z|x) - log p(z) of each draw, the sum over its dimensions; with a weight w for it, dz above is
//   dz + w z, and ds has w d(sampled_kl)/ds, z held, besides.
// Shapes: stats, dstats [rows, 2 latent] (mu, then s); z, dz [rows, samples, latent];
//   kl_partial [ceil_div(rows, 32), latent]; sampled_kl, dsampled_kl [rows, samples].
// Launches: sample_latent 1, or 2 where both kinds of the KL are wanted; sample_latent_backward 1.
// Bytes: reads the statistics (again for every 8 samples, with sampled_kl for each) and dz once; writes z, the partial
//   sums and dstats once; sampled_kl and its gradient are 4 a draw:
//   sample_latent 4 an element of z, 8 of mu and 4 of the sums; sample_latent_backward 4 an element of dz, 16 of mu.
//   (unfused.cu: 12, 24 and 4; 24 and 36.)
// Rivals: fused is the default, since it moves the least and was the fastest on a CPU, beside the CPU's unfused loops
//   (`elbo bench loss`). On a GPU they have not been measured yet.
// Instructions, counted in the machine code for sm_90, aligned, one sample, log variance, 65536 x 128 (tools/kernels/
//   sass.py): sample_latent 61 lane slots an element, sample_latent_backward 70; with the KL of the draws 73 and 81;
//   nothing calls a slow path. To issue
//   them takes 17 and 20 us of an H200, its memory 23 and 39. Of the slots of an element, noise takes 40: Philox's
//   products and exclusive ors 9, the logarithm 11, the root 3, sine and cosine 6, angle and signs 5, round keys 2
//   (backward 4); that is what its bits are made of, and no more. Sample and KL take 11: sigma 2, KL 5, z 1, the KL's
//   way through shared memory and its sum 4 (half of the warps do it). The gradient takes 17: two exponentials 4, the
//   slope, products and sums 13. Loads, stores, addresses and what a thread sets up take 10 (backward 12). A thread
//   takes four rows (two) so that they share the round keys, Philox's first rounds and the set-up.
// Arithmetic: math::Approximate; epsilon has the same bits on every device.
// Deterministic: sums run over rows and over samples in their order; fused and unfused give the same bits, but for
//   sampled_kl: a lane adds up its dimensions, then the lanes in a fixed tree that follows from `latent` alone.
#include "kernels/latent.h"

#include <algorithm>
#include <bit>
#include <type_traits>

#include "elbo/math/latent.h"
#include "elbo/sizes.h"
#include "kernels/divisor.h"
#include "kernels/loaded_quad.h"
#include "kernels/loss_parts.h"
#include "kernels/quad.h"

namespace elbo::kernels {
namespace {

using math::Approximate;

constexpr unsigned tile_rows = latent_tile;
constexpr std::int64_t samples_per_block = 8;
constexpr unsigned max_threads = 256;
constexpr unsigned backward_threads = 64;  // few, so that a small batch still spreads over the GPU

// How many rows a thread takes. Several rows share what a thread sets up. Of a small batch a thread takes one row,
// since threads with several would be too few for the GPU.
constexpr unsigned many_rows = 4, many_backward_rows = 2;
constexpr std::int64_t small = 1 << 17;  // elements of mu, and again for each range of samples

// Which block does what: tile, then strip of dimensions, then range of samples, the last fastest.
struct SampleBlocks {
  Divisor of_ranges, of_strips;
  unsigned ranges, strips, log2_quads;
};

// ---- Fused ------------------------------------------------------------------------------------------

// A block is one tile of rows by a strip of dimensions: thread t has the strip's quad t % quads, of the tile's rows
// from t / quads * n on, n of them. The block of the first samples also sums the KL.
template <bool aligned, Posterior posterior, unsigned n>
__global__ void __launch_bounds__(max_threads, resident_blocks(max_threads, n == many_rows ? 3 : 5))
    sample_latent_kernel(const SampleLatent a, const SampleBlocks blocks) {
  constexpr unsigned max_width = 4 * max_threads * n / tile_rows;
  ELBO_SHARED(float4, kl_quads, tile_rows * max_width / 4);  // [row of the tile][quad of the strip]
  const StepState state = *a.state;
  const unsigned quads = 1u << blocks.log2_quads, width = 4 * quads;
  const unsigned line = blocks.of_ranges.quotient(blockIdx.x), range = blockIdx.x - line * blocks.ranges;
  const unsigned tile = blocks.of_strips.quotient(line), strip = line - tile * blocks.strips;
  const unsigned column = (threadIdx.x & (quads - 1)) * 4, tile_row = (threadIdx.x >> blocks.log2_quads) * n;
  const unsigned dimension = strip * width + column, row = tile * tile_rows + tile_row;
  const auto latent = static_cast<unsigned>(a.latent), samples = static_cast<unsigned>(a.samples);
  const int left = static_cast<int>(latent - dimension), rows = static_cast<int>(static_cast<unsigned>(a.rows) - row);

  LoadedQuad<aligned, float> mu[n], s[n];
  const float* stats = a.stats + (std::uint64_t{row} * (2 * latent) + dimension);
#pragma unroll
  for (int r = 0; r < static_cast<int>(n); ++r, stats += 2 * latent) {
    const int count = r < rows ? left : 0;
    mu[r].load(stats, count);
    s[r].load(stats + latent, count);
  }
  all_under_way();

  Quad<float> sigma[n];
#pragma unroll
  for (int r = 0; r < static_cast<int>(n); ++r) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sigma[r].v[j] = math::posterior_sigma(posterior, s[r][j], Approximate{});
  }
  const bool sums_kl = range == 0 && a.kl_partial;
  if (sums_kl) {
#pragma unroll
    for (int r = 0; r < static_cast<int>(n); ++r) {
      float4 q{};
      if (r < rows) {
        q.x = math::gaussian_kl(posterior, mu[r][0], s[r][0], sigma[r].v[0], Approximate{});
        q.y = math::gaussian_kl(posterior, mu[r][1], s[r][1], sigma[r].v[1], Approximate{});
        q.z = math::gaussian_kl(posterior, mu[r][2], s[r][2], sigma[r].v[2], Approximate{});
        q.w = math::gaussian_kl(posterior, mu[r][3], s[r][3], sigma[r].v[3], Approximate{});
      }
      kl_quads[((tile_row + static_cast<unsigned>(r)) * max_width + column) / 4] = q;
    }
  }

  const unsigned first = range * samples_per_block,
                 end = min(first + static_cast<unsigned>(samples_per_block), samples);
  const unsigned row_size = samples * latent;
  float* z_row = a.z + (std::uint64_t{row} * row_size + first * latent + dimension);
  for (unsigned sample = first; sample < end; ++sample, z_row += latent) {
    float* z_at = z_row;
#pragma unroll
    for (int r = 0; r < static_cast<int>(n); ++r, z_at += row_size) {
      const math::Normals4 eps = math::normals(draw_of(state, row + static_cast<unsigned>(r), sample), dimension / 4);
      Quad<float> z;
#pragma unroll
      for (int j = 0; j < 4; ++j) z.v[j] = math::sample(mu[r][j], sigma[r].v[j], eps.v[j], Approximate{});
      if (r < rows && left > 0) store_quad<aligned>(z_at, z, aligned ? 4 : left);
    }
  }
  if (!sums_kl) return;
  __syncthreads();
  const unsigned summed = strip * width + threadIdx.x;
  if (threadIdx.x < width && summed < latent) {
    const float* const kl = reinterpret_cast<const float*>(kl_quads);
    float sum = 0.0f;
#pragma unroll
    for (unsigned r = 0; r < tile_rows; ++r) sum += kl[r * max_width + threadIdx.x];
    a.kl_partial[std::uint64_t{tile} * latent + summed] = sum;
  }
}

constexpr unsigned sampled_threads = 128;

// The sample with the KL divergence of each draw. 2^log2_lanes lanes of a warp share a draw's dimensions, so that the
// sum over them stays within the warp: lane i takes quads i, i + lanes, ...
template <bool aligned, Posterior posterior>
__global__ void __launch_bounds__(sampled_threads)
    sample_latent_sampled_kl_kernel(const SampleLatent a, const Divisor of_samples, unsigned draws,
                                    unsigned log2_lanes) {
  const StepState state = *a.state;
  const unsigned i = blockIdx.x * sampled_threads + threadIdx.x, lanes = 1u << log2_lanes;
  const unsigned draw = i >> log2_lanes, row = of_samples.quotient(draw);
  const auto latent = static_cast<unsigned>(a.latent);
  const unsigned sample = draw - row * static_cast<unsigned>(a.samples), end = draw < draws ? latent : 0;
  const float* const stats = a.stats + std::uint64_t{row} * (2 * latent);
  float* const z_row = a.z + std::uint64_t{draw} * latent;
  float sum = 0.0f;
  for (unsigned dimension = 4 * (i & (lanes - 1)); dimension < end; dimension += 4 * lanes) {
    const unsigned left = aligned ? 4 : latent - dimension;
    const Quad<float> mu = load_quad<aligned>(stats + dimension, left);
    const Quad<float> s = load_quad<aligned>(stats + latent + dimension, left);
    const math::Normals4 eps = math::normals(draw_of(state, row, sample), dimension / 4);
    Quad<float> z;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      z.v[j] = math::sample(mu.v[j], math::posterior_sigma(posterior, s.v[j], Approximate{}), eps.v[j], Approximate{});
      const float kl = math::sampled_kl(posterior, s.v[j], z.v[j], eps.v[j], Approximate{});
      sum += static_cast<unsigned>(j) < left ? kl : 0.0f;
    }
    store_quad<aligned>(z_row + dimension, z, left);
  }
  for (unsigned distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if ((i & (lanes - 1)) == 0 && draw < draws) a.sampled_kl[draw] = sum;
}

// A thread has a quad of dimensions of n rows, and walks through the samples. It loads the next sample while it draws
// the noise of this one. `weighed`: the KL divergence of the draws may count, and that in closed form may not.
template <bool aligned, Posterior posterior, unsigned n, bool weighed>
__global__ void __launch_bounds__(backward_threads)
    sample_latent_backward_kernel(const SampleLatentBackward a, const Divisor of_quads, unsigned quads) {
  const StepState state = *a.state;
  const unsigned i = blockIdx.x * backward_threads + threadIdx.x, group = of_quads.quotient(i),
                 quad = i - group * quads;
  const unsigned row = group * n, dimension = 4 * quad;
  const auto latent = static_cast<unsigned>(a.latent), samples = static_cast<unsigned>(a.samples);
  const int left = static_cast<int>(latent - dimension), rows = static_cast<int>(static_cast<unsigned>(a.rows) - row);
  const int left_of_dz = samples > 0 ? left : 0;
  const unsigned row_size = samples * latent;
  const std::uint64_t first = std::uint64_t{row} * (2 * latent) + dimension;

  LoadedQuad<aligned, float> mu[n], s[n], next[n];
  const float* dz_row = a.dz + (std::uint64_t{row} * row_size + dimension);
  const auto load_next = [&] {
    const float* at = dz_row;
#pragma unroll
    for (int r = 0; r < static_cast<int>(n); ++r, at += row_size) next[r].load(at, r < rows ? left_of_dz : 0);
  };
  const float* stats = a.stats + first;
#pragma unroll
  for (int r = 0; r < static_cast<int>(n); ++r, stats += 2 * latent) {
    const int count = r < rows ? left : 0;
    mu[r].load(stats, count);
    s[r].load(stats + latent, count);
  }
  load_next();
  all_under_way();

  Quad<float> dmu[n]{}, ds[n]{};
  for (unsigned sample = 0; sample < samples;) {
    LoadedQuad<aligned, float> dz[n];
#pragma unroll
    for (int r = 0; r < static_cast<int>(n); ++r) dz[r] = next[r];
    const unsigned now = sample++;
    dz_row += latent;
    if (sample < samples) load_next();
#pragma unroll
    for (int r = 0; r < static_cast<int>(n); ++r) {
      const math::Normals4 eps = math::normals(draw_of(state, row + static_cast<unsigned>(r), now), quad);
      const float weight = weighed && r < rows
                               ? a.weight_of_sampled_kl(std::int64_t{row + static_cast<unsigned>(r)} * samples + now)
                               : 0.0f;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float g = dz[r][j];
        if constexpr (weighed) {
          const float sigma = math::posterior_sigma(posterior, s[r][j], Approximate{});
          g = Approximate::multiply_add(weight, math::sample(mu[r][j], sigma, eps.v[j], Approximate{}), g);
        }
        float through_s = g * math::sample_slope(posterior, s[r][j], eps.v[j], Approximate{});
        if constexpr (weighed) through_s += weight * math::sampled_kl_slope(posterior, s[r][j], Approximate{});
        dmu[r].v[j] += g;
        ds[r].v[j] += through_s;
      }
    }
  }
  float* out = a.dstats + first;
#pragma unroll
  for (int r = 0; r < static_cast<int>(n); ++r, out += 2 * latent) {
    if (!weighed || a.kl_scale != 0.0f) {  // 0 times an infinity were NaN
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const math::LatentGrad<float> kl = math::gaussian_kl_grad(posterior, mu[r][j], s[r][j], Approximate{});
        dmu[r].v[j] = Approximate::multiply_add(a.kl_scale, kl.mu, dmu[r].v[j]);
        ds[r].v[j] = Approximate::multiply_add(a.kl_scale, kl.s, ds[r].v[j]);
      }
    }
    if (r >= rows) break;
    store_quad<aligned>(out, dmu[r], aligned ? 4 : left);
    store_quad<aligned>(out + latent, ds[r], aligned ? 4 : left);
  }
}

// f(constant), the posterior and the rows that a thread takes as a constant's template arguments.
template <Posterior p, unsigned n>
struct Constants {
  static constexpr Posterior posterior = p;
  static constexpr unsigned rows = n;
};
template <unsigned many, class F>
void with_constants(Posterior posterior, std::int64_t work, const F& f) {
  const bool is_log = posterior == Posterior::log_variance;
  if (work < small) {
    is_log ? f(Constants<Posterior::log_variance, 1>{}) : f(Constants<Posterior::sigma, 1>{});
  } else {
    is_log ? f(Constants<Posterior::log_variance, many>{}) : f(Constants<Posterior::sigma, many>{});
  }
}

// The sample with the KL divergence of each draw.
void sample_latent_sampled_kl(const SampleLatent& a, bool aligned, cudaStream_t stream) {
  const std::int64_t quads = ceil_div(a.latent, 4),
                     lanes = std::bit_ceil(static_cast<unsigned>(std::min<std::int64_t>(quads, 32)));
  const unsigned draws = blocks_for("sample_latent_fused", a.rows * a.samples);
  const unsigned blocks = blocks_for("sample_latent_fused", draws * lanes, sampled_threads);
  const bool is_log = a.posterior == Posterior::log_variance;
  constexpr auto log_variance = Posterior::log_variance, sigma = Posterior::sigma;
  launch("sample_latent_sampled_kl_kernel",
         aligned ? (is_log ? sample_latent_sampled_kl_kernel<true, log_variance>
                           : sample_latent_sampled_kl_kernel<true, sigma>)
                 : (is_log ? sample_latent_sampled_kl_kernel<false, log_variance>
                           : sample_latent_sampled_kl_kernel<false, sigma>),
         {blocks, sampled_threads, stream}, a, Divisor(a.samples), draws,
         static_cast<unsigned>(std::countr_zero(static_cast<unsigned>(lanes))));
}

}  // namespace

void sample_latent_fused(const SampleLatent& whole, cudaStream_t stream) {
  check("sample_latent_fused", whole);
  const Range range("sample_latent_fused");
  SampleLatent a = whole;
  const bool aligned = a.latent % 4 == 0 && is_aligned(a.stats, 16) && is_aligned(a.z, 16);
  if (a.sampled_kl) {
    sample_latent_sampled_kl(a, aligned, stream);
    if (!a.kl_partial) return;
    a.z = nullptr;  // the rest: the KL divergence in closed form
    a.samples = 0;
  }
  const std::int64_t ranges = std::max<std::int64_t>(1, ceil_div(a.samples, samples_per_block));
  with_constants<many_rows>(a.posterior, a.rows * ranges * a.latent, [&](auto c) {
    constexpr unsigned groups = tile_rows / c.rows;  // threads that share a tile's quad of dimensions
    unsigned quads = 32 / groups, log2_quads = std::countr_zero(quads);
    for (; groups * quads < max_threads && 4 * quads < a.latent; quads *= 2) ++log2_quads;
    const std::int64_t strips = ceil_div(a.latent, 4 * quads);
    const unsigned blocks = blocks_for("sample_latent_fused", ceil_div(a.rows, latent_tile) * strips * ranges);
    const SampleBlocks which{.of_ranges = Divisor(ranges),
                             .of_strips = Divisor(strips),
                             .ranges = static_cast<unsigned>(ranges),
                             .strips = static_cast<unsigned>(strips),
                             .log2_quads = log2_quads};
    launch("sample_latent_kernel",
           aligned ? sample_latent_kernel<true, c.posterior, c.rows> : sample_latent_kernel<false, c.posterior, c.rows>,
           {blocks, groups * quads, stream}, a, which);
  });
}

void sample_latent_backward_fused(const SampleLatentBackward& a, cudaStream_t stream) {
  check("sample_latent_backward_fused", a);
  const Range range("sample_latent_backward_fused");
  const bool aligned = a.latent % 4 == 0 && is_aligned(a.stats, 16) && is_aligned(a.dz, 16) && is_aligned(a.dstats, 16);
  with_constants<many_backward_rows>(a.posterior, a.rows * a.latent, [&](auto c) {
    const std::int64_t quads = ceil_div(a.latent, 4);
    const unsigned blocks =
        blocks_for("sample_latent_backward_fused", ceil_div(a.rows, c.rows) * quads, backward_threads);
    const auto launch_it = [&](auto weighed) {
      launch("sample_latent_backward_kernel",
             aligned ? sample_latent_backward_kernel<true, c.posterior, c.rows, weighed>
                     : sample_latent_backward_kernel<false, c.posterior, c.rows, weighed>,
             {blocks, backward_threads, stream}, a, Divisor(quads), static_cast<unsigned>(quads));
    };
    a.has_sampled_kl() || a.kl_scale == 0.0f ? launch_it(std::true_type{}) : launch_it(std::false_type{});
  });
}

}  // namespace elbo::kernels
