// The model: networks, posterior and likelihood over named parameters. Forward code only; what it computes is a graph.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "elbo/backend.h"
#include "host/graph/program.h"
#include "host/model/likelihood.h"
#include "host/model/network.h"
#include "host/model/parameters.h"
#include "host/model/posterior.h"
#include "host/spec/spec.h"

namespace elbo {

class Vae {
 public:
  // The model of `spec.model` for images [H, W, C]. Its parameters have no memory.
  Vae(const Spec&, const Shape& image);
  // And with initial weights on a device.
  Vae(Backend&, const Spec&, const Shape& image);

  Backend& device() const { return *device_; }
  const Shape& image() const { return image_; }
  std::int64_t pixels() const { return image_.count(); }
  std::int64_t latent() const { return latent_; }

  // ---- In a graph -------------------------------------------------------------------------------------
  Parameters parameters;
  // Posterior statistics [R, ...] of images [R, H, W, C].
  Value encode(const Value& images) const { return encoder_(images); }
  // What the likelihood takes [R * S, ...], of z [R, S, L].
  Value decode(const Value& z) const { return decoder_(z.reshaped({z.shape()[0] * z.shape()[1], latent_})); }
  GaussianPosterior posterior;
  PixelLikelihood likelihood;

  // Elements of all layers' outputs for an image.
  std::int64_t layer_outputs() const { return encoder_.outputs() + decoder_.outputs(); }

  // ---- On the host ------------------------------------------------------------------------------------
  // Posterior statistics [n, 2L] (mu, s) of n images of u8 pixels, not binarised. `image(i)` gives the pixels of one,
  // which are wanted until the next call.
  std::vector<float> encode(std::int64_t n, const std::function<const std::uint8_t*(std::int64_t i)>& image) const;
  // Gives `take` the pixel means [D] in [0, 1] (Bernoulli: probabilities; Gaussian: means, not clipped; no variances)
  // of each of n latent vectors [n, L], in their order; NaN where the decoder's output is not finite.
  void decode(const float* z, std::int64_t n, const std::function<void(const float* means)>& take) const;
  // What the two take for n images beside their arguments and result: bytes on the device, and on the host.
  struct Bytes {
    std::uint64_t device = 0, host = 0;
  };
  Bytes bytes_to_map(std::int64_t n) const;

 private:
  Backend* device_ = nullptr;
  Shape image_;
  std::int64_t latent_;
  std::int64_t host_batch_;  // rows of a batch of encode() and decode() on the host
  Network encoder_, decoder_;
};

// What takes the memory of a model's graphs, in an error.
inline constexpr const char* activations_name = "activations (a smaller train.batch_size needs less)";

// Rows of a batch outside of training, at most `most`: about as many as a training batch, for which there is memory;
// whole tiles of latent_tile rows.
std::int64_t batch_outside_training(const Spec&, std::int64_t most);

}  // namespace elbo
