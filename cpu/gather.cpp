// Gather, dequantise and binarise a batch, in one pass over its rows.
#include <algorithm>

#include "cpu/constant.h"
#include "cpu/device.h"
#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"

namespace elbo::cpu {
namespace {

constexpr std::uint32_t quads_at_once = 64;

// The number of the image that row r of the batch is.
std::int64_t image_of(Indexing indexing, const StepState& s, std::int64_t images, std::int64_t rows, std::int64_t r) {
  switch (indexing) {
    case Indexing::shuffled:
      return math::shuffled_index(s.seed, s.epoch, static_cast<std::uint32_t>(images),
                                  static_cast<std::uint32_t>(s.batch * rows + r));
    case Indexing::ring: return s.step % (images / rows) * rows + r;
    case Indexing::sequential: return s.row0 + r;
  }
  return 0;
}

void binarize_threshold(const std::uint8_t* pixels, std::uint8_t* target, std::int64_t n) {
#pragma omp simd
  for (std::int64_t p = 0; p < n; ++p) target[p] = pixels[p] >= 128 ? 255 : 0;
}

// Draws the words of many quads at once, since one draw alone leaves seven of a vector's lanes idle.
void binarize_dynamic(const std::uint8_t* pixels, std::uint8_t* target, std::int64_t n, const math::Draw& draw) {
  std::uint32_t words[4 * quads_at_once];
  for (std::int64_t begin = 0; begin < n; begin += 4 * quads_at_once) {
    const auto first = static_cast<std::uint32_t>(begin / 4);
#pragma omp simd
    for (std::uint32_t q = 0; q < quads_at_once; ++q) {
      const math::Words w = math::random_words(draw, first + q);
      words[4 * q] = w.x;
      words[4 * q + 1] = w.y;
      words[4 * q + 2] = w.z;
      words[4 * q + 3] = w.w;
    }
    const std::int64_t count = std::min<std::int64_t>(n - begin, 4 * quads_at_once);
#pragma omp simd
    for (std::int64_t p = 0; p < count; ++p) {
      target[begin + p] = math::bernoulli_draw(words[p], pixels[begin + p]) ? 255 : 0;
    }
  }
}

}  // namespace

void CpuBackend::do_run(const GatherBatch& op) {
  const std::int64_t images = op.source.rows(), rows = op.input.rows(), pixels = op.source.columns();
  const StepState state = *static_cast<const StepState*>(op.state.data);
  require(op.indexing != Indexing::sequential || state.row0 + rows <= images, "gather_batch: rows ", state.row0, " to ",
          state.row0 + rows - 1, " of ", images, " images");
  require(op.indexing != Indexing::shuffled || (state.batch + 1) * rows <= images, "gather_batch: batch ", state.batch,
          " of ", rows, " rows, from ", images, " images");
  const auto* const source = op.source.as<std::uint8_t>();
  float* const inputs = op.input.as<float>();
  auto* const targets = op.target.as<std::uint8_t>();

  team_.run(rows, [=, indexing = op.indexing, binarize = op.binarize](std::int64_t r) {
    const std::uint8_t* const from = source + image_of(indexing, state, images, rows, r) * pixels;
    std::uint8_t* const target = targets + r * pixels;
    float* const input = inputs + r * pixels;
    switch (binarize) {
      case Binarize::none: std::copy_n(from, pixels, target); break;
      case Binarize::threshold: binarize_threshold(from, target, pixels); break;
      case Binarize::dynamic:
        binarize_dynamic(from, target, pixels,
                         {.seed = state.seed,
                          .purpose = Purpose::binarize,
                          .step = state.noise_step,
                          .row = state.row0 + static_cast<std::uint32_t>(r),
                          .sample = 0});
        break;
    }
#pragma omp simd
    for (std::int64_t p = 0; p < pixels; ++p) input[p] = math::pixel_value<float>(target[p]);
  });
}

}  // namespace elbo::cpu
