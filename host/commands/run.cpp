#include "host/commands/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "host/base/files.h"
#include "host/base/progress.h"
#include "host/base/stop_signal.h"
#include "host/base/tuning_file.h"
#include "host/lab/tuning.h"
#include "host/report/collect.h"
#include "host/report/picture.h"
#include "host/train/checkpoint.h"
#include "host/train/evaluate.h"
#include "host/train/output.h"
#include "host/train/run_folder.h"
#include "host/train/training_run.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

// ---- The report ---------------------------------------------------------------------------------------------------

constexpr std::int64_t whole_work = 1000;  // steps of a progress line

Told show_on(ProgressLine& line, const char* text) {
  return [&line, text](double done) { line.show(static_cast<std::int64_t>(done * whole_work), text); };
}

// Of the run in `folder`; `out`: the folder that gets it; `name`: its heading.
void make_report(const std::string& folder, const std::string& out, const std::string& name, const Spec& spec, Vae& vae,
                 const Dataset& data, const std::vector<EpochMetrics>& epochs) {
  const Machine machine = read_machine(folder);
  ProgressLine line(whole_work, "making the report");
  ReportData report = collect_pictures(vae, spec, data, show_on(line, "report"));
  report.name = name;
  report.spec_json = to_json(spec);
  if (!machine.sessions.empty()) {
    const Session& last = machine.sessions.back();
    report.command = last.command;
    report.device = last.device_description;
    for (const Session& s : machine.sessions)
      if (report.device.find(s.device_description) == std::string::npos)
        report.device += "; earlier on " + s.device_description;
    report.machine = last.machine;
    report.version = last.version;
    report.date = last.date;
  }
  report.seconds = epochs.empty() ? 0 : epochs.back().seconds;
  for (const Parameter& p : vae.parameters.layout()) report.parameters += p.shape.count();
  report.train_images = data.train.count;
  report.test_images = data.test.count;
  report.beta = spec.objective.beta;
  report.epochs = epochs;
  write_report(report, out);
}

// ---- Training -----------------------------------------------------------------------------------------------------

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

}  // namespace

int run_experiment(const RunOptions& options) {
  const Spec spec = load_spec(options.spec, options.overrides);
  const bool resume = options.resume.has_value();
  std::string folder = !options.out.empty() ? options.out : resume ? find_default_folder(spec) : "";
  if (!folder.empty()) holds_run(folder, resume, spec);

  const Dataset data = load_dataset(spec.data, spec.seed, data_directories(options.data));
  BackendOptions backend_options = options.backend;
  backend_options.precision = spec.train.precision;
  backend_options.tuning.clear();  // the folder has a word in it
  OpenedDevice device = open_device(options.device, backend_options);
  const std::string tuning = use_tuning_of_run(*device.backend, folder, options.backend.tuning);
  const DeviceInfo info = device.backend->info();
  fmt::print("{}: {} on {}{}\n", spec.name, spec.data.dataset, info.description,
             device.reason.empty() ? "" : " (" + device.reason + ")");
  fmt::print("{} training images, {} test images; effective beta {}\n", data.train.count, data.test.count,
             spec.objective.beta);

  std::optional<FolderLock> lock;  // held until all is written
  TrainingRun run(spec, data, *device.backend, options.checkpoint_seconds);
  note_unused_tuning(*device.backend, tuning);

  if (folder.empty()) folder = make_default_folder(spec.name);
  std::error_code error;
  fs::create_directories(folder, error);
  require(!error, folder, ": cannot be made: ", error.message());
  lock.emplace(folder);
  const bool started = holds_run(folder, resume, spec);  // once more: another process may have been here since
  remove_leftovers(folder);
  Machine machine = read_machine(folder);
  if (!started) replace_file(spec_path(folder), to_json(spec));
  if (!resume || !run.restore(folder, *options.resume)) run.begin(folder);
  if (started) replace_file(spec_path(folder), to_json(spec));  // with the train.epochs of now
  if (!machine.sessions.empty() && (machine.sessions.back().device_description != info.description ||
                                    machine.sessions.back().version != ELBO_VERSION))
    fmt::print("note: so far this run was on {} with elbo {}; elsewhere it goes on with other roundings\n",
               machine.sessions.back().device_description, machine.sessions.back().version);
  machine.sessions.push_back(begin_session(options.command, info.name, info.description));
  keep_tuning(folder, options.backend.tuning);
  // Those of training and of evaluation: both have been through a batch.
  if (const std::vector<ProductChoice> products = device.backend->products(); !products.empty())
    machine.sessions.back().products = to_json(products).dump();
  replace_file(machine_path(folder), to_json(machine));

  {
    const StopOnSignal signals;
    if (!run.train()) {
      fmt::print("stopped at step {} with a checkpoint; to go on: {}\n", run.trainer().step(),
                 resume_command(options, folder));
      return 128 + stop_requested();
    }
  }

  fmt::print("weights    sha256 {}\n", hash_weights(run.trainer().vae));
  if (!run.epochs().empty()) {
    const EpochMetrics& last = run.epochs().back();
    fmt::print("test ELBO  {:.3f} nats an image (reconstruction {:.3f}, KL {:.3f})\n", last.test.elbo,
               last.test.reconstruction, last.test.kl);
    fmt::print("time       {} for {} epochs on {}\n", format_seconds(last.seconds), last.epoch, info.name);
  }
  make_report(folder, folder, spec.name, spec, run.trainer().vae, data, run.epochs());
  fmt::print("report     {}/report.html\n", folder);
  return 0;
}

