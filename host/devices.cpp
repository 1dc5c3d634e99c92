#include "host/devices.h"

#include <dlfcn.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "cpu/backend.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> plugin_folders() {
  std::vector<fs::path> folders;
  if (const char* given = std::getenv("ELBO_PLUGINS"); given && *given) folders.emplace_back(given);
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  if (!program.empty()) {
    folders.push_back(program);
    folders.push_back(program.parent_path() / "lib" / "elbo");
  }
  return folders;
}

std::unique_ptr<Backend> open_plugin(const std::string& name, const BackendOptions& options) {
  const std::string file = "libelbo_" + name + ".so";
  std::string searched;
  for (const fs::path& folder : plugin_folders()) {
    std::error_code ignored;
    searched += (searched.empty() ? "" : ", ") + folder.string();
    if (!fs::exists(folder / file, ignored)) continue;
    // Never closed: its code outlives every object made by it.
    void* library = dlopen((folder / file).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) fail("device '", name, "': ", file, " does not load: ", dlerror());
    const auto create = reinterpret_cast<CreateBackend>(dlsym(library, create_backend_symbol));
    require(create != nullptr, "device '", name, "': ", (folder / file).string(), " exports no ",
            create_backend_symbol);
    return std::unique_ptr<Backend>(create(options));
  }
  fail("device '", name, "': there is no ", file, " in ", searched,
       name == "cuda" ? " (a build made without nvcc has none)" : "");
}

}  // namespace

OpenedDevice open_device(const std::string& request, const BackendOptions& options) {
  if (request == "auto") {
    // The CPU runs everything in fp32; a precision of its own is the GPU's or is refused by the CPU, by name.
    try {
      return {open_plugin("cuda", options), "a GPU is present"};
    } catch (const Error& e) {
      return {create_cpu_backend(options), cat("no GPU: ", e.what())};
    }
  }
  if (request == "cpu") return {create_cpu_backend(options), ""};
  const std::size_t colon = request.find(':');
  BackendOptions chosen = options;
  if (colon != std::string::npos) {
    const std::string index = request.substr(colon + 1);
    const auto [end, error] = std::from_chars(index.data(), index.data() + index.size(), chosen.index);
    require(error == std::errc() && end == index.data() + index.size() && chosen.index >= 0, "device '", request,
            "': after the colon comes the number of a GPU, as in cuda:0");
  }
  const std::string name = request.substr(0, colon);
  require(!name.empty() && name.find('/') == std::string::npos, "device '", request,
          "': expected auto, cpu, cuda or cuda:N");
  return {open_plugin(name, chosen), ""};
}

std::vector<DeviceEntry> list_devices() {
  std::vector<DeviceEntry> entries;
  for (const char* name : {"cuda", "cpu"}) {
    try {
      entries.push_back({name, true, open_device(name).backend->info().description});
    } catch (const Error& e) {
      entries.push_back({name, false, e.what()});
    }
  }
  return entries;
}

}  // namespace elbo
