// The data sets that elbo knows by name, and where they are on this machine.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace elbo {

// `size` and `sha256` are of the content. A file may also be there as `name`.gz: packers differ from one mirror to
// the next, the content does not.
struct KnownFile {
  std::string name;
  std::int64_t size;
  std::string sha256;
};

struct KnownSet {
  std::string name;
  std::string origin;  // where it comes from, a line or more for people
  std::vector<KnownFile> files;
  std::vector<std::string> classes;  // names of the labels 0, 1, ...; empty where there are none
  std::int64_t height, width;        // of an image
  std::int64_t train, test;          // images, where they are split
};

const std::vector<KnownSet>& known_sets();

// Null where the set is not one of them.
const KnownSet* find_known(const std::string& set);

// What the labels of a set mean; empty where that is not known.
std::vector<std::string> class_names(const std::string& set);

// How to get a set: its origin, its files and their checksums. Text for the end of an error.
std::string where_to_get(const std::string& set);

// Whether there is something of that name, a link followed. Throws Error with the reason where that cannot be seen, or
// a link leads nowhere.
bool is_there(const std::string& path);

// "data (no such folder), /usr/share/datasets"
std::string places(const std::vector<std::string>& directories);

// The folder `set` of the first directory that has one; empty where none has. Throws as is_there().
std::string find_set(const std::string& set, const std::vector<std::string>& directories);

// `name` or `name`.gz in the folder, whichever is there first; empty where neither is. Throws as is_there().
std::string find_file(const std::string& folder, const std::string& name);

// `elbo data list`: every known set, and every other one in IDX form, where it is or how to get it.
std::string list_data(const std::vector<std::string>& directories);

// `elbo data verify`: the same, after reading every file: known ones against their checksums, others as a run reads
// them. ok: there is at least one set, and all that is there is right.
std::string verify_data(const std::vector<std::string>& directories, bool& ok);

}  // namespace elbo
