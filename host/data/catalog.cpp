#include "host/data/catalog.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <set>

#include "elbo/error.h"
#include "host/base/files.h"
#include "host/base/sha256.h"
#include "host/data/byte_reader.h"
#include "host/data/idx.h"
#include "host/data/idx_set.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

// Whether a folder has the images of a set in IDX form, or something that cannot be seen, which is to be told.
bool is_own_set(const fs::path& folder) {
  try {
    return is_there(folder / "train-images-idx3-ubyte") || is_there(folder / "train-images-idx3-ubyte.gz");
  } catch (const Error&) {
    return true;
  }
}

// Sets in IDX form that are in the directories but not in the catalogue.
std::set<std::string> own_sets(const std::vector<std::string>& directories) {
  std::set<std::string> names;
  for (const std::string& directory : directories) {
    std::error_code unreadable;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory, unreadable)) {
      const std::string name = entry.path().filename().string();
      if (!find_known(name) && is_own_set(entry.path())) names.insert(name);
    }
  }
  return names;
}

std::string indented(const std::string& text) {
  std::string result = "    ";
  for (const char c : text) result += c == '\n' ? "\n    " : std::string(1, c);
  return result + "\n";
}

std::string heading(const std::string& set, const std::string& folder) { return set + ": " + folder + "\n"; }

// Why the file is not the known one; empty where it is.
std::string difference(const std::string& path, const KnownFile& known) {
  if (path.empty()) return known.name + ": missing";
  try {
    const InputFile file(path);
    ByteReader reader(ByteSource(file), encoding_of(path), path);
    Sha256 hash;
    std::array<std::byte, 1 << 16> chunk;
    std::int64_t size = 0;
    while (const std::size_t n = reader.read(chunk.data(), chunk.size())) {
      hash.update(chunk.data(), n);
      size += static_cast<std::int64_t>(n);
    }
    reader.finish();
    if (size != known.size) return cat(path, ": holds ", size, " bytes, expected ", known.size);
    const std::string digits = hash.hex();
    return digits == known.sha256 ? ""
                                  : cat(path, ": the SHA-256 of its content is ", digits, ", expected ", known.sha256);
  } catch (const Error& e) {
    return e.what();
  }
}

std::string list_known(const KnownSet& set, const std::string& folder) {
  std::string text = heading(set.name, folder);
  bool whole = true;
  for (const KnownFile& file : set.files) {
    std::string path, wrong = file.name + "  missing";
    try {
      path = find_file(folder, file.name);
    } catch (const Error& e) {
      wrong = e.what();
    }
    text += "    " + (path.empty() ? wrong : fs::path(path).filename().string()) + "\n";
    whole = whole && !path.empty();
  }
  return whole ? text : text + indented(where_to_get(set.name));
}

std::string verify_known(const KnownSet& set, const std::string& folder, bool& ok) {
  std::string text = heading(set.name, folder);
  bool right = true;
  for (const KnownFile& file : set.files) {
    std::string path, wrong;
    try {
      path = find_file(folder, file.name);
      wrong = difference(path, file);
    } catch (const Error& e) {
      wrong = e.what();
    }
    text += "    " + (wrong.empty() ? fs::path(path).filename().string() + "  ok" : "WRONG  " + wrong) + "\n";
    right = right && wrong.empty();
  }
  ok = ok && right;
  return right ? text : text + indented(where_to_get(set.name));
}

// What a run on the set would refuse is WRONG.
std::string verify_own(const std::string& set, const std::string& folder, bool& ok) {
  std::string text = heading(set, folder);
  const auto add = [&](const std::function<std::string()>& verified) {
    try {
      text += verified();
      return true;
    } catch (const Error& e) {
      text += cat("    WRONG  ", e.what(), "\n");
      return ok = false;
    }
  };
  IdxSet files;
  const bool found = add([&] {
    files = find_idx_set(folder);
    return "";
  });
  if (!found) return text;
  ImageSet train, test;
  const auto read = [](const IdxPart& part, const char* name, ImageSet& images) {
    require(!part.images.empty(), name, "-images-idx3-ubyte: missing");
    images = read_idx_images(part.images, part.labels);
    images.pixels = {};  // the rest is wanted for the comparison
    return cat("    ", fs::path(part.images).filename().string(), "  readable: ", images.count, " images of ",
               images.height, " x ", images.width, images.labels.empty() ? ", no labels" : ", with labels",
               "; no checksum is known\n");
  };
  add([&] { return read(files.train, "train", train); });
  add([&] { return read(files.test, "t10k", test); });
  add([&] {
    check_labels(files);
    if (train.count > 0 && test.count > 0) check_sizes(files, train, test);
    return "";
  });
  return text;
}

std::string missing(const KnownSet& set) { return heading(set.name, "not here") + indented(where_to_get(set.name)); }

}  // namespace

