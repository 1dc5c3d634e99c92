// IDX files, the format of MNIST: two zero bytes, the element type, the number of dimensions, each
// dimension as 4 bytes, the highest first, and the elements.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "host/data/byte_reader.h"
#include "host/data/dataset.h"

namespace elbo {

struct IdxArray {
  std::vector<std::int64_t> shape;
  std::vector<std::uint8_t> values;
};

// Throws an Error unless the file is whole, holds unsigned bytes in `rank` dimensions, and nothing after them. For
// tests and fuzzing: from bytes already in memory.
IdxArray parse_idx(std::span<const std::byte> file, Encoding, int rank, const std::string& name);

// Reads images [N, H, W] and their labels [N]; no labels where `label_path` is empty. Files whose names end in
// .gz are decompressed.
ImageSet read_idx_images(const std::string& image_path, const std::string& label_path);

// The same without pixels and labels: reads the header of the images, and holds it against the size of the file.
ImageSet measure_idx_images(const std::string& image_path);

}  // namespace elbo
