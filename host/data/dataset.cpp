#include "host/data/dataset.h"

#include <cstdlib>
#include <filesystem>

#include "elbo/error.h"
#include "host/base/memory.h"
#include "host/base/sha256.h"
#include "host/data/catalog.h"
#include "host/data/freyface.h"
#include "host/data/idx.h"
#include "host/data/idx_set.h"

namespace elbo {
namespace {

// The path of a file that the set cannot do without.
std::string need_file(const std::string& set, const std::string& folder, const std::string& name) {
  std::string path = find_file(folder, name);
  if (path.empty()) fail(folder, ": there is no ", name, " in it\n", where_to_get(set));
  return path;
}

enum class Content { all, sizes };

void append(ImageSet& all, const ImageSet& more, const std::string& name) {
  reserve_memory(all.pixels, all.pixels.size() + more.pixels.size(), name);
  all.count += more.count;
  all.pixels.insert(all.pixels.end(), more.pixels.begin(), more.pixels.end());
  all.labels.insert(all.labels.end(), more.labels.begin(), more.labels.end());
}

Dataset open_idx(const std::string& name, const std::string& folder, Content content) {
  need_file(name, folder, "train-images-idx3-ubyte");
  need_file(name, folder, "t10k-images-idx3-ubyte");
  const IdxSet set = find_idx_set(folder);
  check_labels(set);
  const auto read = [content](const IdxPart& part) {
    return content == Content::all ? read_idx_images(part.images, part.labels) : measure_idx_images(part.images);
  };
  Dataset data{name, read(set.train), read(set.test)};
  check_sizes(set, data.train, data.test);
  return data;
}

Dataset open_dataset(const Spec& spec, const std::vector<std::string>& directories, Content content) {
  const std::string& name = spec.data.dataset;
  if (name.empty() || name[0] == '.' || name.find('/') != std::string::npos)
    fail(spec.where("data.dataset"), ": data set '", name,
         "': expected the name of a folder below the data directories");
  const std::string folder = find_set(name, directories);
  if (folder.empty())
    fail(spec.where("data.dataset"), ": data set '", name, "': there is no folder of that name in ",
         places(directories), "\n", where_to_get(name));
  if (name == "freyface") {
    Dataset data = load_freyface(need_file(name, folder, "frey_rawface.mat"), spec.data.split, spec.seed);
    if (content == Content::sizes) data.train.pixels = data.test.pixels = {};
    return data;
  }
  Dataset data = open_idx(name, folder, content);
  if (spec.data.split == Split::none) {
    append(data.train, data.test, folder + ": the images for training and test together (data.split \"none\")");
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

Dataset load_dataset(const Spec& spec, const std::vector<std::string>& directories) {
  return open_dataset(spec, directories, Content::all);
}

Dataset measure_dataset(const Spec& spec, const std::vector<std::string>& directories) {
  return open_dataset(spec, directories, Content::sizes);
}

ImageSet measure_or_look_up(const Spec& spec, const std::vector<std::string>& directories) {
  const KnownSet* known = find_known(spec.data.dataset);
  if (!known || !find_set(spec.data.dataset, directories).empty()) return measure_dataset(spec, directories).train;
  const std::int64_t count = known->train + (spec.data.split == Split::none ? known->test : 0);
  return {count, known->height, known->width, 1, {}, {}};
}

}  // namespace elbo
