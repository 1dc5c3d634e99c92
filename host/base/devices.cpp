#include "host/base/devices.h"

#include <dlfcn.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "cpu/backend.h"
#include "elbo/plugin_symbol.h"
#include "host/base/missing_library.h"
#include "host/base/tuning_file.h"
#include "host/base/words.h"

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

#define ELBO_TEXT_OF(name) #name
#define ELBO_TEXT(name) ELBO_TEXT_OF(name)
constexpr const char* symbol = ELBO_TEXT(ELBO_CREATE_BACKEND);

std::unique_ptr<Backend> open_plugin(const std::string& name, const BackendOptions& options) {
  const std::string file = "libelbo_" + name + ".so";
  std::string searched;
  for (const fs::path& folder : plugin_folders()) {
    std::error_code ignored;
    searched += (searched.empty() ? "" : ", ") + folder.string();
    if (!fs::exists(folder / file, ignored)) continue;
    // Never closed: its code outlives every object made by it.
    void* library = dlopen((folder / file).c_str(), RTLD_NOW | RTLD_LOCAL);
    // Where CUDA is not installed, its libraries are what the loader misses.
    if (!library) {
      const std::string why = dlerror();
      throw DeviceAbsent(cat("device '", name, "': ", file, " does not load: ", why, advice_on(why)));
    }
    const auto create = reinterpret_cast<CreateBackend>(dlsym(library, symbol));
    if (!create)
      fail("device '", name, "': ", (folder / file).string(), " is of another version of elbo (it has no ", symbol,
           "): build it again, or remove it");
    try {
      return std::unique_ptr<Backend>(create(options));
    } catch (const DeviceAbsent& e) {  // the driver's library is opened by CUDA, not by the loader
      throw DeviceAbsent(e.what() + (name == "cuda" ? advice_on_driver() : ""));
    }
  }
  throw DeviceAbsent(cat("device '", name, "': there is no ", file, " in ", searched,
                         name == "cuda" ? " (a build made without nvcc has none)" : ""));
}

OpenedDevice open_best_device(const BackendOptions& options) {
  std::string absent;
  try {
    return {open_plugin("cuda", options), "a GPU is present"};
  } catch (const DeviceAbsent& e) {
    absent = e.what();
  } catch (const Error& e) {
    fail(e.what(), "; --device cpu does without the GPU");
  }
  try {
    return {create_cpu_backend(options), "no GPU: " + absent};
  } catch (const Error& e) {
    fail(e.what(), "; and there is no GPU: ", absent);
  }
}

bool has_plugin(const std::string& name) {
  std::error_code ignored;
  return name.find('/') == std::string::npos && std::ranges::any_of(plugin_folders(), [&](const fs::path& folder) {
           return fs::exists(folder / ("libelbo_" + name + ".so"), ignored);
         });
}

// "cuda:1" is the plug-in "cuda" and the index 1.
struct DeviceName {
  std::string plugin;
  int index = 0;
};

DeviceName parse_device_name(const std::string& request) {
  require(!request.starts_with("cpu:"), "device '", request,
          "': the CPU has no number; how many of its cores to use is --threads");
  const std::size_t colon = request.find(':');
  DeviceName name{request.substr(0, colon)};
  if (name.plugin != "cuda" && !has_plugin(name.plugin))
    fail("device '", request, "': expected auto, cpu, cuda or cuda:N",
         lower(name.plugin) == "gpu" ? "; did you mean \"cuda\"?" : suggestion(name.plugin, {"auto", "cpu", "cuda"}));
  if (colon != std::string::npos) {
    const std::string index = request.substr(colon + 1);
    const auto [end, error] = std::from_chars(index.data(), index.data() + index.size(), name.index);
    require(error == std::errc() && end == index.data() + index.size() && name.index >= 0, "device '", request,
            "': after the colon comes the number of a GPU, as in cuda:0");
  }
  return name;
}

OpenedDevice open_untuned(const std::string& request, const BackendOptions& options) {
  if (request == "auto") return open_best_device(options);
  if (request == "cpu") return {create_cpu_backend(options), ""};
  const DeviceName name = parse_device_name(request);
  BackendOptions chosen = options;
  chosen.index = name.index;
  return {open_plugin(name.plugin, chosen), ""};
}

}  // namespace

OpenedDevice open_device(const std::string& request, const BackendOptions& options) {
  OpenedDevice device = open_untuned(request, options);
  if (!options.tuning.empty()) device.backend->use(read_tuning(options.tuning));
  return device;
}

void check_device_name(const std::string& request) {
  if (request != "auto" && request != "cpu") parse_device_name(request);
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

const std::string& host_processor() { return processor(); }

}  // namespace elbo
