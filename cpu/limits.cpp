#include "cpu/limits.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

namespace elbo {
namespace {

// The folders of this process's control group (version 2) and of those above it, innermost first.
std::vector<std::string> control_groups(const std::string& root) {
  std::vector<std::string> folders;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    if (!line.starts_with("0::")) continue;
    for (std::string path = line.substr(3); !path.empty(); path.resize(path.rfind('/')))
      folders.push_back(root + "/sys/fs/cgroup" + (path == "/" ? "" : path));
  }
  folders.push_back(root + "/sys/fs/cgroup");  // a container sees its own group as the root
  return folders;
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
  for (const std::string& folder : control_groups(root)) {
    std::ifstream file(folder + "/cpu.max");  // "QUOTA PERIOD" in microseconds, or "max PERIOD"
    double quota = 0, period = 0;
    if (file >> quota >> period && period > 0) cores = std::min(cores, std::ceil(quota / period));
  }
  return std::max(1, static_cast<int>(cores));
}

std::size_t usable_memory(const std::string& root) {
  auto bytes = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
  for (const std::string& folder : control_groups(root)) {
    std::ifstream file(folder + "/memory.max");  // bytes, or "max"
    if (std::size_t limit = 0; file >> limit) bytes = std::min(bytes, limit);
  }
  return bytes;
}

}  // namespace elbo
