// Sample the latent variable and sum its KL divergence; the gradient of both.
//
// What: z = mu + sigma eps, eps of (row, sample, dimension) = the standard normal drawn for it, never
//   stored: the backward pass draws it again. kl_partial: the KL of each latent unit, summed over the rows
//   of a tile of 32 in the order of the rows.
//   dmu = sum over samples of dz + kl_scale dKL/dmu;  ds = sum over samples of dz dz/ds + kl_scale dKL/ds.
// Shapes: stats, dstats [rows, 2 latent] (mu, then s); z, dz [rows, samples, latent];
//   kl_partial [tiles(rows, 32), latent].
// Bytes, fused: reads the statistics (again for every 8 samples) and dz once; writes z, the partial sums
//   and dstats once. Unfused: one launch for each operation, through a scratch buffer of z's size.
// Deterministic: sums run over rows and over samples in their order; fused and unfused give the same bits.
#include "kernels/latent.h"

#include "elbo/backend.h"
#include "elbo/math/latent.h"
#include "elbo/math/random.h"
#include "kernels/launcher.h"
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

__device__ math::Draw draw_of(const StepState& state, std::int64_t row, std::int64_t sample) {
  return {state.seed, Purpose::latent, state.noise_step, state.row0 + static_cast<std::uint32_t>(row),
          static_cast<std::uint32_t>(sample)};
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

// ---- Unfused: one thread for an element -------------------------------------------------------------

constexpr unsigned threads = 256;

// eps [rows, samples, latent]
__global__ void __launch_bounds__(threads)
    draw_epsilon(float* eps, const StepState* state, std::int64_t rows, std::int64_t samples, std::int64_t latent) {
  const unsigned quads = (latent + 3) / 4, line = element() / quads, quad = element() % quads;
  if (line >= rows * samples) return;
  const unsigned row = line / static_cast<unsigned>(samples), sample = line % static_cast<unsigned>(samples);
  const math::Normals4 n = math::normals(draw_of(*state, row, sample), quad);
  store_quad<false>(eps + line * latent + 4 * quad, {{n.v[0], n.v[1], n.v[2], n.v[3]}}, latent - 4 * quad);
}

__global__ void __launch_bounds__(threads) reparameterise(const LatentSample a, const float* eps) {
  const unsigned i = element(), latent = a.latent, row_size = a.samples * a.latent;
  if (i >= a.rows * row_size) return;
  const float* const stats = a.stats + i / row_size * 2 * a.latent + i % latent;
  a.z[i] = stats[0] + math::posterior_sigma(a.posterior, stats[a.latent]) * eps[i];
}

// kl [rows, latent]
__global__ void __launch_bounds__(threads) kl_values(const LatentSample a, float* kl) {
  const unsigned i = element(), latent = a.latent;
  if (i >= a.rows * a.latent) return;
  const float* const stats = a.stats + i / latent * 2 * a.latent + i % latent;
  kl[i] = math::gaussian_kl(a.posterior, stats[0], stats[a.latent]);
}

__global__ void __launch_bounds__(threads) kl_tile_sums(const LatentSample a, const float* kl) {
  const unsigned i = element(), latent = a.latent, tile = i / latent, unit = i % latent;
  const std::int64_t first = std::int64_t{tile} * tile_rows;
  if (first >= a.rows) return;
  float sum = 0.0f;
  for (std::int64_t row = first; row < first + tile_rows && row < a.rows; ++row) sum += kl[row * a.latent + unit];
  a.kl_partial[i] = sum;
}

// In place: eps becomes dz dz/ds.
__global__ void __launch_bounds__(threads) sample_slopes(const LatentGradient a, float* eps) {
  const unsigned i = element(), latent = a.latent, row_size = a.samples * a.latent;
  if (i >= a.rows * row_size) return;
  const float s = a.stats[i / row_size * 2 * a.latent + a.latent + i % latent];
  eps[i] = a.dz[i] * math::sample_slope(a.posterior, s, eps[i]);
}

__global__ void __launch_bounds__(threads) sum_over_samples(const LatentGradient a, const float* slopes) {
  const unsigned i = element(), latent = a.latent, row = i / latent, unit = i % latent;
  if (row >= a.rows) return;
  float dmu = 0.0f, ds = 0.0f;
  for (std::int64_t at = row * a.samples * a.latent + unit, n = 0; n < a.samples; ++n, at += a.latent) {
    dmu += a.dz[at];
    ds += slopes[at];
  }
  a.dstats[row * 2 * a.latent + unit] = dmu;
  a.dstats[row * 2 * a.latent + a.latent + unit] = ds;
}

__global__ void __launch_bounds__(threads) add_kl_gradient(const LatentGradient a) {
  const unsigned i = element(), latent = a.latent;
  if (i >= a.rows * a.latent) return;
  const std::int64_t at = i / latent * 2 * a.latent + i % latent;
  const math::LatentGrad<float> kl = math::gaussian_kl_grad(a.posterior, a.stats[at], a.stats[at + a.latent]);
  a.dstats[at] += a.kl_scale * kl.mu;
  a.dstats[at + a.latent] += a.kl_scale * kl.s;
}

void check(const char* launcher, const void* stats, const void* z, const StepState* state, const void* out,
           std::int64_t rows, std::int64_t samples, std::int64_t latent) {
  require(stats && z && state && out, launcher, ": a null buffer");
  require(rows > 0 && samples > 0 && latent > 0, launcher, ": ", rows, " rows, ", samples, " samples, ", latent,
          " latent dimensions; each should be at least 1");
}

}  // namespace

