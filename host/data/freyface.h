// Brendan Frey's face, frame by frame from a video: frey_rawface.mat, whose variable ff is 560 x 1965 bytes, one
// column an image of 28 rows and 20 columns.
#pragma once
#include <cstdint>
#include <span>
#include <string>

#include "host/data/dataset.h"

namespace elbo {

inline constexpr std::int64_t freyface_test_images = 200;

// All images, in the order of the video; from bytes already in memory, for tests.
ImageSet parse_freyface(std::span<const std::byte> file, const std::string& name);

// Split::holdout: 200 test images and the rest for training, both in an order that `seed` chooses.
// Split::none: every image for both, in the order of the video.
Dataset load_freyface(const std::string& path, Split split, std::uint64_t seed);

}  // namespace elbo
