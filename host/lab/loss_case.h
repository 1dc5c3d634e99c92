// What `elbo bench loss` measures: a loss at one size, with its inputs, what should come out in float64, and the calls
// that compute it on a device.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "elbo/backend.h"

namespace elbo {

struct LossShape {
  std::int64_t rows = 0, pixels = 0, latent = 0;  // pixels or latent is 0 where the loss has none
  std::int64_t samples = 1;                       // rows of each image, draws of its z

  std::int64_t images() const { return rows / samples; }
};

// A likelihood with its gradient; the latent variable: sampling, KL and the gradient of both; or all of a VAE's head,
// which is what there is of a training step besides its layers: of the ELBO, or of the importance-weighted bound.
struct LossKind {
  const char *name, *title;
  std::optional<Likelihood> likelihood;
  bool has_latent;
  std::int64_t samples = 1;  // of an image; more than one: they are weighed by importance

  bool is_weighted() const { return samples > 1; }
};
inline constexpr LossKind loss_kinds[] = {
    {"bernoulli", "Bernoulli", Likelihood::bernoulli, false},
    {"gaussian", "Gaussian", Likelihood::gaussian, false},
    {"gaussian_learned", "Gaussian of a learned variance", Likelihood::gaussian_learned, false},
    {"latent", "Latent variable", std::nullopt, true},
    {"elbo", "The head: Bernoulli", Likelihood::bernoulli, true},
    {"iwae", "The importance-weighted head: Bernoulli", Likelihood::bernoulli, true, 4}};

// How a device can compute it, with the kernels that this launches on a GPU.
struct LossRival {
  const char* name;
  LossVariant kernels;
  int likelihood_launches, latent_launches;  // value and gradient
  int weighted_launches;                     // of all that importance weights take
};
inline constexpr LossRival loss_rivals[] = {{"unfused", LossVariant::unfused, 4, 8, 19},
                                            {"two_pass", LossVariant::two_pass, 2, 2, 5},
                                            {"fused_log", LossVariant::fused_log, 1, 2, 5},
                                            {"fused", LossVariant::fused, 1, 2, 5}};

// Drawn from a fixed seed; the same on the host and on every device.
struct LossInputs {
  std::vector<float> outputs, targets;  // [rows, outputs_each * pixels], [rows, pixels]
  std::vector<std::uint8_t> pixels;     // [rows, pixels]: targets are these / 255
  std::vector<float> stats, dz;         // [rows, 2 latent], [rows, latent]

  explicit LossInputs(const LossShape&, int outputs_each = 1);  // outputs_each: of a pixel
};

// Words of random bits, likewise: what a copy is timed with, since constant bytes would be copied faster.
std::vector<std::uint32_t> random_bits(std::size_t words);

struct LossResult {
  double value = 0;                 // summed over rows, in nats
  std::vector<float> grad, dstats;  // of the outputs, of the statistics; empty where the loss has none
  std::vector<float> z;             // of the naive loop only
};

class LossCase {
 public:
  // output: f32 or bf16. The inputs must outlive the case.
  LossCase(const LossKind&, const LossShape&, DType output, const LossInputs&);

  // Computes what should come out, for errors().
  void refer();

  // What one call works on.
  struct Buffers {
    Tensor output, target, nll, grad, state, stats, z, kl, dz, dstats;
    Tensor sampled_kl, bound, dnll, dsampled_kl;  // of importance weights
  };
  void layout(Arena&, Buffers&, DType target) const;
  void upload(Backend&, const Buffers&) const;
  void copy_inputs(Backend&, const Buffers& to, const Buffers& from) const;
  void call(Backend&, const Buffers&, LossVariant, const Tensor& scratch) const;
  LossResult download(Backend&, const Buffers&) const;
  std::int64_t scratch(LossVariant) const;  // f32 elements

  // One thread's loop over std::exp and std::log1p, as one would write it first. f32 outputs and targets. What the
  // result holds is written over, so that a second call allocates nothing.
  void naive(LossResult&) const;

  double bytes(LossVariant, DType target) const;  // that a call moves, by the kernels' contracts
  int launches(const LossRival&) const;

  // Against float64, of the same outputs and the same noise: of the value, relative; of the gradients, each by its
  // largest, the worse. After refer().
  struct Errors {
    double value = 0, gradient = 0;
  };
  Errors errors(const LossResult&) const;

 private:
  int outputs_each() const { return kind_.likelihood ? outputs_of_pixel(*kind_.likelihood) : 0; }
  void naive_pixels(LossResult&) const;
  void naive_learned(LossResult&) const;
  void naive_latent(LossResult&) const;
  void naive_weighted(LossResult&) const;
  void call_weighted(Backend&, const Buffers&, LossVariant, const Tensor& scratch) const;
  void refer_to_pixels();
  void refer_to_latent();
  void refer_to_weighted();
  // Draw s of the latent variable of an image, in dimension d; its place in dz and z.
  std::size_t place(std::int64_t image, std::int64_t sample, std::int64_t d) const {
    return static_cast<std::size_t>((image * shape_.samples + sample) * shape_.latent + d);
  }

  LossKind kind_;
  LossShape shape_;
  const LossInputs& inputs_;
  std::vector<math::Bf16> halves_;  // the outputs, where they are bf16
  double value_ = 0;                // as they should be, this and the next
  std::vector<double> grad_, dstats_;
};

}  // namespace elbo