const std::vector<KnownSet>& known_sets() {
  static const std::vector<KnownSet> sets = {
      {"mnist",
       "MNIST comes from http://yann.lecun.com/exdb/mnist/; the same files are at\n"
       "https://storage.googleapis.com/cvdf-datasets/mnist/",
       {{"train-images-idx3-ubyte", 47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"},
        {"train-labels-idx1-ubyte", 60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"},
        {"t10k-images-idx3-ubyte", 7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"},
        {"t10k-labels-idx1-ubyte", 10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"}},
       {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"},
       28,
       28,
       60000,
       10000},
      {"fashion-mnist",
       "Fashion-MNIST is Debian's and Ubuntu's package dataset-fashion-mnist (it goes to /usr/share/datasets);\n"
       "it comes from https://github.com/zalandoresearch/fashion-mnist",
       {{"train-images-idx3-ubyte", 47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"},
        {"train-labels-idx1-ubyte", 60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"},
        {"t10k-images-idx3-ubyte", 7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"},
        {"t10k-labels-idx1-ubyte", 10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"}},
       {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"},
       28,
       28,
       60000,
       10000},
      {"freyface",
       "Frey Face comes from Sam Roweis' page, https://cs.nyu.edu/~roweis/data.html",
       {{"frey_rawface.mat", 1100584, "265a83a23adb081755cd3de375509828e690324d1d60f076b8ecebc840d59c64"}},
       {},
       28,
       20,
       1765,
       200},
  };
  return sets;
}

const KnownSet* find_known(const std::string& name) {
  for (const KnownSet& set : known_sets())
    if (set.name == name) return &set;
  return nullptr;
}

std::vector<std::string> class_names(const std::string& set) {
  const KnownSet* known = find_known(set);
  return known ? known->classes : std::vector<std::string>{};
}

std::string where_to_get(const std::string& set) {
  const KnownSet* known = find_known(set);
  if (!known) {
    std::string names;
    for (const KnownSet& s : known_sets()) names += (names.empty() ? "" : ", ") + s.name;
    return "elbo knows where to get " + names + "; any other set is a folder with the four IDX files of MNIST's names";
  }
  const bool idx = known->files.size() > 1;
  std::string text = known->origin + "\nput into a folder " + set + (idx ? ", as they are or as .gz," : "") +
                     " the file" + (idx ? "s" : "") + " (SHA-256 of the content)";
  for (const KnownFile& file : known->files) text += "\n  " + file.sha256 + "  " + file.name;
  return text;
}

bool is_there(const std::string& path) {
  std::error_code error, ignored;
  const fs::file_type type = fs::status(path, error).type();
  if (type != fs::file_type::not_found) {
    require(type != fs::file_type::none, path, ": ", error.message());
    return true;
  }
  if (fs::is_symlink(fs::symlink_status(path, ignored)))
    fail(path, ": is a link to ", fs::read_symlink(path, ignored).string(), ", which is not there");
  return false;
}

std::string places(const std::vector<std::string>& directories) {
  std::string text;
  for (const std::string& directory : directories) {
    std::error_code error;
    text += (text.empty() ? "" : ", ") + directory;
    if (fs::is_directory(directory, error)) continue;
    const bool absent = !error || error == std::errc::no_such_file_or_directory;
    text += " (" + (absent ? "no such folder" : error.message()) + ")";
  }
  return text;
}

std::string find_set(const std::string& set, const std::vector<std::string>& directories) {
  for (const std::string& directory : directories) {
    const std::string folder = (fs::path(directory) / set).string();
    if (is_there(folder) && fs::is_directory(folder)) return folder;
  }
  return "";
}

std::string find_file(const std::string& folder, const std::string& name) {
  for (const char* suffix : {"", ".gz"}) {
    const std::string path = (fs::path(folder) / (name + suffix)).string();
    if (is_there(path)) return path;
  }
  return "";
}

std::string list_data(const std::vector<std::string>& directories) {
  std::string text = "looked in " + places(directories) + "\n";
  for (const KnownSet& set : known_sets()) {
    try {
      const std::string folder = find_set(set.name, directories);
      text += folder.empty() ? missing(set) : list_known(set, folder);
    } catch (const Error& e) {
      text += heading(set.name, e.what());
    }
  }
  for (const std::string& name : own_sets(directories)) {
    try {
      text += heading(name, find_set(name, directories));
    } catch (const Error& e) {
      text += heading(name, e.what());
    }
  }
  return text;
}

std::string verify_data(const std::vector<std::string>& directories, bool& ok) {
  std::string text = "looked in " + places(directories) + "\n";
  ok = true;
  bool any = false;
  for (const KnownSet& set : known_sets()) {
    try {
      const std::string folder = find_set(set.name, directories);
      text += folder.empty() ? missing(set) : verify_known(set, folder, ok);
      any = any || !folder.empty();
    } catch (const Error& e) {
      text += heading(set.name, e.what());
      ok = false;
    }
  }
  for (const std::string& name : own_sets(directories)) {
    any = true;
    try {
      text += verify_own(name, find_set(name, directories), ok);
    } catch (const Error& e) {
      text += heading(name, e.what());
      ok = false;
    }
  }
  ok = ok && any;
  return text;
}

}  // namespace elbo
