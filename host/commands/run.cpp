#include "host/commands/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "host/base/files.h"
#include "host/base/progress.h"
#include "host/base/timing.h"
#include "host/base/tuning_file.h"
#include "host/base/writer.h"
#include "host/lab/tuning.h"
#include "host/report/collect.h"
#include "host/report/picture.h"
#include "host/train/checkpoint.h"
#include "host/train/evaluate.h"
#include "host/train/output.h"
#include "host/train/run_folder.h"
#include "host/train/trainer.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

// ---- Signals: a run asked to stop finishes its step and writes a checkpoint --------------------------------------

volatile std::sig_atomic_t stop_requested = 0;  // the signal's number

class StopOnSignal {
 public:
  StopOnSignal() {
    struct sigaction action {};
    action.sa_handler = [](int signal) { stop_requested = signal; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second signal ends the program at once
    for (std::size_t i = 0; i < signals.size(); ++i) {
      sigaction(signals[i], nullptr, &before_[i]);
      // What whoever started this wants ignored stays so: nohup's SIGHUP, SIGINT of a job in the background.
      if (before_[i].sa_handler != SIG_IGN) sigaction(signals[i], &action, nullptr);
    }
  }
  ~StopOnSignal() {
    for (std::size_t i = 0; i < signals.size(); ++i) sigaction(signals[i], &before_[i], nullptr);
    stop_requested = 0;
  }

 private:
  static constexpr std::array signals = {SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, signals.size()> before_{};
};

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

std::uint32_t total_steps(const Spec& spec, const Trainer& trainer) {
  const std::uint64_t total = static_cast<std::uint64_t>(spec.train.epochs) * trainer.batches_per_epoch();
  require(total < ~std::uint32_t{0}, spec.where("train.epochs"), ": ", spec.train.epochs, " epochs are ", total,
          " steps; at most 2^32 - 2 are possible");
  return static_cast<std::uint32_t>(total);
}

// A table in 80 columns, up to 100,000 epochs: its head and its lines. Reconstruction and KL are the test set's.
constexpr const char* epoch_columns = "{:>13}{:>13}{:>15}{:>10}{:>10}\n";

std::string epoch_label(std::int64_t epoch, std::int64_t epochs) {
  const std::string last = fmt::format("{}", epochs);
  return fmt::format("epoch {:>{}}/{}", epoch, std::max<std::size_t>(last.size(), 3), last);
}

void print_epoch_head(std::int64_t epochs) {
  fmt::print("{:{}}", "", epoch_label(1, epochs).size());
  fmt::print(epoch_columns, "train ELBO", "test ELBO", "reconstruction", "KL", "images/s");
}

void print_epoch(const EpochMetrics& m, std::int64_t epochs) {
  const auto number = [](double x) { return std::abs(x) < 1e6 ? fmt::format("{:.3f}", x) : fmt::format("{:.4g}", x); };
  fmt::print("{}", epoch_label(m.epoch, epochs));
  fmt::print(epoch_columns, number(m.train.elbo), number(m.test.elbo), number(m.test.reconstruction), number(m.test.kl),
             fmt::format("{:.0f}", m.images_per_second));
}

class TrainingRun {
 public:
  // checkpoint_seconds: RunOptions'.
  TrainingRun(const Spec& spec, const Dataset& data, Backend& device, double checkpoint_seconds)
      : spec_(spec),
        checkpoint_seconds_(checkpoint_seconds),
        images_(describe_images(data)),
        trainer_(device, spec, data.train),
        evaluator_(trainer_.vae, spec, data.test),
        best_(trainer_),
        total_(total_steps(spec, trainer_)),
        line_(total_) {}

  Trainer& trainer() { return trainer_; }
  const std::vector<EpochMetrics>& epochs() const { return epochs_; }

  // From the beginning, in a folder that has no epoch yet.
  void begin(const std::string& folder) {
    folder_ = folder;
    checkpoints_ = CheckpointFolder(folder);
    replace_file(metrics_path(folder_), "");
  }

  // From a checkpoint. False where the run has not come to its first, which is written before the first epoch's line.
  bool restore(const std::string& folder, const std::string& name) {
    folder_ = folder;
    checkpoints_ = CheckpointFolder(folder);
    if (name == "last" && !checkpoints_.has("last")) {
      const std::string others = checkpoints_.names();
      if (!others.empty())
        fail(checkpoints_.path("last"), ": is missing; there are ", others,
             ", and --resume NAME goes on from one of them");
      require(!has_history(folder), folder, ": has epochs in metrics.jsonl, but no checkpoint to go on from");
      fmt::print("{}: no checkpoint yet, so the run starts from the beginning\n", folder);
      return false;
    }
    const TensorFile file = checkpoints_.read(name, "--resume");
    const std::string path = checkpoints_.file(name);
    check_same_experiment(spec_, stored_spec(file, path), path);
    progress_ = elbo::restore(trainer_, file, path);
    require(progress_.images == images_, path, ": this run was trained on other images (", progress_.images,
            "); these are ", images_);
    require(progress_.step <= total_, spec_.where("train.epochs"), ": the run has done ", progress_.step,
            " steps, and ", spec_.train.epochs, " epochs are only ", total_);
    epochs_ = read_history(folder_, {progress_.step, trainer_.batches_per_epoch(), progress_.best_elbo});
    // What can be wrong has been found; from here on, `last` is where the run stands, and only then are the metrics
    // cut. `previous` stays: it may be the only other one that is whole.
    if (name != "last") checkpoints_.replace_last(file);
    std::string text;
    for (const EpochMetrics& m : epochs_) text += to_json_line(m) + "\n";
    replace_file(metrics_path(folder_), text);
    settle_names();
    fmt::print("resumed from {} at step {} of {}\n", name, progress_.step, total_);
    return true;
  }

  // False where a signal stopped it. When it returns, or throws because training diverged, all is on the disk.
  bool train() {
    start_ = Clock::now();
    // The first is there at once: a run that is killed early has something to go on from, and a disk that is too small
    // is found before an hour was spent.
    if (!checkpoints_.has("last")) write_checkpoint();
    last_written_ = Clock::now();
    if (trainer_.step() < total_) print_epoch_head(spec_.train.epochs);
    bool finished = false;
    try {
      finished = train_to_the_end();
    } catch (const Diverged& e) {
      throw Diverged(e.what() + keep_best_of_diverged());
    }
    writer_.finish();
    line_.clear();
    return finished;
  }

 private:
  bool train_to_the_end() {
    const std::uint32_t per_epoch = trainer_.batches_per_epoch();
    while (trainer_.step() < total_) {
      const std::uint32_t epoch = trainer_.step() / per_epoch, first = trainer_.step();
      const Clock::time_point begin = Clock::now();
      if (!finish_epoch(epoch, (epoch + 1) * per_epoch)) return false;
      const double seconds = seconds_since(begin);
      if (!record_epoch(epoch, static_cast<double>((trainer_.step() - first) * spec_.train.batch_size) / seconds))
        return false;
    }
    return true;
  }

  // False where a signal stopped it on the way, with a checkpoint.
  bool finish_epoch(std::uint32_t epoch, std::uint32_t end) {
    const std::int64_t every = spec_.train.checkpoint_steps;
    const std::string text = fmt::format("epoch {}/{}", epoch + 1, spec_.train.epochs);
    while (trainer_.step() < end) {
      const std::int64_t step = trainer_.step(), next_checkpoint = every ? (step / every + 1) * every : end;
      trainer_.run_until(
          static_cast<std::uint32_t>(std::min({step + trainer_.steps_at_once(), next_checkpoint, std::int64_t{end}})));
      line_.show(trainer_.step(), text);
      writer_.check();
      if (trainer_.step() == end) break;
      const bool stop = stop_requested;
      if (stop || is_due()) {
        trainer_.check();
        write_checkpoint();
      }
      if (stop) return false;
    }
    trainer_.check();
    return true;
  }

  // False where a signal stopped the run here, with a checkpoint.
  bool record_epoch(std::uint32_t epoch, double images_per_second) {
    EpochMetrics m;
    m.epoch = epoch + 1;
    m.step = trainer_.step();
    m.train = trainer_.figures();
    m.test = evaluate();
    m.images_per_second = images_per_second;
    m.seconds = seconds();
    trainer_.reset_figures();
    progress_.best_elbo = std::max(progress_.best_elbo, m.test.elbo);
    // The line comes first: a run killed between the two repeats the epoch and drops the line.
    writer_.add([path = metrics_path(folder_), line = to_json_line(m)] { append_line(path, line); });
    line_.clear();
    print_epoch(m, spec_.train.epochs);
    epochs_.push_back(m);

    const bool end = m.step == total_, stop = stop_requested && !end;
    if (end || stop || is_kept(m) || is_due()) {
      write_checkpoint();
    } else if (is_best(m)) {
      best_.take(progress_now());
      best_waits_ = true;
    }
    return !stop;
  }

  Figures evaluate() {
    try {
      return evaluator_.run();
    } catch (const Diverged& e) {
      const std::uint32_t step = trainer_.step();
      throw Diverged(cat("training diverged at step ", step, " (epoch ", step / trainer_.batches_per_epoch(),
                         "): in the test after it, ", e.what(), remedies(spec_, step, Fault::Place::loss)));
    }
  }

  // Whether `last` is to be written at this step.
  bool is_due() const {
    const std::int64_t every = spec_.train.checkpoint_steps;
    return (every && trainer_.step() % every == 0) || seconds_since(last_written_) >= checkpoint_seconds_;
  }
  // Whether `last` keeps a name of this epoch; whether it is the best so far.
  bool is_kept(const EpochMetrics& m) const {
    return spec_.train.checkpoint_epochs && m.epoch % spec_.train.checkpoint_epochs == 0;
  }
  bool is_best(const EpochMetrics& m) const { return m.test.elbo == progress_.best_elbo; }

  // The other names that the checkpoint at the end of an epoch gets.
  std::vector<std::string> names_of(const EpochMetrics& m) const {
    std::vector<std::string> names;
    if (is_best(m)) names.emplace_back("best");
    if (is_kept(m)) names.push_back(name_of_epoch(m));
    return names;
  }
  static std::string name_of_epoch(const EpochMetrics& m) { return fmt::format("epoch-{}", m.epoch); }

  // A process that was killed may not have come to give a checkpoint all its names.
  void settle_names() const {
    if (!epochs_.empty() && epochs_.back().step == progress_.step)
      for (const std::string& name : names_of(epochs_.back())) checkpoints_.settle(name, progress_.step, {"last"});
    const EpochMetrics* best = nullptr;
    for (const EpochMetrics& m : epochs_)
      if (is_best(m)) best = &m;
    if (best) checkpoints_.settle("best", best->step, {"next-best", "last", "previous", name_of_epoch(*best)});
    checkpoints_.remove_next_best();
  }

  // `last`, and `best` where that is another and not written yet, by the writer. What they hold is read from the device
  // now. One at a time: what waits takes memory.
  void write_checkpoint() {
    writer_.finish();
    const Progress now = progress_now();
    std::vector<std::string> names;
    if (!epochs_.empty() && epochs_.back().step == now.step) names = names_of(epochs_.back());
    const bool best_is_another = best_waits_ && std::ranges::find(names, "best") == names.end();
    hand_over(make_checkpoint(trainer_, spec_, now), best_is_another ? best_.read(spec_) : TensorFile{}, names);
  }

  void hand_over(TensorFile last, TensorFile best, std::vector<std::string> names) {
    auto files = std::make_shared<const std::pair<TensorFile, TensorFile>>(std::move(last), std::move(best));
    writer_.add([files, names = std::move(names), folder = checkpoints_, metrics = metrics_path(folder_)] {
      sync_file(metrics);
      folder.write(files->first, files->second.tensors.empty() ? nullptr : &files->second, names);
    });
    best_waits_ = false;
    last_written_ = Clock::now();
  }

  // The weights of now are no good. The newest that are known to be good may be the best, if they are not written yet.
  // What to say of it. `last` may be of steps after the last evaluation, so that its figures have to show what it is.
  std::string keep_best_of_diverged() {
    try {
      if (best_waits_) {
        writer_.finish();
        hand_over(best_.read(spec_), {}, {"best"});
      }
      writer_.finish();
      std::string newest;
      std::int64_t step = -1;
      for (const char* name : {"last", "previous", "best"})
        if (const std::int64_t at = step_of_good(name); at > step) {
          step = at;
          newest = checkpoints_.path(name);
        }
      const char* const way_out = "other settings need a new run, in another folder";
      if (step < 0) return cat("; no checkpoint that is left has finite figures: ", way_out);
      return cat("; the last good checkpoint is ", newest, ", of step ", step,
                 "; --resume would go the same way again from there: ", way_out);
    } catch (const Error& e) {
      return cat("; moreover, ", e.what());
    }
  }

  // -1 where there is no such checkpoint, or its figures are not finite. Its weights take the place of those of now.
  std::int64_t step_of_good(const char* name) {
    if (!checkpoints_.has(name)) return -1;
    const std::string path = checkpoints_.path(name);
    try {
      const TensorFile file = read_safetensors(path);
      load_weights(trainer_.vae, file, path);
      evaluator_.run();
      return read_progress(file, path).step;
    } catch (const Error&) {
      return -1;
    }
  }

  Progress progress_now() const { return {trainer_.step(), seconds(), progress_.best_elbo, images_}; }

  double seconds() const { return progress_.seconds + seconds_since(start_); }

  const Spec& spec_;
  const double checkpoint_seconds_;
  std::string images_, folder_;
  CheckpointFolder checkpoints_{""};
  Trainer trainer_;
  Evaluator evaluator_;
  Snapshot best_;            // of the best epoch, while
  bool best_waits_ = false;  // that is not written yet
  std::uint32_t total_;
  ProgressLine line_;
  Progress progress_;
  std::vector<EpochMetrics> epochs_;
  Clock::time_point start_, last_written_;
  Writer writer_;
};

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
      return 128 + stop_requested;
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
