// Sample the latent variable and sum its KL divergence; the gradient of both.
//
// The lanes of a vector are the rows of a tile: the tile has a fixed number of rows, however few
// dimensions the latent space has.
#include <algorithm>

#include "cpu/constant.h"
#include "cpu/device.h"
#include "elbo/math/latent.h"
#include "elbo/math/random.h"

namespace elbo::cpu {
namespace {

template <class F>
void with_posterior(Posterior posterior, const F& f) {
  switch (posterior) {
    case Posterior::log_variance: return f(constant<Posterior::log_variance>);
    case Posterior::sigma: return f(constant<Posterior::sigma>);
  }
}

// Some rows of a batch, and where the elements of their row r lie in stats [R, 2L], z [R, S, L] and sampled_kl [R, S].
struct Tile {
  std::int64_t first, rows, samples, latent;

  std::int64_t mu(std::int64_t r, std::int64_t d) const { return (first + r) * 2 * latent + d; }
  std::int64_t s(std::int64_t r, std::int64_t d) const { return mu(r, d) + latent; }
  std::int64_t z(std::int64_t r, std::int64_t sample, std::int64_t d) const { return draw(r, sample) * latent + d; }
  std::int64_t draw(std::int64_t r, std::int64_t sample) const { return (first + r) * samples + sample; }
  Tile tile(std::int64_t i) const {
    return {.first = i * latent_tile,
            .rows = std::min(latent_tile, rows - i * latent_tile),
            .samples = samples,
            .latent = latent};
  }
};

// Epsilon of dimensions 4*quad .. 4*quad+3, for one sample of each row of a tile.
struct TileNoise {
  float v[4][latent_tile];

  void draw(const StepState& state, const Tile& t, std::int64_t sample, std::int64_t quad) {
    const std::uint32_t row = state.row0 + static_cast<std::uint32_t>(t.first);
    const auto s = static_cast<std::uint32_t>(sample), q = static_cast<std::uint32_t>(quad);
    const std::uint64_t seed = state.seed;
    const std::uint32_t step = state.noise_step;
#pragma omp simd
    for (std::uint32_t r = 0; r < latent_tile; ++r) {
      const math::Normals4 n =
          math::normals({.seed = seed, .purpose = Purpose::latent, .step = step, .row = row + r, .sample = s}, q);
      v[0][r] = n.v[0];
      v[1][r] = n.v[1];
      v[2][r] = n.v[2];
      v[3][r] = n.v[3];
    }
  }
};

// ---- Fused ------------------------------------------------------------------------------------------------

// What a tile of SampleLatent writes: kl_sum [L] is its own, z and sampled_kl are those of the batch.
struct Sampled {
  float *z, *kl_sum, *sampled_kl;
};

template <Posterior posterior>
void sample_latent_tile(const Tile& t, const StepState& state, const float* stats, const Sampled& out) {
  TileNoise noise;
  float mu[4][latent_tile], sigma[4][latent_tile], kl[latent_tile], sampled[latent_tile];
  for (std::int64_t first = 0; first < t.latent; first += 4) {
    const std::int64_t dims = std::min<std::int64_t>(4, t.latent - first);
    for (std::int64_t d = 0; d < dims; ++d) {
#pragma omp simd
      for (std::int64_t r = 0; r < t.rows; ++r) {
        const float m = stats[t.mu(r, first + d)], s = stats[t.s(r, first + d)];
        mu[d][r] = m;
        sigma[d][r] = math::posterior_sigma(posterior, s);
        kl[r] = math::gaussian_kl(posterior, m, s);
      }
      if (!out.kl_sum) continue;
      float sum = 0;
      for (std::int64_t r = 0; r < t.rows; ++r) sum += kl[r];
      out.kl_sum[first + d] = sum;
    }
    for (std::int64_t sample = 0; sample < t.samples; ++sample) {
      noise.draw(state, t, sample, first / 4);
      for (std::int64_t d = 0; d < dims; ++d) {
        float* const column = out.z + t.z(0, sample, first + d);
        const std::int64_t stride = t.samples * t.latent;
#pragma omp simd
        for (std::int64_t r = 0; r < t.rows; ++r)
          column[r * stride] = math::sample(mu[d][r], sigma[d][r], noise.v[d][r]);
        if (!out.sampled_kl) continue;
#pragma omp simd
        for (std::int64_t r = 0; r < t.rows; ++r)
          sampled[r] = (first + d == 0 ? 0.0f : out.sampled_kl[t.draw(r, sample)]) +
                       math::sampled_kl(posterior, stats[t.s(r, first + d)], column[r * stride], noise.v[d][r]);
        for (std::int64_t r = 0; r < t.rows; ++r) out.sampled_kl[t.draw(r, sample)] = sampled[r];
      }
    }
  }
}

// What reaches SampleLatentBackward through z, the KL divergence and the sampled one.
struct Arriving {
  const float* dz;
  float kl_scale, sampled_kl_scale;
  const float* dsampled_kl;

