#include "host/report/collect.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "elbo/math/normal.h"
#include "elbo/math/random.h"
#include "host/data/catalog.h"

namespace elbo {
namespace {

constexpr std::int64_t means_a_class = 300, fewest_means_a_class = 30, means_without_classes = 2000;
// Pixels of the longer side of an image in the originals, of one in the samples, and of the whole manifold: larger
// images are shrunk.
constexpr std::int64_t original_side = 256, sample_side = 128, manifold_sheet_side = 1280;

using Indices = std::vector<std::int64_t>;

Indices evenly_spaced(std::int64_t wanted, std::int64_t count) {
  Indices indices(static_cast<std::size_t>(std::min(wanted, count)));
  for (std::size_t i = 0; i < indices.size(); ++i)
    indices[i] = static_cast<std::int64_t>(i) * count / static_cast<std::int64_t>(indices.size());
  return indices;
}

Indices choose_originals(const ImageSet& images, std::int64_t wanted) {
  if (images.labels.empty()) return evenly_spaced(wanted, images.count);
  Indices indices;
  for (int label = 0; label < 256 && std::ssize(indices) < wanted; ++label) {
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

// Images that come one by one and are kept shrunk, by the least whole factor that brings the longer side to `most`: a
// pixel becomes the mean of a square of them.
class Shrunk {
 public:
  Shrunk(const ImageSet& like, std::int64_t most)
      : height_(like.height), width_(like.width), factor_(ceil_div(std::max(like.height, like.width), most)) {
    images_ = {0, ceil_div(height_, factor_), ceil_div(width_, factor_), like.channels, {}};
  }

  // [height, width, channels]
  void add(const float* image) {
    ++images_.count;
    if (factor_ == 1) {
      images_.pixels.insert(images_.pixels.end(), image, image + height_ * width_ * images_.channels);
      return;
    }
    for (std::int64_t y = 0; y < images_.height; ++y) {
      const std::int64_t top = y * factor_, bottom = std::min(top + factor_, height_);
      std::vector<double> sums(static_cast<std::size_t>(images_.width * images_.channels));
      for (std::int64_t v = top; v < bottom; ++v) add_row(sums, image + v * width_ * images_.channels);
      for (std::size_t i = 0; i < sums.size(); ++i) {
        const std::int64_t left = static_cast<std::int64_t>(i) / images_.channels * factor_;
        const std::int64_t n = (bottom - top) * (std::min(left + factor_, width_) - left);
        images_.pixels.push_back(static_cast<float>(sums[i] / static_cast<double>(n)));
      }
    }
  }

  ImageStrip take() { return std::move(images_); }

 private:
  void add_row(std::vector<double>& sums, const float* row) const {
    for (std::int64_t x = 0; x < images_.width; ++x)
      for (std::int64_t u = x * factor_; u < std::min((x + 1) * factor_, width_); ++u)
        for (std::int64_t c = 0; c < images_.channels; ++c)
          sums[static_cast<std::size_t>(x * images_.channels + c)] += row[u * images_.channels + c];
  }

  std::int64_t height_, width_, factor_;
  ImageStrip images_;
};

// Bytes of images that are kept shrunk, and of the picture made of them: floats, in a vector that has grown, a raster
// and its copy in cairo, the PNG and its text.
std::uint64_t bytes_kept(const ImageSet& like, std::int64_t count, std::int64_t most) {
  constexpr std::int64_t bytes_a_number = 24;
  const std::int64_t factor = ceil_div(std::max(like.height, like.width), most);
  return static_cast<std::uint64_t>(count * ceil_div(like.height, factor) * ceil_div(like.width, factor) *
                                    like.channels * bytes_a_number);
}

// Counts images that have been through the model, and tells.
class WorkDone {
 public:
  WorkDone(std::int64_t total, const Told& told) : total_(total), told_(told) {}
  void add_one() {
    ++done_;
    if (told_) told_(static_cast<double>(done_) / static_cast<double>(total_));
  }

 private:
  std::int64_t total_, done_ = 0;
  const Told& told_;
};

// Images as the model met them: a fixed threshold is part of the data, fresh Bernoulli draws average to the grey image.
class ImagesAsMet {
 public:
  ImagesAsMet(const ImageSet& images, Binarize binarize)
      : images_(images), threshold_(binarize == Binarize::threshold) {}

  const ImageSet& set() const { return images_; }

  // [height, width, channels], until the next call.
  const std::uint8_t* pixels(std::int64_t i) {
    const std::uint8_t* const grey = images_.image(i);
    if (!threshold_) return grey;
    thresholded_.resize(static_cast<std::size_t>(images_.image_size()));
    std::transform(grey, grey + images_.image_size(), thresholded_.begin(), [](auto p) { return p >= 128 ? 255 : 0; });
    return thresholded_.data();
  }

 private:
  const ImageSet& images_;
  bool threshold_;
  std::vector<std::uint8_t> thresholded_;
};

ImageStrip shrink(ImagesAsMet& images, const Indices& indices, std::int64_t most) {
  Shrunk shrunk(images.set(), most);
  std::vector<float> image(static_cast<std::size_t>(images.set().image_size()));
  for (const std::int64_t i : indices) {
    const std::uint8_t* const pixels = images.pixels(i);
    std::transform(pixels, pixels + image.size(), image.begin(), [](auto p) { return p / 255.0f; });
    shrunk.add(image.data());
  }
  return shrunk.take();
}

// [indices, latent]
std::vector<float> posterior_means(Vae& vae, ImagesAsMet& images, const Indices& indices, WorkDone& done) {
  const auto n = std::ssize(indices), latent = vae.latent();
  const std::vector<float> stats = vae.encode(n, [&](std::int64_t i) {
    done.add_one();
    return images.pixels(indices[static_cast<std::size_t>(i)]);
  });
  std::vector<float> means(static_cast<std::size_t>(n * latent));
  for (std::int64_t i = 0; i < n; ++i) std::copy_n(&stats[i * 2 * latent], latent, &means[i * latent]);
  return means;
}

// The names of the images' classes; none where there are no labels.
std::vector<std::string> names_of(const Indices& indices, const ImageSet& images,
                                  const std::vector<std::string>& class_names) {
  std::vector<std::string> names;
  if (images.labels.empty()) return names;
  for (const std::int64_t i : indices) {
    const std::uint8_t label = images.labels[static_cast<std::size_t>(i)];
    names.push_back(label < class_names.size() ? class_names[label] : std::to_string(label));
  }
  return names;
}

// Decodes z [n, latent] to images of the size of `like`, shrunk to `most`.
ImageStrip decode_shrunk(Vae& vae, const ImageSet& like, const std::vector<float>& z, std::int64_t most,
                         WorkDone& done) {
  Shrunk images(like, most);
  vae.decode(z.data(), static_cast<std::int64_t>(z.size()) / vae.latent(), [&](const float* means) {
    images.add(means);
    done.add_one();
  });
  return images.take();
}

// The manifold's latent vectors, image by image from the top left: z1 grows to the right, z2 upwards.
std::vector<float> manifold_grid(std::int64_t side) {
  std::vector<float> z;
  const auto quantile = [&](std::int64_t i) {
    return static_cast<float>(math::inverse_normal_cdf((static_cast<double>(i) + 0.5) / static_cast<double>(side)));
  };
  for (std::int64_t row = 0; row < side; ++row)
    for (std::int64_t column = 0; column < side; ++column) {
      z.push_back(quantile(column));
      z.push_back(quantile(side - 1 - row));
    }
  return z;
}

std::vector<float> prior_draws(std::uint64_t seed, std::int64_t count, std::int64_t latent) {
  std::vector<float> z;
  z.reserve(static_cast<std::size_t>(count * latent));
  for (std::int64_t row = 0; row < count; ++row)
    for (std::int64_t k = 0; k < latent; ++k) {
      const math::Draw draw{seed, Purpose::prior, 0, static_cast<std::uint32_t>(row), 0};
      z.push_back(math::normals(draw, static_cast<std::uint32_t>(k / 4)).v[k % 4]);
    }
  return z;
}

}  // namespace

PictureCounts picture_counts(std::int64_t image_size) {
  constexpr std::int64_t most_pixels = std::int64_t{1} << 28;  // of each kind
  const std::int64_t most = std::max<std::int64_t>(1, most_pixels / std::max<std::int64_t>(1, image_size));
  std::int64_t side = 20;
  while (side * side > most) --side;
  return {std::min<std::int64_t>(10, most), std::min<std::int64_t>(100, most), side};
}

Needs picture_needs(const MemoryNeeds& needs) {
  const ImageSet& images = needs.data().test;
  const PictureCounts counts = picture_counts(images.image_size());
  std::uint64_t bytes =
      2 * bytes_kept(images, counts.originals, original_side) + bytes_kept(images, counts.samples, sample_side);
  if (needs.vae().latent() == 2)
    bytes +=
        bytes_kept(images, counts.manifold_side * counts.manifold_side, manifold_sheet_side / counts.manifold_side);
  return needs.mapping(std::max(images.count, counts.samples)) + Needs{{"the report", bytes, MemorySide::host}};
}

ReportData collect_pictures(Vae& vae, const Spec& spec, const Dataset& data, const Told& told) {
  const ImageSet& images = data.test;
  const PictureCounts counts = picture_counts(images.image_size());
  const std::int64_t manifold_side = vae.latent() == 2 ? counts.manifold_side : 0;
  const Indices originals = choose_originals(images, counts.originals);
  const Indices shown = vae.latent() == 2 || vae.latent() == 3 ? choose_means(images) : Indices{};
  WorkDone done(2 * std::ssize(originals) + counts.samples + manifold_side * manifold_side + std::ssize(shown), told);
  ImagesAsMet as_met(images, spec.data.binarize);

  ReportData report;
  report.latent = vae.latent();
  report.class_names = class_names(data.name);

  report.originals = shrink(as_met, originals, original_side);
  report.reconstructions =
      decode_shrunk(vae, images, posterior_means(vae, as_met, originals, done), original_side, done);
  report.original_names = names_of(originals, images, report.class_names);

  report.samples = decode_shrunk(vae, images, prior_draws(spec.seed, counts.samples, vae.latent()), sample_side, done);
  if (manifold_side > 0) {
    report.manifold_side = manifold_side;
    report.manifold =
        decode_shrunk(vae, images, manifold_grid(manifold_side), manifold_sheet_side / manifold_side, done);
  }
  if (!shown.empty()) {
    report.means = posterior_means(vae, as_met, shown, done);
    if (!images.labels.empty())
      for (const std::int64_t i : shown) report.labels.push_back(images.labels[static_cast<std::size_t>(i)]);
  }
  return report;
}

Needs sample_needs(const MemoryNeeds& needs, std::int64_t count, std::int64_t longest_side) {
  const std::uint64_t z = static_cast<std::uint64_t>(count * needs.vae().latent()) * sizeof(float);
  return needs.mapping(count) + Needs{{"the samples", bytes_kept(needs.data().test, count, longest_side) + z,
                                       MemorySide::host, "a smaller --count needs less"}};
}

ImageStrip draw_samples(Vae& vae, const ImageSet& like, std::int64_t count, std::uint64_t seed,
                        std::int64_t longest_side, const Told& told) {
  WorkDone done(count, told);
  return decode_shrunk(vae, like, prior_draws(seed, count, vae.latent()), longest_side, done);
}

}  // namespace elbo