// ---- Afterwards ---------------------------------------------------------------------------------------------------

namespace {

// A run, opened again.
struct OpenedRun {
  // `option`: by which another checkpoint is asked for, should this one be damaged.
  explicit OpenedRun(const RunQuery& q, const std::string& option = "--checkpoint")
      : spec(parse_spec(read_text(spec_path(q.folder)), spec_path(q.folder))),
        data(load_dataset(spec.data, spec.seed, data_directories(q.data))) {
    BackendOptions options = q.backend;
    options.precision = spec.train.precision;
    device = open_device(q.device, options);
    use_tuning_of_run(*device.backend, q.folder, "");
    vae = std::make_unique<Vae>(*device.backend, spec, data.train.image_shape());
    const CheckpointFolder checkpoints(q.folder);
    const TensorFile file = checkpoints.read(q.checkpoint, option);
    checkpoint = checkpoints.file(q.checkpoint);
    load_weights(*vae, file, checkpoint);
    progress = read_progress(file, checkpoint);
    const std::string images = describe_images(data);
    on_its_images = images == progress.images;
    if (!on_its_images)
      std::fprintf(stderr, "note: %s was trained on other images (%s); these are %s\n", q.folder.c_str(),
                   progress.images.c_str(), images.c_str());
  }

  Figures evaluate(const ImageSet& images) const {
    try {
      return Evaluator(*vae, spec, images).run();
    } catch (const Diverged& e) {
      fail(checkpoint, ": its weights have diverged: ", e.what());
    }
  }

  Spec spec;
  Dataset data;
  OpenedDevice device;
  std::unique_ptr<Vae> vae;
  std::string checkpoint;  // its path
  Progress progress;
  bool on_its_images = false;  // those that it was trained on

  // What the checkpoint has behind it. describe_images() begins with the number of training images.
  Behind behind() const {
    std::int64_t images = 0;
    std::from_chars(progress.images.data(), progress.images.data() + progress.images.size(), images);
    return {progress.step, std::max<std::int64_t>(1, images / spec.train.batch_size), progress.best_elbo};
  }
};

// The folder for a report that is not to be the run's own.
void require_report_folder(const std::string& folder) {
  std::error_code error;
  const bool there = fs::exists(folder, error);
  const auto entries = there ? fs::directory_iterator(folder, error) : fs::directory_iterator();
  require(!error, folder, ": ", error.message());
  const auto is_temporary = [](const fs::directory_entry& e) {
    return !name_in_temporary(e.path().filename()).empty();
  };
  if (std::ranges::all_of(entries, is_temporary)) return;
  const std::string page = folder + "/report.html";
  require(fs::exists(page), folder, ": is not empty, and has no report of elbo; choose another folder with --out");
  require_output(page, report_output);
}

}  // namespace

int evaluate_run(const RunQuery& query) {
  OpenedRun run(query);
  EpochMetrics m;
  m.step = run.progress.step;
  m.seconds = run.progress.seconds;
  m.train = run.evaluate(run.data.train);
  m.test = run.evaluate(run.data.test);
  m.epoch = m.step / run.behind().steps_per_epoch;
  fmt::print("{}\n", to_json_line(m));
  return 0;
}

int sample_run(const RunQuery& query, std::int64_t count, std::uint64_t seed, const std::string& out) {
  require_output(out, png_output);
  OpenedRun run(query);
  constexpr std::int64_t longest_side = 8192, gap = 2;  // pixels of the picture; between images
  const auto columns = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  ProgressLine line(whole_work, "decoding the samples");
  const ImageStrip samples =
      draw_samples(*run.vae, run.data.test, count, seed, longest_side / columns - gap, show_on(line, "samples"));
  line.clear();
  require(std::ranges::all_of(samples.pixels, [](float x) { return std::isfinite(x); }), run.checkpoint,
          ": its weights have diverged: samples hold NaN or infinity");
  write_output(out, png_output, contact_sheet(samples, 0, count, columns, gap).png());
  const bool shrunk = samples.height < run.data.test.height || samples.width < run.data.test.width;
  fmt::print("{} samples{}: {}\n", count,
             shrunk ? fmt::format(", shrunk to {} x {}", samples.height, samples.width) : "", out);
  return 0;
}

int report_run(const RunQuery& query, const std::string& out) {
  if (!out.empty()) require_report_folder(out);
  require(!out.empty() || query.checkpoint == "last", query.folder,
          ": its own report is that of its last checkpoint; --out FOLDER takes one of another");
  OpenedRun run(query, out.empty() ? "--out FOLDER --checkpoint" : "--checkpoint");
  require(!out.empty() || run.on_its_images, query.folder,
          ": its own report is on the images that it was trained on; --out FOLDER takes one on others");
  run.evaluate(run.data.test);
  const std::string folder = out.empty() ? query.folder : out;
  std::string name = run.spec.name;
  if (!out.empty()) name += fmt::format(" after step {}", run.progress.step);
  if (!run.on_its_images) name += ", on images that it was not trained on";
  make_report(query.folder, folder, name, run.spec, *run.vae, run.data, read_history(query.folder, run.behind()));
  fmt::print("report     {}/report.html\n", folder);
  return 0;
}

}  // namespace elbo
