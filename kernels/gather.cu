// Gather, dequantise and binarise a batch, in one pass.
//
// What: row r of the batch is image number
//     shuffled_index(seed, epoch, images, batch * rows + r)   Indexing::shuffled
//     (step % (images / rows)) * rows + r                     Indexing::ring
//     row0 + r                                                Indexing::sequential (row0 + rows <= images)
//   target = the pixel; binarised: 255 where it is >= 128 (threshold) or where a Bernoulli(pixel / 255)
//   draw keyed by (noise_step, row0 + r) says so (dynamic), else 0. input = target / 255.
// Shapes: source [images, pixels], input and target [rows, pixels].
// Bytes: reads 1 and writes 5 a pixel. Vectors where pixels is a multiple of 4 and the buffers are aligned.
// Deterministic: every element is a function of the state and its position.
#include "kernels/gather.h"

#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"
#include "kernels/launcher.h"
#include "kernels/quad.h"

namespace elbo::kernels {
namespace {

constexpr unsigned threads = 256;
constexpr std::int64_t segment = 4096;  // pixels of one row that a block takes

__device__ std::int64_t image_of(const GatherBatch& g, std::int64_t row) {
  switch (g.indexing) {
    case Indexing::shuffled:
      return math::shuffled_index(g.state->seed, g.state->epoch, static_cast<std::uint32_t>(g.images),
                                  static_cast<std::uint32_t>(g.state->batch * g.rows + row));
    case Indexing::ring: return g.state->step % (g.images / g.rows) * g.rows + row;
    case Indexing::sequential: return g.state->row0 + row;
  }
  return 0;
}

template <bool aligned>
__global__ void __launch_bounds__(threads) gather_batch_kernel(const GatherBatch g) {
  ELBO_SHARED(std::int64_t, image, 1);
  const unsigned segments = (g.pixels + segment - 1) / segment;
  const std::int64_t row = blockIdx.x / segments, first = blockIdx.x % segments * segment;
  const std::int64_t end = first + segment < g.pixels ? first + segment : g.pixels;
  if (threadIdx.x == 0) image[0] = image_of(g, row);
  __syncthreads();
  const std::uint8_t* const source = g.source + image[0] * g.pixels;
  const math::Draw draw{.seed = g.state->seed,
                        .purpose = Purpose::binarize,
                        .step = g.state->noise_step,
                        .row = g.state->row0 + static_cast<std::uint32_t>(row),
                        .sample = 0};

  for (std::int64_t p = first + 4 * threadIdx.x; p < end; p += 4 * threads) {
    const std::int64_t count = aligned ? 4 : end - p;
    Quad<std::uint8_t> pixel = load_quad<aligned>(source + p, count);
    if (g.binarize == Binarize::threshold) {
#pragma unroll
      for (std::uint8_t& v : pixel.v) v = v >= 128 ? 255 : 0;
    } else if (g.binarize == Binarize::dynamic) {
      const math::Words w = math::random_words(draw, static_cast<std::uint32_t>(p / 4));
      const std::uint32_t word[] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) pixel.v[j] = math::bernoulli_draw(word[j], pixel.v[j]) ? 255 : 0;
    }
    Quad<float> value;
#pragma unroll
    for (int j = 0; j < 4; ++j) value.v[j] = math::pixel_value<float>(pixel.v[j]);
    store_quad<aligned>(g.input + row * g.pixels + p, value, count);
    store_quad<aligned>(g.target + row * g.pixels + p, pixel, count);
  }
}

}  // namespace

void gather_batch(const GatherBatch& g, cudaStream_t stream) {
  require(g.source && g.state && g.input && g.target, "gather_batch: a null buffer");
  require(g.rows > 0 && g.pixels > 0 && g.images >= g.rows, "gather_batch: ", g.rows, " rows of ", g.pixels,
          " pixels from ", g.images, " images");
  require(g.indexing != Indexing::ring || g.images % g.rows == 0, "gather_batch: a ring of ", g.images,
          " rows is not made of slots of ", g.rows);
  const Range range("gather_batch");
  const unsigned blocks = blocks_for("gather_batch", g.rows * ((g.pixels + segment - 1) / segment), 1);
  const bool aligned =
      g.pixels % 4 == 0 && is_aligned(g.source, 4) && is_aligned(g.target, 4) && is_aligned(g.input, 16);
  launch("gather_batch_kernel", aligned ? gather_batch_kernel<true> : gather_batch_kernel<false>,
         {blocks, threads, stream}, g);
}

}  // namespace elbo::kernels
