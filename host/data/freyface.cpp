#include "host/data/freyface.h"

#include <algorithm>

#include "elbo/error.h"
#include "elbo/math/random.h"
#include "host/data/mat.h"

namespace elbo {
namespace {

constexpr std::int64_t height = 28, width = 20;

// The training order of epoch e is the shuffle of that number; no run reaches this one.
constexpr std::uint32_t split_epoch = ~0u;

// Images first .. last - 1 of the shuffled order.
ImageSet pick(const ImageSet& all, std::uint64_t seed, std::int64_t first, std::int64_t last) {
  ImageSet set{last - first, all.height, all.width, all.channels, {}, {}};
  set.pixels.reserve(static_cast<std::size_t>(set.count * set.image_size()));
  for (std::int64_t i = first; i < last; ++i) {
    const std::uint8_t* image = all.image(
        math::shuffled_index(seed, split_epoch, static_cast<std::uint32_t>(all.count), static_cast<std::uint32_t>(i)));
    set.pixels.insert(set.pixels.end(), image, image + all.image_size());
  }
  return set;
}

ImageSet images_of(MatMatrix ff, const std::string& name) {
  require(ff.rows == height * width, name, ": variable ff has ", ff.rows, " rows, expected ", height * width,
          " (images of ", height, " x ", width, ")");
  require(ff.columns > freyface_test_images, name, ": variable ff has ", ff.columns,
          " columns (images), expected more than ", freyface_test_images);
  return {ff.columns, height, width, 1, std::move(ff.values), {}};
}

}  // namespace

ImageSet parse_freyface(std::span<const std::byte> file, const std::string& name) {
  return images_of(parse_mat(file, "ff", name), name);
}

Dataset load_freyface(const std::string& path, Split split, std::uint64_t seed) {
  ImageSet all = images_of(read_mat(path, "ff"), path);
  if (split == Split::none) return {"freyface", all, all};
  return {"freyface", pick(all, seed, freyface_test_images, all.count), pick(all, seed, 0, freyface_test_images)};
}

}  // namespace elbo
