#include "host/data/idx_set.h"

#include "elbo/error.h"
#include "host/data/catalog.h"

namespace elbo {

IdxSet find_idx_set(const std::string& folder) {
  const auto part = [&](const std::string& name) {
    return IdxPart{find_file(folder, name + "-images-idx3-ubyte"), find_file(folder, name + "-labels-idx1-ubyte")};
  };
  return {folder, part("train"), part("t10k")};
}

void check_labels(const IdxSet& set) {
  require(set.train.labels.empty() == set.test.labels.empty(), set.folder, ": there are labels of the ",
          set.train.labels.empty() ? "test" : "training", " images only; expected both train-labels-idx1-ubyte and ",
          "t10k-labels-idx1-ubyte, or neither");
}

void check_sizes(const IdxSet& set, const ImageSet& train, const ImageSet& test) {
  require(train.height == test.height && train.width == test.width, set.test.images, ": its images are ", test.height,
          " x ", test.width, ", but those of ", set.train.images, " are ", train.height, " x ", train.width);
}

}  // namespace elbo
