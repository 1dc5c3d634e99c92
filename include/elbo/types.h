// The choices an experiment can make, by the names the field uses. The spec's words for them are in
// host/spec/spec.cpp; nothing else turns them into text.
#pragma once
#include <cstdint>

namespace elbo {

enum class Activation : std::uint8_t { identity, relu, tanh, softplus };

// What the encoder's second head means: log sigma^2, or sigma itself with any sign.
enum class Posterior : std::uint8_t { log_variance, sigma };

// Of a pixel. gaussian: of a given variance. gaussian_learned: the decoder gives the variance, too.
enum class Likelihood : std::uint8_t { bernoulli, gaussian, gaussian_learned };

// What the decoder says of a pixel: one number, or a mean and a variance.
constexpr int outputs_of_pixel(Likelihood likelihood) { return likelihood == Likelihood::gaussian_learned ? 2 : 1; }

// What the mean of gaussian_learned is: the decoder's output, or that squashed to (0, 1).
enum class PixelMean : std::uint8_t { identity, sigmoid };

// Loss kernels, rivals behind one launcher.
enum class LossVariant : std::uint8_t {
  fused,      // value and gradient in one pass; Bernoulli: one logarithm for the product of many pixels' factors
  fused_log,  // the same, with a logarithm for each pixel
  two_pass,   // a pass for the value, then one for the gradient
  unfused,    // one launch for each mathematical operation: Thrust on a GPU, a loop on a CPU
};

enum class Precision : std::uint8_t { fp32, tf32, bf16 };

// Targets: pixel / 255; 1 where pixel >= 128; fresh Bernoulli(pixel / 255) draws at every use.
enum class Binarize : std::uint8_t { none, threshold, dynamic };

enum class OptimizerType : std::uint8_t { adam, adagrad, sgd };

// Where a batch's rows come from: the keyed shuffle of a resident data set, the slot of a ring that
// the host fills, or consecutive rows of a resident data set (evaluation).
enum class Indexing : std::uint8_t { shuffled, ring, sequential };

// One stream of noise each; part of the counter, so that no two uses share a draw.
enum class Purpose : std::uint8_t { initialise, shuffle, binarize, latent, prior };

}  // namespace elbo