void sample_latent_fused(const LatentSample& a, cudaStream_t stream) {
  check("sample_latent_fused", a.stats, a.z, a.state, a.kl_partial, a.rows, a.samples, a.latent);
  const Range range("sample_latent_fused");
  const unsigned quads = quads_of(a.latent);
  const std::int64_t strips = (a.latent + 4 * quads - 1) / (4 * quads);
  const unsigned blocks =
      blocks_for("sample_latent_fused", tiles(a.rows, latent_tile) * strips * tiles(a.samples, samples_per_block), 1);
  const bool aligned = a.latent % 4 == 0 && is_aligned(a.stats, 16) && is_aligned(a.z, 16);
  launch("sample_and_kl", aligned ? sample_and_kl<true> : sample_and_kl<false>, {blocks, tile_rows * quads, stream}, a);
}

void latent_gradient_fused(const LatentGradient& a, cudaStream_t stream) {
  check("latent_gradient_fused", a.stats, a.dz, a.state, a.dstats, a.rows, a.samples, a.latent);
  const Range range("latent_gradient_fused");
  constexpr unsigned block = 64;  // small, so that a small batch still spreads over the multiprocessors
  const unsigned blocks = blocks_for("latent_gradient_fused", a.rows * tiles(a.latent, 4), block);
  const bool aligned = a.latent % 4 == 0 && is_aligned(a.stats, 16) && is_aligned(a.dz, 16) && is_aligned(a.dstats, 16);
  launch("latent_gradient", aligned ? latent_gradient<true> : latent_gradient<false>, {blocks, block, stream}, a);
}

void sample_latent_unfused(const LatentSample& a, float* scratch, cudaStream_t stream) {
  check("sample_latent_unfused", a.stats, a.z, a.state, a.kl_partial, a.rows, a.samples, a.latent);
  require(scratch != nullptr, "sample_latent_unfused: no scratch");
  const Range range("sample_latent_unfused");
  const auto grid = [&](std::int64_t n) {
    return Grid{blocks_for("sample_latent_unfused", n, threads), threads, stream};
  };
  launch("draw_epsilon", draw_epsilon, grid(a.rows * a.samples * tiles(a.latent, 4)), scratch, a.state, a.rows,
         a.samples, a.latent);
  launch("reparameterise", reparameterise, grid(a.rows * a.samples * a.latent), a, scratch);
  launch("kl_values", kl_values, grid(a.rows * a.latent), a, scratch);
  launch("kl_tile_sums", kl_tile_sums, grid(tiles(a.rows, latent_tile) * a.latent), a, scratch);
}

void latent_gradient_unfused(const LatentGradient& a, float* scratch, cudaStream_t stream) {
  check("latent_gradient_unfused", a.stats, a.dz, a.state, a.dstats, a.rows, a.samples, a.latent);
  require(scratch != nullptr, "latent_gradient_unfused: no scratch");
  const Range range("latent_gradient_unfused");
  const auto grid = [&](std::int64_t n) {
    return Grid{blocks_for("latent_gradient_unfused", n, threads), threads, stream};
  };
  launch("draw_epsilon", draw_epsilon, grid(a.rows * a.samples * tiles(a.latent, 4)), scratch, a.state, a.rows,
         a.samples, a.latent);
  launch("sample_slopes", sample_slopes, grid(a.rows * a.samples * a.latent), a, scratch);
  launch("sum_over_samples", sum_over_samples, grid(a.rows * a.latent), a, scratch);
  launch("add_kl_gradient", add_kl_gradient, grid(a.rows * a.latent), a);
}

}  // namespace elbo::kernels
