// elbo run
#include "host/commands/run.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <vector>

#include "elbo/error.h"
#include "host/base/devices.h"
#include "host/base/files.h"
#include "host/base/progress.h"
#include "host/base/stop_signal.h"
#include "host/base/tuning_file.h"
#include "host/commands/commands.h"
#include "host/commands/report.h"
#include "host/commands/shared_options.h"
#include "host/data/dataset.h"
#include "host/lab/plan.h"
#include "host/lab/tuning.h"
#include "host/report/collect.h"
#include "host/spec/spec.h"
#include "host/train/checkpoint.h"
#include "host/train/epoch_text.h"
#include "host/train/memory_needs.h"
#include "host/train/output.h"
#include "host/train/run_folder.h"
#include "host/train/training_run.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

// The command that continues a run that was stopped.
std::string resume_command(const RunOptions& options, const std::string& folder) {
  const std::string safe = folder.starts_with('-') ? "./" + folder : folder;
  std::string line = fmt::format("elbo run {} --out {} --resume", shell_word(spec_path(safe)), shell_word(safe));
  if (options.device != "auto") line += " --device " + shell_word(options.device);
  if (options.backend.threads != 0) line += fmt::format(" --threads {}", options.backend.threads);
  if (!options.backend.record) line += " --no-graph";
  if (!options.backend.epilogues) line += " --no-epilogues";
  if (!options.data.empty()) line += " --data " + shell_word(options.data);
  return line;
}

// The folder's machine.json, with this session as its last. A note says so where the one before was elsewhere.
void record_session(const std::string& folder, const std::string& command, const Backend& device) {
  const DeviceInfo info = device.info();
  Machine machine = read_machine(folder);
  if (!machine.sessions.empty() && (machine.sessions.back().device_description != info.description ||
                                    machine.sessions.back().version != ELBO_VERSION))
    fmt::print("note: so far this run was on {} with elbo {}; elsewhere it goes on with other roundings\n",
               machine.sessions.back().device_description, machine.sessions.back().version);
  machine.sessions.push_back(begin_session(command, info.name, info.description));
  // The device knows all of them: training and evaluation have been through a batch each.
  if (const std::vector<ProductChoice> products = device.products(); !products.empty())
    machine.sessions.back().products = to_json(products).dump();
  replace_file(machine_path(folder), to_json(machine));
}

// The report is made when no checkpoint is on its way any more.
void check_memory(const MemoryNeeds& needs, const DeviceInfo& device) {
  const Needs trained =
      needs.model() + needs.optimizer() + needs.step() + needs.evaluation(needs.data().test) + needs.best_state();
  require_memory(trained + needs.checkpoints(), device, "a run of " + needs.spec().name);
  require_memory(trained + picture_needs(needs), device, "a run of " + needs.spec().name);
}

void print_result(TrainingRun& run, const Spec& spec, const DeviceInfo& device) {
  fmt::print("weights    sha256 {}\n", hash_weights(run.trainer().vae));
  if (run.epochs().empty()) return;
  const EpochMetrics& last = run.epochs().back();
  fmt::print("test ELBO  {:.3f} nats an image ({})\n", last.test.elbo, parts_text(last.test));
  fmt::print("time       {} for {} epochs on {}\n", format_seconds(last.seconds), last.epoch, device.name);
  if (!(last.images_per_second > 0)) return;
  const Gpu gpu = gpu_in(device.description).value_or(find_gpu(PlanOptions().gpu));
  const double floor = floor_us(plan_of(run.trainer().program().calls()), gpu, spec.train.precision);
  fmt::print("speed      {:.0f} us a step in the last epoch (floor of {}: {:.1f} us; elbo plan)\n",
             1e6 * static_cast<double>(spec.train.batch_size) / last.images_per_second, gpu.name, floor);
}

}  // namespace

