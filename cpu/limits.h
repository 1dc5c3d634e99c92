// What this process may use of the machine: its affinity mask, the limits of its control groups (a container's, of
// version 1 or 2), and those that a shell sets (ulimit).
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace elbo {

// Numbers of the cores that it may run on.
std::vector<int> allowed_cores();
// How many of them it may keep busy: fewer, where a CPU quota says so. At least 1. `root`: where /proc and /sys are.
int usable_cores(const std::string& root = "");
// Bytes of memory that it may still take: what it has not taken of the machine's, or of the limit of a control group,
// and no more than is left where the address space or the data of a process are limited (RLIMIT_AS, RLIMIT_DATA). What
// others have taken is not known. The groups are looked at once in the life of a process, what is left each time.
std::size_t usable_memory(const std::string& root = "");

}  // namespace elbo
