// What this process may use of the machine: its affinity mask, and the limits of its control groups (a container's).
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace elbo {

// Numbers of the cores that it may run on.
std::vector<int> allowed_cores();
// How many of them it may keep busy: fewer, where a CPU quota says so. At least 1. `root`: where /proc and /sys are.
int usable_cores(const std::string& root = "");
// Bytes of memory: the machine's, or a control group's limit.
std::size_t usable_memory(const std::string& root = "");

}  // namespace elbo
