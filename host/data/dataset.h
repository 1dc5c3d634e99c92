// Images in host memory, as they lie in their files.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "elbo/tensor.h"
#include "host/spec/spec.h"

namespace elbo {

struct ImageSet {
  std::int64_t count = 0, height = 0, width = 0, channels = 1;
  std::vector<std::uint8_t> pixels;  // [count, height, width, channels]
  std::vector<std::uint8_t> labels;  // [count], or empty where the set has none

  std::int64_t image_size() const { return height * width * channels; }
  std::size_t bytes() const { return static_cast<std::size_t>(count * image_size()); }  // of the pixels
  Shape image_shape() const { return {height, width, channels}; }
  const std::uint8_t* image(std::int64_t i) const { return pixels.data() + i * image_size(); }
};

struct Dataset {
  std::string name;
  ImageSet train, test;
};

// Where data are looked for, in order: `given` (--data) alone if it is not empty, else $ELBO_DATA,
// ./data, /usr/share/datasets. Throws Error where `given` is no folder.
std::vector<std::string> data_directories(const std::string& given);

// "60000 x 28 x 28 x 1 and 10000 x 28 x 28 x 1, SHA-256 d3ad..." of the pixels of both: whether two are the same
// images.
std::string describe_images(const Dataset&);

// Loads the folder data.dataset of the first directory that has it: freyface from frey_rawface.mat (holdout: 1765
// training and 200 test images, chosen by the seed), any other from the four IDX files of MNIST's names, plain or .gz.
// Throws Error naming the file, what is wrong and what was expected; where a set is missing, where its name was given
// and where the set comes from.
Dataset load_dataset(const Spec&, const std::vector<std::string>& directories);

// How many images there are, and how large: the same without pixels and labels. It reads no more than headers, and
// freyface, which is small.
Dataset measure_dataset(const Spec&, const std::vector<std::string>& directories);

// The same of the training images, where a known set is in none of the directories, too.
ImageSet measure_or_look_up(const Spec&, const std::vector<std::string>& directories);

}  // namespace elbo
