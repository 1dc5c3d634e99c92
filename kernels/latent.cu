// Sample the latent variable and sum its KL divergence; the gradient of both.
//
// What: z = mu + sigma eps, eps of (row, sample, dimension) = the standard normal drawn for it, never
//   stored: the backward pass draws it again. kl_partial: the KL of each latent unit, summed over the rows
//   of a tile of 32 in the order of the rows.
//   dmu = sum over samples of dz + kl_scale dKL/dmu;  ds = sum over samples of dz dz/ds + kl_scale dKL/ds.
// Shapes: stats, dstats [rows, 2 latent] (mu, then s); z, dz [rows, samples, latent];
//   kl_partial [tiles(rows, 32), latent].
// Bytes: reads the statistics (again for every 8 samples) and dz once; writes z, the partial sums and dstats once:
//   sample_latent 4 an element of z, 8 of mu and 4 of the sums; latent_gradient 4 an element of dz, 16 of mu.
//   (unfused.cu: 12, 24 and 4; 24 and 36.)
// Rivals: fused is the default, since it moves the least and was the fastest on a CPU, beside the CPU's unfused loops
//   (`elbo bench loss`). On a GPU they have not been measured yet.
// Deterministic: sums run over rows and over samples in their order; fused and unfused give the same bits.
#include "kernels/latent.h"

#include "elbo/math/latent.h"
#include "kernels/loss_parts.h"
#include "kernels/quad.h"