  bool has_sampled_kl() const { return sampled_kl_scale != 0.0f || dsampled_kl; }
  float weight(std::int64_t draw) const { return sampled_kl_scale + (dsampled_kl ? dsampled_kl[draw] : 0.0f); }
};

template <Posterior posterior>
void sample_latent_backward_tile(const Tile& t, const StepState& state, const float* stats, const Arriving& in,
                                 float* dstats) {
  TileNoise noise;
  for (std::int64_t first = 0; first < t.latent; first += 4) {
    const std::int64_t dims = std::min<std::int64_t>(4, t.latent - first);
    float dmu[4][latent_tile] = {}, ds[4][latent_tile] = {};
    for (std::int64_t sample = 0; sample < t.samples; ++sample) {
      noise.draw(state, t, sample, first / 4);
      for (std::int64_t d = 0; d < dims; ++d) {
        if (!in.has_sampled_kl()) {
#pragma omp simd
          for (std::int64_t r = 0; r < t.rows; ++r) {
            const float g = in.dz[t.z(r, sample, first + d)];
            dmu[d][r] += g;
            ds[d][r] += g * math::sample_slope(posterior, stats[t.s(r, first + d)], noise.v[d][r]);
          }
          continue;
        }
#pragma omp simd
        for (std::int64_t r = 0; r < t.rows; ++r) {
          const float m = stats[t.mu(r, first + d)], s = stats[t.s(r, first + d)], eps = noise.v[d][r];
          const float weight = in.weight(t.draw(r, sample));
          const float g =
              in.dz[t.z(r, sample, first + d)] + weight * math::sample(m, math::posterior_sigma(posterior, s), eps);
          dmu[d][r] += g;
          ds[d][r] += g * math::sample_slope(posterior, s, eps) + weight * math::sampled_kl_slope(posterior, s);
        }
      }
    }
    for (std::int64_t d = 0; d < dims; ++d) {
#pragma omp simd
      for (std::int64_t r = 0; r < t.rows; ++r) {
        const std::int64_t m = t.mu(r, first + d), s = t.s(r, first + d);
        dstats[m] = dmu[d][r];
        dstats[s] = ds[d][r];
        if (in.kl_scale == 0.0f) continue;  // times an infinity it were NaN
        const auto kl = math::gaussian_kl_grad(posterior, stats[m], stats[s]);
        dstats[m] += in.kl_scale * kl.mu;
        dstats[s] += in.kl_scale * kl.s;
      }
    }
  }
}

// ---- Unfused: one loop over the batch for each operation ------------------------------------------------------

// What the loops below work on: `batch` is the whole batch seen as one tile.
struct Unfused {
  Team& team;
  Tile batch;
  const StepState& state;

