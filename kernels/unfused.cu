// The baseline: the loss and the latent variable as one would write them with Thrust, a call for each operation on
// whole arrays. What the fused kernels save is measured against this.
//
// What, shapes: those of likelihood.cu, latent.cu and importance.cu, value and gradient.
// Launches: one for each call of on_stream() or launch(). likelihood: 2 for the value, 2 for the gradient;
//   sample_latent: 2 for z, 2 for either KL; sample_latent_backward: 3, 1 for the KL, 1 more for that of the draws;
//   importance_bound: 4, and 1 for each output.
// Bytes, likelihood: 28 an element and the target twice (30 with u8, 36 with f32), 48 a pixel and the target twice
//   where the variance is learned. sample_latent: 12 an element of z, 24 of mu and 4 of the sums; 16 more of z with the
//   KL of the draws. sample_latent_backward: 24 an element of dz, 36 of mu; 12 more of dz with that. importance_bound:
//   importance.cu. All through a scratch buffer of the size of output or z, or of two of them.
// Deterministic: every sum is taken by one thread or block, in a fixed order. Latent: the bits of the fused kernels,
//   save for the KL of a draw, which is added up in another order.
//
// No thrust::reduce or reduce_by_key: they allocate and wait for their result, which a CUDA graph cannot record. So
// the sum over a chunk of pixels is a kernel, and the short sums over rows and samples are a thread's loop.
#include <thrust/for_each.h>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/permutation_iterator.h>
#include <thrust/iterator/transform_iterator.h>
#include <thrust/tabulate.h>
#include <thrust/transform.h>

#include "elbo/math/importance.h"
#include "elbo/math/latent.h"
#include "kernels/loss_parts.h"
#include "kernels/on_stream.h"
#include "kernels/reduce.h"