namespace elbo::kernels {
namespace {

constexpr unsigned tile_rows = latent_tile;
constexpr unsigned max_quads = 8;  // quads of dimensions that a block takes
constexpr std::int64_t samples_per_block = 8;
constexpr unsigned max_threads = tile_rows * max_quads;

// A block is one tile of rows by up to 8 quads of dimensions: threads = 32 * quads, and thread t has
// row t / quads of the tile and quad t % quads.
unsigned quads_of(std::int64_t latent) {
  unsigned quads = 1;
  while (quads < max_quads && 4 * quads < latent) quads *= 2;
  return quads;
}

__device__ unsigned element() { return blockIdx.x * blockDim.x + threadIdx.x; }

// ---- Fused ------------------------------------------------------------------------------------------

// Block b: tile, then strip of dimensions, then range of samples, the last fastest. The block of the first
// samples also sums the KL.
template <bool aligned>
__global__ void __launch_bounds__(max_threads) sample_and_kl(const LatentSample a) {
  ELBO_SHARED(float, kl, tile_rows * 4 * max_quads);  // [row of the tile][dimension of the strip]
  const unsigned quads = blockDim.x / tile_rows, width = 4 * quads;
  const unsigned ranges = (a.samples + samples_per_block - 1) / samples_per_block;
  const unsigned strips = (a.latent + width - 1) / width;
  const unsigned range = blockIdx.x % ranges, strip = blockIdx.x / ranges % strips, tile = blockIdx.x / ranges / strips;
  const unsigned tile_row = threadIdx.x / quads, column = threadIdx.x % quads * 4;
  const std::int64_t row = tile * tile_rows + tile_row, dimension = strip * width + column;
  const std::int64_t left = a.latent - dimension;

  if (row < a.rows && left > 0) {
    const std::int64_t count = aligned ? 4 : left;
    const float* const stats = a.stats + row * 2 * a.latent + dimension;
    const Quad<float> mu = load_quad<aligned>(stats, count), s = load_quad<aligned>(stats + a.latent, count);
    Quad<float> sigma;
#pragma unroll
    for (int j = 0; j < 4; ++j) sigma.v[j] = math::posterior_sigma(a.posterior, s.v[j]);
    const std::int64_t first = range * samples_per_block, end = first + samples_per_block;
    for (std::int64_t sample = first; sample < end && sample < a.samples; ++sample) {
      const math::Normals4 eps =
          math::normals(draw_of(*a.state, row, sample), static_cast<std::uint32_t>(dimension / 4));
      Quad<float> z;
#pragma unroll
      for (int j = 0; j < 4; ++j) z.v[j] = mu.v[j] + sigma.v[j] * eps.v[j];
      store_quad<aligned>(a.z + (row * a.samples + sample) * a.latent + dimension, z, count);
    }
    if (range == 0) {
#pragma unroll
      for (int j = 0; j < 4; ++j) kl[tile_row * width + column + j] = math::gaussian_kl(a.posterior, mu.v[j], s.v[j]);
    }
  }
  if (range != 0) return;
  __syncthreads();
  const unsigned summed = strip * width + threadIdx.x;
  if (threadIdx.x < width && summed < a.latent) {
    const std::int64_t rows = a.rows - tile * tile_rows;
    float sum = 0.0f;
    for (unsigned r = 0; r < tile_rows && r < rows; ++r) sum += kl[r * width + threadIdx.x];
    a.kl_partial[tile * a.latent + summed] = sum;
  }
}

// One thread for a row's quad of dimensions; it walks through the samples.
template <bool aligned>
__global__ void __launch_bounds__(max_threads) latent_gradient(const LatentGradient a) {
  const unsigned quads = (a.latent + 3) / 4, i = element();
  const std::int64_t row = i / quads, dimension = i % quads * 4;
  if (row >= a.rows) return;
  const std::int64_t count = aligned ? 4 : a.latent - dimension;
  const float* const stats = a.stats + row * 2 * a.latent + dimension;
  const Quad<float> mu = load_quad<aligned>(stats, count), s = load_quad<aligned>(stats + a.latent, count);
  Quad<float> dmu{}, ds{};
  for (std::int64_t sample = 0; sample < a.samples; ++sample) {
    const Quad<float> dz = load_quad<aligned>(a.dz + (row * a.samples + sample) * a.latent + dimension, count);
    const math::Normals4 eps = math::normals(draw_of(*a.state, row, sample), static_cast<std::uint32_t>(dimension / 4));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      dmu.v[j] += dz.v[j];
      ds.v[j] += dz.v[j] * math::sample_slope(a.posterior, s.v[j], eps.v[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const math::LatentGrad<float> kl = math::gaussian_kl_grad(a.posterior, mu.v[j], s.v[j]);
    dmu.v[j] += a.kl_scale * kl.mu;
    ds.v[j] += a.kl_scale * kl.s;
  }
  float* const dstats = a.dstats + row * 2 * a.latent + dimension;
  store_quad<aligned>(dstats, dmu, count);
  store_quad<aligned>(dstats + a.latent, ds, count);
}

}  // namespace

void sample_latent_fused(const LatentSample& a, cudaStream_t stream) {
  check("sample_latent_fused", a);
  const Range range("sample_latent_fused");
  const unsigned quads = quads_of(a.latent);
  const std::int64_t strips = (a.latent + 4 * quads - 1) / (4 * quads);
  const unsigned blocks =
      blocks_for("sample_latent_fused", tiles(a.rows, latent_tile) * strips * tiles(a.samples, samples_per_block), 1);
  const bool aligned = a.latent % 4 == 0 && is_aligned(a.stats, 16) && is_aligned(a.z, 16);
  launch("sample_and_kl", aligned ? sample_and_kl<true> : sample_and_kl<false>, {blocks, tile_rows * quads, stream}, a);
}

void latent_gradient_fused(const LatentGradient& a, cudaStream_t stream) {
  check("latent_gradient_fused", a);
  const Range range("latent_gradient_fused");
  constexpr unsigned block = 64;  // small, so that a small batch still spreads over the multiprocessors
  const unsigned blocks = blocks_for("latent_gradient_fused", a.rows * tiles(a.latent, 4), block);
  const bool aligned = a.latent % 4 == 0 && is_aligned(a.stats, 16) && is_aligned(a.dz, 16) && is_aligned(a.dstats, 16);
  launch("latent_gradient", aligned ? latent_gradient<true> : latent_gradient<false>, {blocks, block, stream}, a);
}

}  // namespace elbo::kernels
