#include "host/data/dataset.h"

#include <cstdlib>
#include <filesystem>

#include "elbo/error.h"
#include "host/data/catalog.h"
#include "host/data/freyface.h"
#include "host/data/idx.h"
#include "host/sha256.h"

namespace elbo {
namespace {

// The path of a file that the set cannot do without.
std::string need_file(const std::string& set, const std::string& folder, const std::string& name) {
  std::string path = find_file(folder, name);
  if (path.empty()) fail(folder, ": there is no ", name, " in it\n", where_to_get(set));
  return path;
}

void append(ImageSet& all, const ImageSet& more) {
  all.count += more.count;
  all.pixels.insert(all.pixels.end(), more.pixels.begin(), more.pixels.end());
  all.labels.insert(all.labels.end(), more.labels.begin(), more.labels.end());
}

Dataset load_idx(const std::string& name, Split split, const std::string& folder) {
  const std::string train_path = need_file(name, folder, "train-images-idx3-ubyte");
  const std::string test_path = need_file(name, folder, "t10k-images-idx3-ubyte");
  const std::string train_labels = find_file(folder, "train-labels-idx1-ubyte");
  const std::string test_labels = find_file(folder, "t10k-labels-idx1-ubyte");
  require(train_labels.empty() == test_labels.empty(), folder, ": there are labels of the ",
          train_labels.empty() ? "test" : "training", " images only; expected both train-labels-idx1-ubyte and ",
          "t10k-labels-idx1-ubyte, or neither");

  Dataset data{name, read_idx_images(train_path, train_labels), read_idx_images(test_path, test_labels)};
  require(data.train.height == data.test.height && data.train.width == data.test.width, test_path, ": its images are ",
          data.test.height, " x ", data.test.width, ", but those of ", train_path, " are ", data.train.height, " x ",
          data.train.width);
  if (split == Split::none) {
    append(data.train, data.test);
    data.test = data.train;
  }
  return data;
}

}  // namespace

std::string describe_images(const Dataset& data) {
  std::string text;
  Sha256 hash;
  for (const ImageSet* set : {&data.train, &data.test}) {
    text += cat(text.empty() ? "" : " and ", set->count, " x ", set->height, " x ", set->width, " x ", set->channels);
    hash.update(set->pixels.data(), set->pixels.size());
  }
  return text + ", SHA-256 " + hash.hex().substr(0, 16);
}

std::vector<std::string> data_directories(const std::string& given) {
  if (!given.empty()) {
    require(is_there(given), "--data ", given, ": there is no such folder");
    require(std::filesystem::is_directory(given), "--data ", given, ": is not a folder");
    return {given};
  }
  std::vector<std::string> directories;
  if (const char* variable = std::getenv("ELBO_DATA"); variable && *variable) directories.emplace_back(variable);
  directories.emplace_back("data");
  directories.emplace_back("/usr/share/datasets");
  return directories;
}

Dataset load_dataset(const Spec::Data& spec, std::uint64_t seed, const std::vector<std::string>& directories) {
  const std::string& name = spec.dataset;
  require(!name.empty() && name[0] != '.' && name.find('/') == std::string::npos, "data set '", name,
          "': expected the name of a folder below the data directories");
  const std::string folder = find_set(name, directories);
  if (folder.empty()) {
    fail("data set '", name, "': there is no folder of that name in ", places(directories), "\n", where_to_get(name));
  }
  if (name == "freyface") return load_freyface(need_file(name, folder, "frey_rawface.mat"), spec.split, seed);
  return load_idx(name, spec.split, folder);
}

ImageSet load_or_blank(const Spec::Data& spec, std::uint64_t seed, const std::vector<std::string>& directories) {
  const KnownSet* known = find_known(spec.dataset);
  if (!known || !find_set(spec.dataset, directories).empty()) return load_dataset(spec, seed, directories).train;
  ImageSet blank{known->train + (spec.split == Split::none ? known->test : 0), known->height, known->width, 1, {}, {}};
  blank.pixels.resize(static_cast<std::size_t>(blank.count * blank.image_size()));
  return blank;
}

}  // namespace elbo