namespace elbo::kernels {
namespace {

// An index of an element; 32 bits, as divisions of 64 are slow.
using Index = unsigned;

// n, if an Index counts that far.
Index elements(const char* launcher, std::int64_t n) { return blocks_for(launcher, n); }

// ---- Likelihood -------------------------------------------------------------------------------------

constexpr unsigned chunk_threads = 256;

// sums [rows, chunks of a row] of values [rows, pixels]; a block sums one chunk.
__global__ void __launch_bounds__(chunk_threads)
    likelihood_unfused_sum_kernel(const float* values, float* sums, std::int64_t pixels) {
  const unsigned chunks = (pixels + pixel_chunk - 1) / pixel_chunk;
  const std::int64_t row = blockIdx.x / chunks, first = blockIdx.x % chunks * pixel_chunk;
  const std::int64_t last = first + pixel_chunk < pixels ? first + pixel_chunk : pixels;
  float sum = 0.0f;
  for (std::int64_t p = first + threadIdx.x; p < last; p += blockDim.x) sum += values[row * pixels + p];
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// each: gradients of a pixel.
template <class Target>
void scale_gradients(const LikelihoodLoss<Target>& a, int each, cudaStream_t stream) {
  const std::int64_t count = a.rows * a.samples * each * a.pixels;
  float* const grad = a.grad;
  const float scale = a.grad_scale;
  if (!a.dnll_partial) {
    const auto scaled = [=] __host__ __device__(float g) { return scale * g; };
    return on_stream("likelihood_unfused_scale", stream,
                     [=](auto policy) { thrust::transform(policy, grad, grad + count, grad, scaled); });
  }
  const float* const weights = a.dnll_partial;
  const Index pixels = a.pixels, columns = each * pixels, chunks = ceil_div(a.pixels, pixel_chunk);
  const auto weighed = [=] __host__ __device__(Index i) {
    return (scale + weights[i / columns * chunks + i % columns % pixels / pixel_chunk]) * grad[i];
  };
  on_stream("likelihood_unfused_weigh", stream,
            [=](auto policy) { thrust::tabulate(policy, grad, grad + count, weighed); });
}

// targets: an iterator over the targets of all outputs' pixels.
template <class Loss, class Target, class Targets>
void likelihood_unfused_of(const Loss& loss, const LikelihoodLoss<Target>& a, Targets targets, float* values,
                           cudaStream_t stream) {
  const std::int64_t count = a.rows * a.samples * a.pixels;
  const float* const output = a.output;
  constexpr int each = Loss::outputs;
  const Index pixels = a.pixels;
  const auto at_pixel = [=] __host__ __device__(Index i) {  // i counts pixels; where the first number of one is
    return i / pixels * each * pixels + i % pixels;
  };
  if (a.nll_partial) {
    if constexpr (each == 1) {
      const auto value = [=] __host__ __device__(float o, Target x) { return loss({o}, pixel(x)).value; };
      on_stream("likelihood_unfused_values", stream,
                [=](auto policy) { thrust::transform(policy, output, output + count, targets, values, value); });
    } else {
      const auto value = [=] __host__ __device__(Index i) {
        const Index at = at_pixel(i);
        return loss({output[at], output[at + pixels]}, pixel(Target(targets[i]))).value;
      };
      on_stream("likelihood_unfused_values", stream,
                [=](auto policy) { thrust::tabulate(policy, values, values + count, value); });
    }
    const unsigned chunks =
        blocks_for("likelihood_unfused_sum_kernel", a.rows * a.samples * ceil_div(a.pixels, pixel_chunk));
    launch("likelihood_unfused_sum_kernel", likelihood_unfused_sum_kernel, {chunks, chunk_threads, stream}, values,
           a.nll_partial, a.pixels);
  }
  if (!a.grad) return;

  float* const grad = a.grad;
  if constexpr (each == 1) {
    const auto slope = [=] __host__ __device__(float o, Target x) { return loss({o}, pixel(x)).grad.first; };
    on_stream("likelihood_unfused_gradients", stream,
              [=](auto policy) { thrust::transform(policy, output, output + count, targets, grad, slope); });
  } else {
    const auto slopes = [=] __host__ __device__(Index i) {
      const Index at = at_pixel(i);
      const PixelOutput<2> slope = loss({output[at], output[at + pixels]}, pixel(Target(targets[i]))).grad;
      grad[at] = slope.first;
      grad[at + pixels] = slope.second;
    };
    const thrust::counting_iterator<Index> first(0), last(static_cast<Index>(count));
    on_stream("likelihood_unfused_gradients", stream,
              [=](auto policy) { thrust::for_each(policy, first, last, slopes); });
  }
  scale_gradients(a, each, stream);
}

}  // namespace

template <class Target>
void likelihood_unfused(Likelihood likelihood, const LikelihoodLoss<Target>& a, float* scratch, cudaStream_t stream) {
  check("likelihood_unfused", a);
  require(scratch || !a.nll_partial, "likelihood_unfused: no scratch");
  elements("likelihood_unfused", a.rows * a.samples * outputs_of_pixel(likelihood) * a.pixels);
  const Range range("likelihood_unfused");
  const Index pixels = a.pixels, samples = a.samples;
  const auto target_of = [=] __host__ __device__(Index i) { return i / pixels / samples * pixels + i % pixels; };
  const auto index = thrust::make_transform_iterator(thrust::counting_iterator<Index>(0), target_of);
  with_loss<math::Exact>("likelihood_unfused", likelihood, a, [&](const auto& loss) {
    if (a.samples == 1) return likelihood_unfused_of(loss, a, a.target, scratch, stream);
    likelihood_unfused_of(loss, a, thrust::make_permutation_iterator(a.target, index), scratch, stream);
  });
}

template void likelihood_unfused(Likelihood, const LikelihoodLoss<std::uint8_t>&, float*, cudaStream_t);
template void likelihood_unfused(Likelihood, const LikelihoodLoss<float>&, float*, cudaStream_t);

// ---- Latent variable --------------------------------------------------------------------------------

namespace {

using math::Approximate;  // the bits of the fused kernels

// eps [rows, samples, latent]: a thread draws four dimensions, as they come out of one call of the generator.
template <class Latent>
void draw_epsilon(const Latent& a, float* eps, cudaStream_t stream) {
  const Index latent = a.latent, samples = a.samples, quads = ceil_div(a.latent, 4);
  const StepState* const state = a.state;
  const auto draw = [=] __host__ __device__(Index i) {
    const Index line = i / quads, quad = i % quads;
    const math::Normals4 n = math::normals(draw_of(*state, line / samples, line % samples), quad);
    for (Index d = 4 * quad, j = 0; d < latent && j < 4; ++d, ++j) eps[std::int64_t{line} * latent + d] = n.v[j];
  };
  const thrust::counting_iterator<Index> first(0), last(static_cast<Index>(a.rows) * samples * quads);
  on_stream("draw_epsilon", stream, [=](auto policy) { thrust::for_each(policy, first, last, draw); });
}

}  // namespace

void sample_latent_unfused(const SampleLatent& a, float* scratch, cudaStream_t stream) {
  check("sample_latent_unfused", a);
  require(scratch != nullptr, "sample_latent_unfused: no scratch");
  const Index units = elements("sample_latent_unfused", 2 * a.rows * a.latent) / 2, latent = a.latent;
  const Index count = elements("sample_latent_unfused", a.rows * a.samples * a.latent), row_size = a.samples * a.latent;
  const Range range("sample_latent_unfused");
  if (a.z) draw_epsilon(a, scratch, stream);

  const auto reparameterise = [=] __host__ __device__(Index i) {
    const float* const stats = a.stats + i / row_size * 2 * latent + i % latent;
    return math::sample(stats[0], math::posterior_sigma(a.posterior, stats[latent], Approximate{}), scratch[i],
                        Approximate{});
  };
  if (a.z) {
    on_stream("sample_latent_unfused_z", stream,
              [=](auto policy) { thrust::tabulate(policy, a.z, a.z + count, reparameterise); });
  }
  if (a.sampled_kl) {
    // In place: epsilon becomes the KL divergence of a draw in one dimension.
    const auto sampled = [=] __host__ __device__(Index i) {
      const float s = a.stats[i / row_size * 2 * latent + latent + i % latent];
      return math::sampled_kl(a.posterior, s, a.z[i], scratch[i], Approximate{});
    };
    on_stream("sample_latent_unfused_sampled_kl", stream,
              [=](auto policy) { thrust::tabulate(policy, scratch, scratch + count, sampled); });
    const auto sum_over_dimensions = [=] __host__ __device__(Index draw) {
      float sum = 0.0f;
      for (Index d = 0; d < latent; ++d) sum += scratch[std::int64_t{draw} * latent + d];
      return sum;
    };
    float* const sums = a.sampled_kl;
    on_stream("sample_latent_unfused_sampled_kl_sums", stream,
              [=](auto policy) { thrust::tabulate(policy, sums, sums + count / latent, sum_over_dimensions); });
  }
  if (!a.kl_partial) return;

  float* const kl = scratch;  // [rows, latent]: epsilon's work is done
  const auto divergence = [=] __host__ __device__(Index i) {
    const float* const stats = a.stats + i / latent * 2 * latent + i % latent;
    const float sigma = math::posterior_sigma(a.posterior, stats[latent], Approximate{});
    return math::gaussian_kl(a.posterior, stats[0], stats[latent], sigma, Approximate{});
  };
  on_stream("sample_latent_unfused_kl", stream,
            [=](auto policy) { thrust::tabulate(policy, kl, kl + units, divergence); });

  const auto tile_sum = [=] __host__ __device__(Index i) {
    const Index tile = latent_tile * latent, end = (i / latent + 1) * tile;
    float sum = 0.0f;
    for (Index at = i / latent * tile + i % latent; at < end && at < units; at += latent) sum += kl[at];
    return sum;
  };
  float* const sums = a.kl_partial;
  const Index partials = static_cast<Index>(ceil_div(a.rows, latent_tile)) * latent;
  on_stream("sample_latent_unfused_kl_sums", stream,
            [=](auto policy) { thrust::tabulate(policy, sums, sums + partials, tile_sum); });
}

void sample_latent_backward_unfused(const SampleLatentBackward& a, float* scratch, cudaStream_t stream) {
  check("sample_latent_backward_unfused", a);
  require(scratch || !a.dz, "sample_latent_backward_unfused: no scratch");
  const Index units = elements("sample_latent_backward_unfused", 2 * a.rows * a.latent) / 2, latent = a.latent;
  const Index count = elements("sample_latent_backward_unfused", a.rows * a.samples * a.latent);
  const Index row_size = a.samples * a.latent;
  const Range range("sample_latent_backward_unfused");
  if (a.dz) draw_epsilon(a, scratch, stream);

  float* const weighed = scratch + count;  // the gradient through z, where that of sampled_kl is a part of it
  if (a.has_sampled_kl()) {
    const auto through_z = [=] __host__ __device__(Index i) {
      const float* const stats = a.stats + i / row_size * 2 * latent + i % latent;
      const float sigma = math::posterior_sigma(a.posterior, stats[latent], Approximate{});
      const float z = math::sample(stats[0], sigma, scratch[i], Approximate{});
      return Approximate::multiply_add(a.weight_of_sampled_kl(i / latent), z, a.dz[i]);
    };
    on_stream("sample_latent_backward_unfused_through_z", stream,
              [=](auto policy) { thrust::tabulate(policy, weighed, weighed + count, through_z); });
  }
  const float* const dz = a.has_sampled_kl() ? weighed : a.dz;

  // In place: epsilon becomes dz dz/ds, and what sampled_kl has beside it.
  const auto slope = [=] __host__ __device__(Index i) {
    const float s = a.stats[i / row_size * 2 * latent + latent + i % latent];
    const float ds = dz[i] * math::sample_slope(a.posterior, s, scratch[i], Approximate{});
    if (!a.has_sampled_kl()) return ds;
    return ds + a.weight_of_sampled_kl(i / latent) * math::sampled_kl_slope(a.posterior, s, Approximate{});
  };
  if (a.dz)
    on_stream("sample_latent_backward_unfused_slopes", stream,
              [=](auto policy) { thrust::tabulate(policy, scratch, scratch + count, slope); });

  const thrust::counting_iterator<Index> first(0), last(units);
  const auto sum_over_samples = [=] __host__ __device__(Index i) {
    const Index row = i / latent, unit = i % latent;
    float dmu = 0.0f, ds = 0.0f;
    for (Index at = row * row_size + unit, end = (row + 1) * row_size; at < end; at += latent) {
      dmu += dz[at];
      ds += scratch[at];
    }
    a.dstats[row * 2 * latent + unit] = dmu;
    a.dstats[row * 2 * latent + latent + unit] = ds;
  };
  on_stream("sample_latent_backward_unfused_sums", stream,
            [=](auto policy) { thrust::for_each(policy, first, last, sum_over_samples); });

  if (a.kl_scale == 0.0f) return;  // times an infinity it were NaN
  const auto add_kl_gradient = [=] __host__ __device__(Index i) {
    const Index mu = i / latent * 2 * latent + i % latent, s = mu + latent;
    const math::LatentGrad<float> kl = math::gaussian_kl_grad(a.posterior, a.stats[mu], a.stats[s], Approximate{});
    a.dstats[mu] = Approximate::multiply_add(a.kl_scale, kl.mu, a.dstats[mu]);
    a.dstats[s] = Approximate::multiply_add(a.kl_scale, kl.s, a.dstats[s]);
  };
  on_stream("sample_latent_backward_unfused_kl", stream,
            [=](auto policy) { thrust::for_each(policy, first, last, add_kl_gradient); });
}

// ---- Importance weights -----------------------------------------------------------------------------

void importance_bound_unfused(const ImportanceBound& a, float* scratch, cudaStream_t stream) {
  check("importance_bound_unfused", a);
  require(scratch != nullptr, "importance_bound_unfused: no scratch");
  const Index draws = elements("importance_bound_unfused", a.rows * a.samples), samples = a.samples;
  const Index parts = elements("importance_bound_unfused", a.rows * a.samples * a.chunks), chunks = a.chunks;
  const Range range("importance_bound_unfused");
  float *const weights = scratch, *const largest = scratch + draws, *const sums = largest + a.rows;
  const auto for_each = [&](const char* name, float* out, std::int64_t count, const auto& value) {
    on_stream(name, stream, [=](auto policy) { thrust::tabulate(policy, out, out + count, value); });
  };
  for_each("importance_bound_unfused_log_weights", weights, draws, [=] __host__ __device__(Index i) {
    return static_cast<float>(math::log_weight(a.nll_partial + std::int64_t{i} * chunks, chunks, a.sampled_kl[i]));
  });
  for_each("importance_bound_unfused_largest", largest, a.rows, [=] __host__ __device__(Index row) {
    float most = weights[row * samples];
    for (Index i = row * samples + 1; i < (row + 1) * samples; ++i) most = weights[i] > most ? weights[i] : most;
    return most;
  });
  for_each("importance_bound_unfused_weights", weights, draws, [=] __host__ __device__(Index i) {
    return math::relative_weight(static_cast<double>(weights[i]), static_cast<double>(largest[i / samples]));
  });
  for_each("importance_bound_unfused_sums", sums, a.rows, [=] __host__ __device__(Index row) {
    float sum = 0.0f;
    for (Index i = row * samples; i < (row + 1) * samples; ++i) sum += weights[i];
    return sum;
  });
  if (a.loss)
    for_each("importance_bound_unfused_losses", a.loss, a.rows, [=] __host__ __device__(Index row) {
      return math::importance_loss(static_cast<double>(largest[row]), sums[row], a.samples);
    });
  if (a.dsampled_kl)
    for_each("importance_bound_unfused_kl_gradients", a.dsampled_kl, draws,
             [=] __host__ __device__(Index i) { return a.grad_scale * (weights[i] / sums[i / samples]); });
  if (a.dnll_partial)
    for_each("importance_bound_unfused_nll_gradients", a.dnll_partial, parts, [=] __host__ __device__(Index i) {
      return a.grad_scale * (weights[i / chunks] / sums[i / chunks / samples]);
    });
}

}  // namespace elbo::kernels
