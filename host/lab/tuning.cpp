#include "host/lab/tuning.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "host/base/devices.h"
#include "host/base/files.h"
#include "host/base/tuning_file.h"
#include "host/data/dataset.h"
#include "host/spec/spec.h"
#include "host/train/evaluate.h"
#include "host/train/output.h"
#include "host/train/run_folder.h"
#include "host/train/trainer.h"

namespace elbo {
namespace {

std::string tuning_path(const std::string& folder) { return folder + "/tuning.json"; }

}  // namespace

std::string use_tuning_of_run(Backend& device, const std::string& folder, const std::string& given) {
  namespace fs = std::filesystem;
  const std::string kept = tuning_path(folder);
  // A process may have been killed between the two files: it is tuning.json that says how the run goes on.
  const bool tuned = !folder.empty() && fs::exists(kept);
  const bool begun = tuned || (!folder.empty() && fs::exists(machine_path(folder)));
  if (!given.empty()) {
    const Tuning t = read_tuning(given);
    require(!begun || tuned, "--tuning ", given, ": ", folder,
            " was begun without, and goes on without, to the same weights; another run is named by --out");
    require(!tuned || to_json(t) == to_json(read_tuning(kept)), "--tuning ", given, ": ", folder,
            " was begun with other choices and goes on with those (", kept, "); another run is named by --out");
    device.use(t);
    return given;
  }
  if (!tuned) return "";
  const Tuning t = read_tuning(kept);
  const DeviceInfo info = device.info();
  if (t.gpu == info.gpu && t.library == info.library) {
    device.use(t);
    return kept;
  }
  std::fprintf(stderr, "note: %s is for %s with %s; %s makes its own choices\n", kept.c_str(), t.gpu.c_str(),
               t.library.c_str(), info.description.c_str());
  return "";
}

void keep_tuning(const std::string& folder, const std::string& given) {
  if (!given.empty()) replace_file(tuning_path(folder), to_json(read_tuning(given)));
}

void note_unused_tuning(const Backend& device, const std::string& file) {
  if (file.empty() || std::ranges::any_of(device.products(), &ProductChoice::tuned)) return;
  std::fprintf(stderr, "note: none of these products are in %s: it was made for other shapes\n", file.c_str());
}

// ---- elbo tune -----------------------------------------------------------------------------------------------

int tune(const TuneOptions& options) {
  require_output(options.out, tuning_output, {options.spec});
  const Spec spec = load_spec(options.spec, options.overrides);
  BackendOptions backend_options = options.backend;
  backend_options.precision = spec.train.precision;
  const OpenedDevice device = open_device(options.device, backend_options);
  Backend& backend = *device.backend;
  const DeviceInfo info = backend.info();
  if (info.library.empty()) backend.tune(0, nullptr);  // says why not
  const Dataset data = load_dataset(spec, data_directories(options.data));
  {
    Trainer trainer(backend, spec, data.train);
    trainer.run_until(1);
    trainer.check();
    Evaluator(trainer.vae, spec, data.test).run();
  }
  fmt::print("{}: products in {} on {} with {}\n\n", spec.name, name_of(spec.train.precision), info.description,
             info.library);
  fmt::print("{:<48}{:>10}{:>10}{:>12}{:>11}\n", "product", "own us", "best us", "candidates", "algorithm");
  double own = 0, best = 0;
  Tuning tuning = backend.tune(options.seconds, [&](const Tuning::Product& p) {
    fmt::print("{:<48}{:>10.2f}{:>10.2f}{:>12}{:>11}\n", description_of(p.choice.product), p.own_microseconds,
               p.microseconds, p.candidates, p.choice.algorithm.id);
    own += p.own_microseconds;
    best += p.microseconds;
  });
  fmt::print("{:<48}{:>10.2f}{:>10.2f}\n", "sum", own, best);
  write_output(options.out, tuning_output, to_json(tuning));
  fmt::print("tuning     {}\n", options.out);
  return 0;
}

}  // namespace elbo
