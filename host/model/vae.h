// The model: an encoder and a decoder of dense layers over one flat buffer of parameters.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "elbo/backend.h"
#include "host/spec/spec.h"

namespace elbo {

// One named piece of the flat buffers. Names and layouts are PyTorch's: nn.Sequential of nn.Linear and
// activation modules, "encoder.0.weight" [out, in]; the encoder's last layer gives mu and s side by side.
struct Parameter {
  std::string name;
  Shape shape;
  std::int64_t offset = 0, fan_in = 0, fan_out = 0;
};

struct DenseLayer {
  Tensor weight, bias;    // [O, I], [O]
  Tensor dweight, dbias;  // their gradients
  Activation activation = Activation::identity;
};

// Rows of a batch outside of training, at most `most`: about as many as a training batch, for which there is memory;
// whole tiles of latent_tile rows.
std::int64_t rows_outside_training(const Spec&, std::int64_t most);

class Vae {
 public:
  // Makes the network of `spec.model` for images of `pixels` values and draws its initial weights.
  Vae(Backend&, const Spec&, std::int64_t pixels);

  Backend& device() const { return device_; }
  std::int64_t pixels() const { return pixels_; }
  std::int64_t latent() const { return latent_; }
  const std::vector<DenseLayer>& encoder() const { return encoder_; }
  const std::vector<DenseLayer>& decoder() const { return decoder_; }
  const std::vector<Parameter>& layout() const { return layout_; }

  // Flat f32 [P] buffers.
  Tensor parameters, gradients, first, second;

  // Posterior parameters [n, 2L] (mu, s) of n images of u8 pixels, not binarised; on the host. `image(i)` gives the
  // pixels of one, which are wanted until the next call.
  std::vector<float> encode(std::int64_t n, const std::function<const std::uint8_t*(std::int64_t i)>& image);
  // Gives `take` the pixel means [D] in [0, 1] (Bernoulli: probabilities; Gaussian: means, not clipped) of each of n
  // latent vectors [n, L], in their order; on the host.
  void decode(const float* z, std::int64_t n, const std::function<void(const float* means)>& take);

 private:
  Backend& device_;
  std::int64_t pixels_, latent_;
  Likelihood likelihood_;
  std::int64_t host_batch_;  // rows of a batch of encode() and decode()
  Arena arena_;
  std::vector<Parameter> layout_;
  std::vector<DenseLayer> encoder_, decoder_;
};

enum class Direction : std::uint8_t { forward, both };

// What one batch leaves on its way through a Vae: room for `rows` images, each with `samples` draws of z.
struct Pass {
  Pass(Vae&, std::int64_t rows, std::int64_t samples, Kernels, Direction = Direction::both);

  Arena arena;
  Tensor input;                                      // f32 [R, D]
  Tensor target;                                     // u8  [R, D]
  std::vector<Tensor> encoded;                       // outputs of the encoder's layers; the last is stats [R, 2L]
  Tensor z;                                          // f32 [R, S, L]
  std::vector<Tensor> decoded;                       // outputs of the decoder's layers; the last is [R * S, D]
  std::vector<Tensor> encoded_masks, decoded_masks;  // of the layers whose activation is relu; see DenseForward
  Tensor kl_partial, nll_partial;
  Tensor gradient[2];  // two buffers that the backward pass alternates between, each as large as any layer
                       // (neither masks nor these where there is no way back)
  Tensor scratch;      // of the unfused kernels

  // The first `rows` of input -> stats [rows, 2L]; the first `rows` of z -> output [rows * S, D].
  Tensor encode(Vae&, std::int64_t rows) const;
  Tensor decode(Vae&, std::int64_t rows) const;
  // Back from the gradient of the output to that of z [R, S, L]; from the gradient of stats to the weights' gradients.
  // Either may lie in one of `gradient`, which both overwrite.
  Tensor decode_backward(Vae&, const Tensor& doutput) const;
  void encode_backward(Vae&, const Tensor& dstats) const;
};

}  // namespace elbo
