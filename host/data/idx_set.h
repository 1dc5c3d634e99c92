// A data set as a folder of IDX files of MNIST's names: which they are, and what must be right about them together.
#pragma once
#include <string>

#include "host/data/dataset.h"

namespace elbo {

// Paths; empty where there is no such file.
struct IdxPart {
  std::string images, labels;
};
struct IdxSet {
  std::string folder;
  IdxPart train, test;
};

// Each file as it is or as .gz.
IdxSet find_idx_set(const std::string& folder);

// An Error where only one part has labels.
void check_labels(const IdxSet&);
// An Error where images for training are of another size than those for the test.
void check_sizes(const IdxSet&, const ImageSet& train, const ImageSet& test);

}  // namespace elbo
