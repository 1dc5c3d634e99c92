#include "elbo/operations/latent.h"

namespace elbo {
namespace {

// Of statistics and, if there is one, a tensor of samples.
void check_latent(const char* operation, const Tensor& stats, const char* what, const Tensor& samples) {
  require(stats && stats.dtype == DType::f32 && stats.shape.rank() == 2 && stats.shape[1] % 2 == 0, operation,
          ": stats should be f32 [rows, 2 * latent], not ", stats.shape);
  if (!samples) return;
  require(samples.dtype == DType::f32 && samples.shape.rank() == 3, operation, ": ", what,
          " should be f32 [rows, samples, latent], not ", samples.shape);
  const std::int64_t count = samples.shape[1];
  check_tensor(operation, what, samples, DType::f32, {stats.shape[0], count, stats.shape[1] / 2});
  require(count >= 1 && count < (1 << 24), operation, ": ", count, " samples; 1 to 2^24 - 1 are possible");
}

}  // namespace

void SampleLatent::check() const {
  check_latent(name, stats, "z", z);
  require(z || kl_partial, name, ": neither z nor the KL divergence is wanted");
  if (kl_partial)
    check_tensor(name, "kl_partial", kl_partial, DType::f32,
                 {ceil_div(stats.shape[0], latent_tile), stats.shape[1] / 2});
  if (sampled_kl) {
    require(static_cast<bool>(z), name, ": a KL divergence of draws without z");
    check_tensor(name, "sampled_kl", sampled_kl, DType::f32, {z.shape[0], z.shape[1]});
  }
  check_state(name, state);
  check_scratch(name, scratch, scratch_size());
}

void SampleLatentBackward::check() const {
  check_latent(name, stats, "dz", dz);
  check_tensor(name, "dstats", dstats, DType::f32, stats.shape);
  require(dz || !has_sampled_kl(), name, ": the gradient of a sampled KL divergence without dz");
  if (dsampled_kl) check_tensor(name, "dsampled_kl", dsampled_kl, DType::f32, {dz.shape[0], dz.shape[1]});
  check_state(name, state);
  check_scratch(name, scratch, scratch_size());
}

}  // namespace elbo