  // body(index into z, index of mu in stats, index of s in stats) for every element of z.
  template <class Body>
  void for_z(Body&& body) const {
    const Tile& t = batch;
    team.run(t.rows, [&](std::int64_t r) {
      for (std::int64_t sample = 0; sample < t.samples; ++sample) {
        for (std::int64_t d = 0; d < t.latent; ++d) body(t.z(r, sample, d), t.mu(r, d), t.s(r, d));
      }
    });
  }
  // body(index into sampled_kl) for every sample of every row.
  template <class Body>
  void for_draws(Body&& body) const {
    team.run(batch.rows * batch.samples, body);
  }
  // body(row, dimension) for every element of the posterior.
  template <class Body>
  void for_stats(Body&& body) const {
    team.run(batch.rows, [&](std::int64_t r) {
      for (std::int64_t d = 0; d < batch.latent; ++d) body(r, d);
    });
  }
  void draw(float* eps) const {
    const Tile& t = batch;
    team.run(t.rows, [&](std::int64_t r) {
      for (std::int64_t sample = 0; sample < t.samples; ++sample) {
        const math::Draw draw{.seed = state.seed,
                              .purpose = Purpose::latent,
                              .step = state.noise_step,
                              .row = state.row0 + static_cast<std::uint32_t>(r),
                              .sample = static_cast<std::uint32_t>(sample)};
        for (std::int64_t d = 0; d < t.latent; ++d) {
          eps[t.z(r, sample, d)] = math::normals(draw, static_cast<std::uint32_t>(d / 4)).v[d % 4];
        }
      }
    });
  }
};

void sample_latent_unfused(const Unfused& u, Posterior posterior, const float* stats, float* z, float* kl_partial,
                           float* sampled_kl, float* scratch) {
  const Tile& t = u.batch;
  if (z) u.draw(scratch);
  u.for_z([=](std::int64_t i, std::int64_t, std::int64_t s) { z[i] = math::posterior_sigma(posterior, stats[s]); });
  u.for_z([=](std::int64_t i, std::int64_t, std::int64_t) { z[i] *= scratch[i]; });
  u.for_z([=](std::int64_t i, std::int64_t mu, std::int64_t) { z[i] += stats[mu]; });
  if (sampled_kl) {
    u.for_z([=](std::int64_t i, std::int64_t, std::int64_t s) {
      scratch[i] = math::sampled_kl(posterior, stats[s], z[i], scratch[i]);
    });
    u.for_draws([=, &t](std::int64_t i) {
      float sum = 0;
      for (std::int64_t d = 0; d < t.latent; ++d) sum += scratch[i * t.latent + d];
      sampled_kl[i] = sum;
    });
  }
  if (!kl_partial) return;
  float* const kl = scratch;  // [R, L], epsilon's work is done
  u.for_stats([=](std::int64_t r, std::int64_t d) {
    kl[r * t.latent + d] = math::gaussian_kl(posterior, stats[t.mu(r, d)], stats[t.s(r, d)]);
  });
  u.team.run(ceil_div(t.rows, latent_tile), [=](std::int64_t i) {
    const std::int64_t last = std::min(t.rows, (i + 1) * latent_tile);
    for (std::int64_t d = 0; d < t.latent; ++d) {
      float sum = 0;
      for (std::int64_t r = i * latent_tile; r < last; ++r) sum += kl[r * t.latent + d];
      kl_partial[i * t.latent + d] = sum;
    }
  });
}

void sample_latent_backward_unfused(const Unfused& u, Posterior posterior, const float* stats, const Arriving& in,
                                    float* dstats, float* scratch) {
  const Tile& t = u.batch;
  const float* g = in.dz;  // of z
  float* const slopes = scratch;
  if (g) u.draw(slopes);
  if (in.has_sampled_kl()) {
    float* const sum = scratch + t.rows * t.samples * t.latent;
    u.for_z([=](std::int64_t i, std::int64_t, std::int64_t s) { sum[i] = math::posterior_sigma(posterior, stats[s]); });
    u.for_z([=](std::int64_t i, std::int64_t, std::int64_t) { sum[i] *= slopes[i]; });
    u.for_z([=](std::int64_t i, std::int64_t mu, std::int64_t) { sum[i] += stats[mu]; });
    u.for_z([=, &t](std::int64_t i, std::int64_t, std::int64_t) { sum[i] *= in.weight(i / t.latent); });
    u.for_z([=](std::int64_t i, std::int64_t, std::int64_t) { sum[i] += in.dz[i]; });
    g = sum;
  }
  u.for_z([=](std::int64_t i, std::int64_t, std::int64_t s) {
    slopes[i] = math::sample_slope(posterior, stats[s], slopes[i]);
  });
  u.for_z([=](std::int64_t i, std::int64_t, std::int64_t) { slopes[i] *= g[i]; });
  if (in.has_sampled_kl())
    u.for_z([=, &t](std::int64_t i, std::int64_t, std::int64_t s) {
      slopes[i] += in.weight(i / t.latent) * math::sampled_kl_slope(posterior, stats[s]);
    });
  const auto sum_samples = [&t](const float* x, std::int64_t r, std::int64_t d) {
    float sum = 0;
    for (std::int64_t sample = 0; sample < t.samples; ++sample) sum += x[t.z(r, sample, d)];
    return sum;
  };
  u.for_stats([=](std::int64_t r, std::int64_t d) { dstats[t.mu(r, d)] = sum_samples(g, r, d); });
  u.for_stats([=](std::int64_t r, std::int64_t d) { dstats[t.s(r, d)] = sum_samples(slopes, r, d); });
  if (in.kl_scale == 0.0f) return;
  u.for_stats([=](std::int64_t r, std::int64_t d) {
    const auto kl = math::gaussian_kl_grad(posterior, stats[t.mu(r, d)], stats[t.s(r, d)]);
    dstats[t.mu(r, d)] += in.kl_scale * kl.mu;
    dstats[t.s(r, d)] += in.kl_scale * kl.s;
  });
}

}  // namespace

void CpuBackend::do_run(const SampleLatent& op) {
  const auto& state = *static_cast<const StepState*>(op.state.data);
  const Tile batch{
      .first = 0, .rows = op.stats.rows(), .samples = op.z ? op.z.shape[1] : 0, .latent = op.stats.columns() / 2};
  const float* const stats = op.stats.as<float>();
  float *const z = address_of<float>(op.z), *const kl_partial = address_of<float>(op.kl_partial),
               *const sampled_kl = address_of<float>(op.sampled_kl);
  if (op.variant == LossVariant::unfused) {
    sample_latent_unfused({.team = team_, .batch = batch, .state = state}, op.posterior, stats, z, kl_partial,
                          sampled_kl, op.scratch.as<float>());
    return;
  }
  with_posterior(op.posterior, [&](auto posterior) {
    team_.run(ceil_div(batch.rows, latent_tile), [&](std::int64_t i) {
      float* const kl_sum = kl_partial ? kl_partial + i * batch.latent : nullptr;
      sample_latent_tile<posterior()>(batch.tile(i), state, stats, {z, kl_sum, sampled_kl});
    });
  });
}

void CpuBackend::do_run(const SampleLatentBackward& op) {
  const auto& state = *static_cast<const StepState*>(op.state.data);
  const Tile batch{
      .first = 0, .rows = op.stats.rows(), .samples = op.dz ? op.dz.shape[1] : 0, .latent = op.stats.columns() / 2};
  const float* const stats = op.stats.as<float>();
  const Arriving in{.dz = address_of<float>(op.dz),
                    .kl_scale = op.kl_scale,
                    .sampled_kl_scale = op.sampled_kl_scale,
                    .dsampled_kl = address_of<float>(op.dsampled_kl)};
  float* const dstats = op.dstats.as<float>();
  if (op.variant == LossVariant::unfused) {
    float* const scratch = address_of<float>(op.scratch);
    sample_latent_backward_unfused({.team = team_, .batch = batch, .state = state}, op.posterior, stats, in, dstats,
                                   scratch);
    return;
  }
  with_posterior(op.posterior, [&](auto posterior) {
    team_.run(ceil_div(batch.rows, latent_tile), [&](std::int64_t i) {
      sample_latent_backward_tile<posterior()>(batch.tile(i), state, stats, in, dstats);
    });
  });
}

}  // namespace elbo::cpu
