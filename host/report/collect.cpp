#include "host/report/collect.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "elbo/math/normal.h"
#include "elbo/math/random.h"
#include "host/data/catalog.h"

namespace elbo {
namespace {

constexpr std::int64_t originals_shown = 10, samples_shown = 100, manifold_side = 20;
constexpr std::int64_t means_a_class = 300, fewest_means_a_class = 30, means_without_classes = 2000;
// The longer side of an image in the originals, the samples and the manifold: larger ones are shrunk to it.
constexpr std::int64_t original_side = 256, sample_side = 128, manifold_image_side = 64;

using Indices = std::vector<std::int64_t>;

Indices evenly_spaced(std::int64_t wanted, std::int64_t count) {
  Indices indices(static_cast<std::size_t>(std::min(wanted, count)));
  for (std::size_t i = 0; i < indices.size(); ++i)
    indices[i] = static_cast<std::int64_t>(i) * count / static_cast<std::int64_t>(indices.size());
  return indices;
}

Indices choose_originals(const ImageSet& images) {
  if (images.labels.empty()) return evenly_spaced(originals_shown, images.count);
  Indices indices;
  for (int label = 0; label < 256 && indices.size() < static_cast<std::size_t>(originals_shown); ++label) {
    const auto found = std::find(images.labels.begin(), images.labels.end(), label);
    if (found != images.labels.end()) indices.push_back(found - images.labels.begin());
  }
  return indices;
}

// As many of each class as the rarest has, up to means_a_class, but of larger classes at least fewest_means_a_class; in
// the order of the set, so that the classes are mixed.
Indices choose_means(const ImageSet& images) {
  if (images.labels.empty()) return evenly_spaced(means_without_classes, images.count);
  std::array<std::int64_t, 256> sizes{}, taken{};
  for (const std::uint8_t label : images.labels) ++sizes[label];
  std::int64_t share = means_a_class;
  for (const std::int64_t size : sizes)
    if (size > 0) share = std::min(share, std::max(size, fewest_means_a_class));
  Indices indices;
  for (std::int64_t i = 0; i < images.count; ++i)
    if (taken[images.labels[static_cast<std::size_t>(i)]]++ < share) indices.push_back(i);
  return indices;
}

// Shrinks by the least whole factor that brings the longer side to `most`: a pixel becomes the mean of a square of
// them.
ImageStrip shrunk(const ImageStrip& images, std::int64_t most) {
  const std::int64_t side = std::max(images.height, images.width), factor = side > most ? (side + most - 1) / most : 1;
  if (factor == 1) return images;
  ImageStrip small{images.count, tiles(images.height, factor), tiles(images.width, factor), images.channels, {}};
  small.pixels.reserve(static_cast<std::size_t>(small.count * small.height * small.width * small.channels));
  for (std::int64_t i = 0; i < small.count; ++i)
    for (std::int64_t y = 0; y < small.height; ++y)
      for (std::int64_t x = 0; x < small.width; ++x)
        for (std::int64_t c = 0; c < small.channels; ++c) {
          double sum = 0;
          std::int64_t n = 0;
          for (std::int64_t v = y * factor; v < std::min((y + 1) * factor, images.height); ++v)
            for (std::int64_t u = x * factor; u < std::min((x + 1) * factor, images.width); ++u, ++n)
              sum += images.pixels[static_cast<std::size_t>(
                  ((i * images.height + v) * images.width + u) * images.channels + c)];
          small.pixels.push_back(static_cast<float>(sum / static_cast<double>(n)));
        }
  return small;
}

// Decodes z [n, latent] to images of the size of `like`, shrunk to `most`; a few at a time, since they may be large.
ImageStrip decode_shrunk(Vae& vae, const ImageSet& like, const std::vector<float>& z, std::int64_t most) {
  constexpr std::int64_t at_once = 64;
  const std::int64_t n = static_cast<std::int64_t>(z.size()) / vae.latent();
  ImageStrip all;
  for (std::int64_t done = 0; done < n; done += at_once) {
    const std::int64_t count = std::min(at_once, n - done);
    ImageStrip part = shrunk(
        {count, like.height, like.width, like.channels, vae.decode(z.data() + done * vae.latent(), count)}, most);
    if (done == 0) {
      all = std::move(part);
    } else {
      all.count += part.count;
      all.pixels.insert(all.pixels.end(), part.pixels.begin(), part.pixels.end());
    }
  }
  return all;
}

// Posterior means [n, latent] of images [n, pixels].
std::vector<float> posterior_means(Vae& vae, const std::vector<std::uint8_t>& images) {
  const auto latent = static_cast<std::size_t>(vae.latent());
  const std::size_t n = images.size() / static_cast<std::size_t>(vae.pixels());
  const std::vector<float> stats = vae.encode(images.data(), static_cast<std::int64_t>(n));
  std::vector<float> means(n * latent);
  for (std::size_t i = 0; i < n; ++i) std::copy_n(&stats[i * 2 * latent], latent, &means[i * latent]);
  return means;
}

// The manifold's latent vectors, image by image from the top left: z1 grows to the right, z2 upwards.
std::vector<float> manifold_grid() {
  std::vector<float> z;
  const auto quantile = [](std::int64_t i) {
    return static_cast<float>(math::inverse_normal_cdf((static_cast<double>(i) + 0.5) / manifold_side));
  };
  for (std::int64_t row = 0; row < manifold_side; ++row)
    for (std::int64_t column = 0; column < manifold_side; ++column) {
      z.push_back(quantile(column));
      z.push_back(quantile(manifold_side - 1 - row));
    }
  return z;
}

std::vector<float> prior_draws(std::uint64_t seed, std::int64_t count, std::int64_t latent) {
  std::vector<float> z;
  for (std::int64_t row = 0; row < count; ++row)
    for (std::int64_t k = 0; k < latent; ++k) {
      const math::Draw draw{seed, Purpose::prior, 0, static_cast<std::uint32_t>(row), 0};
      z.push_back(math::normals(draw, static_cast<std::uint32_t>(k / 4)).v[k % 4]);
    }
  return z;
}

}  // namespace

ReportData collect_pictures(Vae& vae, const Spec& spec, const Dataset& data) {
  const ImageSet& images = data.test;
  // As the model met them: a fixed threshold is part of the data, fresh Bernoulli draws average to the grey image.
  const auto pixels_of = [&](const Indices& indices) {
    std::vector<std::uint8_t> pixels;
    for (const std::int64_t i : indices)
      pixels.insert(pixels.end(), images.image(i), images.image(i) + images.image_size());
    if (spec.data.binarize == Binarize::threshold)
      for (std::uint8_t& p : pixels) p = p >= 128 ? 255 : 0;
    return pixels;
  };

  ReportData report;
  report.latent = vae.latent();
  report.class_names = class_names(data.name);

  const Indices originals = choose_originals(images);
  const std::vector<std::uint8_t> original_pixels = pixels_of(originals);
  std::vector<float> grey(original_pixels.size());
  std::transform(original_pixels.begin(), original_pixels.end(), grey.begin(), [](auto p) { return p / 255.0f; });
  report.originals = shrunk(
      {static_cast<std::int64_t>(originals.size()), images.height, images.width, images.channels, std::move(grey)},
      original_side);
  report.reconstructions = decode_shrunk(vae, images, posterior_means(vae, original_pixels), original_side);
  if (!images.labels.empty())
    for (const std::int64_t i : originals) {
      const std::uint8_t label = images.labels[static_cast<std::size_t>(i)];
      report.original_names.push_back(label < report.class_names.size() ? report.class_names[label]
                                                                        : std::to_string(label));
    }

  report.samples = draw_samples(vae, images, samples_shown, spec.seed, sample_side);
  if (vae.latent() == 2) {
    report.manifold = decode_shrunk(vae, images, manifold_grid(), manifold_image_side);
    report.manifold_side = manifold_side;
  }
  if (vae.latent() == 2 || vae.latent() == 3) {
    const Indices shown = choose_means(images);
    report.means = posterior_means(vae, pixels_of(shown));
    if (!images.labels.empty())
      for (const std::int64_t i : shown) report.labels.push_back(images.labels[static_cast<std::size_t>(i)]);
  }
  return report;
}

ImageStrip draw_samples(Vae& vae, const ImageSet& like, std::int64_t count, std::uint64_t seed,
                        std::int64_t longest_side) {
  return decode_shrunk(vae, like, prior_draws(seed, count, vae.latent()), longest_side);
}

}  // namespace elbo