int run_experiment(const RunOptions& options) {
  const Spec spec = load_spec(options.spec, options.overrides);
  const bool resume = options.resume.has_value();
  std::string folder = !options.out.empty() ? options.out : resume ? find_default_folder(spec) : "";
  if (!folder.empty()) check_run_folder(folder, resume, spec);
  require_output_folder(folder.empty() ? "runs" : folder);

  const std::vector<std::string> directories = data_directories(options.data);
  const Dataset sizes = measure_dataset(spec, directories);
  BackendOptions backend_options = options.backend;
  backend_options.precision = spec.train.precision;
  backend_options.tuning.clear();  // the folder may keep one: use_tuning_of_run() decides
  const OpenedDevice device = open_device(options.device, backend_options);
  const std::string tuning = use_tuning_of_run(*device.backend, folder, options.backend.tuning);
  const DeviceInfo info = device.backend->info();
  check_memory(MemoryNeeds(spec, sizes, info), info);
  const Dataset data = load_dataset(spec, directories);
  fmt::print("{}: {} on {}{}\n", spec.name, spec.data.dataset, info.description,
             device.reason.empty() ? "" : " (" + device.reason + ")");
  fmt::print("{} training images, {} test images; minimised is {}\n", data.train.count, data.test.count,
             objective_text(spec));

  std::optional<FolderLock> lock;  // outlives the run, whose thread writes to the end
  TrainingRun run(spec, data, *device.backend, options.checkpoint_seconds);
  note_unused_tuning(*device.backend, tuning);

  // What can be wrong has been found. From here on the folder changes.
  if (folder.empty()) folder = make_default_folder(spec.name);
  std::error_code error;
  fs::create_directories(folder, error);
  require(!error, folder, ": cannot be made: ", error.message());
  lock.emplace(folder);
  check_run_folder(folder, resume, spec);  // once more: another process may have been here since
  const bool started = fs::exists(spec_path(folder));
  remove_leftovers(folder);
  if (!started) replace_file(spec_path(folder), to_json(spec));
  if (!resume || !run.restore(folder, *options.resume)) run.begin(folder);
  if (started) replace_file(spec_path(folder), to_json(spec));  // with the train.epochs of now
  keep_tuning(folder, options.backend.tuning);
  record_session(folder, options.command, *device.backend);

  {
    const StopOnSignal signals;
    if (!run.train()) {
      fmt::print("stopped at step {} with a checkpoint; to go on: {}\n", run.trainer().step(),
                 resume_command(options, folder));
      return 128 + stop_requested();
    }
  }
  print_result(run, spec, info);
  make_report(folder, folder, spec.name, spec, run.trainer().vae, data, run.epochs());
  fmt::print("report     {}/report.html\n", folder);
  return 0;
}

namespace {

// Whether what follows --resume cannot be meant as the SPEC.
bool is_checkpoint_name(const std::string& text) {
  return text == "last" || text == "previous" || text == "best" || text.starts_with("epoch-") ||
         text.ends_with(".safetensors");
}

}  // namespace

Action run_command(Options& options) {
  const auto run = std::make_shared<RunOptions>();
  run->command = options.line();
  Option spec = add_spec(options, run->spec, run->overrides);
  add_device(options, run->device, run->backend);
  add_no_graph(options, run->backend);
  add_no_epilogues(options, run->backend);
  add_tuning(options, run->backend);
  add_data(options, run->data);
  options.text("--out", run->out, "the run's folder (default: runs/NAME)");
  // `elbo run --resume spec.json` means the SPEC.
  const auto resume = [run, spec](const std::string& value) mutable {
    run->resume = value.empty() ? "last" : value;
    if (spec.is_given() || value.empty() || is_checkpoint_name(value)) return;
    run->resume = "last";
    spec.give(value);
  };
  options.optional_text("--resume", resume,
                        "continue from a checkpoint: last (default), previous, best, epoch-N, or a file");
  return [run] { return run_experiment(*run); };
}

}  // namespace elbo
