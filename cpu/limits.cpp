#include "cpu/limits.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace elbo {
namespace {

namespace fs = std::filesystem;

// A word of /proc/self/mountinfo: spaces and the like stand there as \040.
std::string unescaped(const std::string& word) {
  std::string text;
  for (std::size_t i = 0; i < word.size(); ++i) {
    if (word[i] == '\\' && i + 3 < word.size()) {
      text += static_cast<char>((word[i + 1] - '0') * 64 + (word[i + 2] - '0') * 8 + (word[i + 3] - '0'));
      i += 3;
    } else {
      text += word[i];
    }
  }
  return text;
}

// Whether `word` is one of those that commas part in `list`.
bool contains(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// This process's group in the hierarchy of a controller of version 1 ("memory"), or of version 2 (""); empty where it
// is in none.
std::string group_of(const std::string& root, const std::string& controller) {
  std::ifstream groups(root + "/proc/self/cgroup");  // "4:cpu,cpuacct:/a/b" of version 1, "0::/a/b" of version 2
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controller.empty() ? controllers.empty() : contains(controllers, controller)) return line.substr(second + 1);
  }
  return "";
}

// The folders of this process's group and of those above it, innermost first, wherever the hierarchy is mounted. What
// is mounted may be a part of it, as in a container, which sees its own group as the root; the names of groups outside
// of that part lead nowhere.
std::vector<std::string> group_folders(const std::string& root, const std::string& controller) {
  std::vector<std::string> folders;
  const std::string group = group_of(root, controller);
  std::ifstream mounts(root + "/proc/self/mountinfo");
  // "35 31 0:32 ROOT PLACE OPTIONS [FIELDS] - TYPE SOURCE SUPER_OPTIONS"
  for (std::string line; std::getline(mounts, line);) {
    std::string ignored, part, place, type, options;
    const std::size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream(line) >> ignored >> ignored >> ignored >> part >> place;
    std::istringstream(line.substr(dash + 3)) >> type >> ignored >> options;
    if (type != (controller.empty() ? "cgroup2" : "cgroup") || (!controller.empty() && !contains(options, controller)))
      continue;
    part = unescaped(part);
    place = unescaped(place).insert(0, root);
    if (part == "/") part.clear();
    std::string below = group.starts_with(part + "/") ? group.substr(part.size()) : "";
    for (; below.size() > 1; below.resize(below.rfind('/')))
      if (std::error_code error; fs::is_directory(place + below, error)) folders.push_back(place + below);
    folders.push_back(place);
  }
  return folders;
}

// The first number in a file; false where there is none ("max", no such file).
template <class T>
bool read_number(const std::string& path, T& value) {
  std::ifstream file(path);
  return static_cast<bool>(file >> value);
}

// Of version 1, whose groups pass limits on to those below only where they are told to: the kernel says what holds.
std::size_t hierarchical_limit(const std::string& folder) {
  std::ifstream file(folder + "/memory.stat");  // "NAME NUMBER" a line
  std::string name;
  for (std::size_t bytes; file >> name >> bytes;)
    if (name == "hierarchical_memory_limit") return bytes;
  return ~std::size_t{0};
}

// The machine's memory, or less where this process's control groups may have less.
std::size_t memory_of_groups(const std::string& root) {
  auto bytes = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
  for (const std::string& folder : group_folders(root, ""))
    if (std::size_t limit = 0; read_number(folder + "/memory.max", limit)) bytes = std::min(bytes, limit);
  // What version 1 writes where there is no limit is more than any machine has.
  if (const std::vector<std::string> folders = group_folders(root, "memory"); !folders.empty()) {
    if (std::size_t limit = 0; read_number(folders[0] + "/memory.limit_in_bytes", limit))
      bytes = std::min(bytes, limit);
    bytes = std::min(bytes, hierarchical_limit(folders[0]));
  }
  return bytes;
}

// Bytes that this process has taken.
struct Taken {
  std::size_t address_space, data, own;  // own: memory that is there, and no file's
};

Taken memory_taken(const std::string& root) {
  std::array<std::size_t, 6> pages{};  // size, resident, shared, text, -, data
  std::ifstream statm(root + "/proc/self/statm");
  for (std::size_t& p : pages) statm >> p;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
  return {pages[0] * page, pages[5] * page, (pages[1] - std::min(pages[1], pages[2])) * page};
}

std::size_t left_of(std::size_t limit, std::size_t taken) { return limit - std::min(limit, taken); }

std::size_t left_of(decltype(RLIMIT_AS) kind, std::size_t taken) {
  rlimit limit{};
  if (getrlimit(kind, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return ~std::size_t{0};
  return left_of(limit.rlim_cur, taken);
}

}  // namespace

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (CPU_ISSET(i, &set)) cores.push_back(i);
    }
  }
  if (cores.empty())
    cores.resize(static_cast<std::size_t>(sysconf(_SC_NPROCESSORS_ONLN)));  // more than CPU_SETSIZE cores
  return cores;
}

int usable_cores(const std::string& root) {
  auto cores = static_cast<double>(allowed_cores().size());
  const auto limit = [&](double quota, double period) {  // microseconds
    if (quota > 0 && period > 0) cores = std::min(cores, std::ceil(quota / period));
  };
  for (const std::string& folder : group_folders(root, "")) {
    std::ifstream file(folder + "/cpu.max");  // "QUOTA PERIOD", or "max PERIOD"
    if (double quota = 0, period = 0; file >> quota >> period) limit(quota, period);
  }
  for (const std::string& folder : group_folders(root, "cpu")) {
    double quota = 0, period = 0;  // a quota of -1: none
    if (read_number(folder + "/cpu.cfs_quota_us", quota) && read_number(folder + "/cpu.cfs_period_us", period))
      limit(quota, period);
  }
  return std::max(1, static_cast<int>(cores));
}

std::size_t usable_memory(const std::string& root) {
  static const std::size_t here = memory_of_groups("");
  const std::size_t bytes = root.empty() ? here : memory_of_groups(root);
  const Taken taken = memory_taken(root);
  return std::min(
      {left_of(bytes, taken.own), left_of(RLIMIT_AS, taken.address_space), left_of(RLIMIT_DATA, taken.data)});
}

}  // namespace elbo
