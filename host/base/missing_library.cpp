#include "host/base/missing_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <sstream>
#include <vector>

#include "elbo/error.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

// The folders in `folder` whose names begin with `prefix`, the last in order of their names first: the newest version.
std::vector<fs::path> folders_in(const fs::path& folder, const std::string& prefix) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (fs::directory_iterator entry(folder, ignored), end; !ignored && entry != end; entry.increment(ignored))
    if (entry->path().filename().string().starts_with(prefix)) found.push_back(entry->path());
  std::ranges::sort(found, std::greater());
  return found;
}

// Those in which Python packages may lie: of every python3 on the PATH, a virtual environment's before what its link
// names; of the user; of the system. No Python is run.
std::vector<fs::path> python_packages() {
  std::vector<fs::path> prefixes, packages;
  std::istringstream path(std::getenv("PATH") ? std::getenv("PATH") : "");
  std::error_code ignored;
  for (std::string folder; std::getline(path, folder, ':');) {
    const fs::path python = fs::path(folder) / "python3";
    if (!fs::exists(python, ignored)) continue;
    prefixes.push_back(fs::path(folder).parent_path());
    prefixes.push_back(fs::canonical(python, ignored).parent_path().parent_path());
  }
  if (const char* home = std::getenv("HOME")) prefixes.push_back(fs::path(home) / ".local");
  for (const char* prefix : {"/usr/local", "/usr"}) prefixes.emplace_back(prefix);
  for (const fs::path& prefix : prefixes)
    for (const fs::path& python : folders_in(prefix / "lib", "python3"))
      for (const char* kind : {"site-packages", "dist-packages"}) packages.push_back(python / kind);
  return packages;
}

// Where CUDA's libraries and the driver's lie when the loader has not been told of them.
std::vector<fs::path> usual_folders() {
  std::vector<fs::path> folders;
  for (const fs::path& cuda : folders_in("/usr/local", "cuda")) {
    folders.push_back(cuda / "lib64");
    folders.push_back(cuda / "lib");
    folders.push_back(cuda / "extras/CUPTI/lib64");
  }
  for (const char* folder : {"/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/wsl/lib"})
    folders.emplace_back(folder);
  for (const fs::path& packages : python_packages())
    for (const fs::path& package : folders_in(packages / "nvidia", "")) folders.push_back(package / "lib");
  return folders;
}

// The line that lets the loader find it; empty where it is in none of the usual folders.
std::string line_for(const std::string& library) {
  std::error_code ignored;
  for (const fs::path& folder : usual_folders())
    if (fs::exists(folder / library, ignored))
      return cat("export LD_LIBRARY_PATH=", folder.string(), "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}");
  return "";
}

}  // namespace

std::string advice_on(const std::string& loader_error) {
  // "libcublasLt.so.13: cannot open shared object file: No such file or directory"
  const std::string library = loader_error.substr(0, loader_error.find(':'));
  if (loader_error.find("cannot open shared object file") == std::string::npos || !library.starts_with("libcu"))
    return "";
  if (const std::string line = line_for(library); !line.empty())
    return "; it is in a folder that the loader does not know: " + line;
  return cat("; it comes with ", library == "libcuda.so.1" ? "NVIDIA's driver" : "the CUDA Toolkit and with PyTorch",
             ", and LD_LIBRARY_PATH may name its folder");
}

std::string advice_on_driver() {
  const char* library = "libcuda.so.1";
  // Never closed where it opens: the driver does not like to be loaded twice.
  if (dlopen(library, RTLD_LAZY | RTLD_LOCAL)) return "";
  const std::string line = line_for(library);
  return line.empty() ? "" : cat("; its ", library, " is in a folder that the loader does not know: ", line);
}

}  // namespace elbo
