#include "host/run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "host/checkpoint.h"
#include "host/evaluate.h"
#include "host/files.h"
#include "host/progress.h"
#include "host/report/collect.h"
#include "host/report/picture.h"
#include "host/trainer.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// ---- Signals: a run asked to stop finishes its step and writes a checkpoint --------------------------------------

volatile std::sig_atomic_t stop_requested = 0;

class StopOnSignal {
 public:
  StopOnSignal() {
    struct sigaction action {};
    action.sa_handler = [](int) { stop_requested = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second signal ends the program at once
    for (std::size_t i = 0; i < signals.size(); ++i) sigaction(signals[i], &action, &before_[i]);
  }
  ~StopOnSignal() {
    for (std::size_t i = 0; i < signals.size(); ++i) sigaction(signals[i], &before_[i], nullptr);
    stop_requested = 0;
  }

 private:
  static constexpr std::array signals = {SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, signals.size()> before_{};
};

// ---- The folder ---------------------------------------------------------------------------------------------------

std::string spec_path(const std::string& folder) { return folder + "/spec.json"; }
std::string metrics_path(const std::string& folder) { return folder + "/metrics.jsonl"; }
std::string machine_path(const std::string& folder) { return folder + "/machine.json"; }

// runs/NAME, runs/NAME-2, ...: the first that is free, or the newest that is not.
std::string choose_folder(const std::string& name, bool resume) {
  std::string folder = "runs/" + name;
  if (!fs::exists(folder)) return folder;
  for (int i = 2;; ++i) {
    const std::string next = fmt::format("runs/{}-{}", name, i);
    if (!fs::exists(next)) return resume ? folder : next;
    folder = next;
  }
}

// Held for as long as a process trains in a folder, so that two never write the same run.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder) : fd_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    require(fd_ >= 0, folder, ": cannot be opened");
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      ::close(fd_);
      fail(folder, ": another process is training here");
    }
  }
  ~FolderLock() { ::close(fd_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_;
};

// Whether a file is what a process that was killed had begun to write: NAME.tmp, with a NAME that a run has.
bool is_leftover(const fs::directory_entry& entry) {
  const fs::path path = entry.path();
  const std::string kind = path.stem().extension();
  return path.extension() == ".tmp" && entry.is_regular_file() &&
         (kind == ".json" || kind == ".jsonl" || kind == ".safetensors" || kind == ".png" || kind == ".html");
}

// Call it under the folder's lock.
void remove_leftovers(const std::string& folder) {
  std::vector<fs::path> leftovers;
  for (const char* part : {"", "/checkpoints", "/figures"}) {
    std::error_code absent;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder + part, absent))
      if (is_leftover(entry)) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove(path);
}

// The epochs up to `step`. A line that a crash cut short can only be the last; it is dropped, as are the epochs that
// a resumed run will go through again.
std::vector<EpochMetrics> read_metrics(const std::string& folder, std::int64_t step) {
  std::vector<EpochMetrics> epochs;
  if (!fs::exists(metrics_path(folder))) return epochs;
  const std::string text = read_text(metrics_path(folder));
  for (std::size_t at = 0, line = 1; at < text.size(); ++line) {
    const std::size_t end = text.find('\n', at);
    if (end == std::string::npos) break;
    try {
      EpochMetrics m = parse_metrics(text.substr(at, end - at));
      if (m.step <= step) epochs.push_back(std::move(m));
    } catch (const Error& e) {
      fail(metrics_path(folder), ":", line, ": ", e.what());
    }
    at = end + 1;
  }
  return epochs;
}

std::string machine_description() {
  std::string cpu = "CPU", line;
  for (std::ifstream info("/proc/cpuinfo"); std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    cpu = line.substr(line.find(':') + 2);
    break;
  }
  utsname system{};
  uname(&system);
  return fmt::format("{}, {} cores, {} {}", cpu, sysconf(_SC_NPROCESSORS_ONLN), system.sysname, system.release);
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &utc);
  return text;
}

// machine.json: where a run was made and by which command; of a run that was resumed, the last time, with the times
// before under "earlier". `before`: what the file held, null where there is none.
std::string machine_json(const RunOptions& options, const DeviceInfo& device, nlohmann::ordered_json before) {
  nlohmann::ordered_json j;
  j["version"] = ELBO_VERSION;
  j["date"] = utc_now();
  j["command"] = options.command;
  j["device"] = device.name;
  j["device_description"] = device.description;
  j["machine"] = machine_description();
  if (before.is_object()) {
    nlohmann::ordered_json earlier = before.value("earlier", nlohmann::ordered_json::array());
    before.erase("earlier");
    earlier.push_back(std::move(before));
    j["earlier"] = std::move(earlier);
  }
  return j.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

// A string of machine.json, "" where there is none.
std::string text_of(const nlohmann::ordered_json& machine, const char* key) {
  return machine.is_object() && machine.contains(key) && machine[key].is_string() ? machine[key].get<std::string>()
                                                                                  : "";
}

nlohmann::ordered_json read_machine(const std::string& folder) {
  if (!fs::exists(machine_path(folder))) return nullptr;
  return nlohmann::ordered_json::parse(read_text(machine_path(folder)), nullptr, false);
}

// ---- The report ---------------------------------------------------------------------------------------------------

void make_report(const std::string& folder, const Spec& spec, Vae& vae, const Dataset& data,
                 const std::vector<EpochMetrics>& epochs) {
  const nlohmann::ordered_json machine = read_machine(folder);
  ReportData report = collect_pictures(vae, spec, data);
  report.name = spec.name;
  report.spec_json = to_json(spec);
  report.command = text_of(machine, "command");
  report.device = text_of(machine, "device_description");
  if (machine.is_object() && machine.contains("earlier"))
    for (const auto& session : machine["earlier"])
      if (const std::string device = text_of(session, "device_description");
          report.device.find(device) == std::string::npos)
        report.device += "; earlier on " + device;
  report.machine = text_of(machine, "machine");
  report.version = text_of(machine, "version");
  report.date = text_of(machine, "date");
  report.seconds = epochs.empty() ? 0 : epochs.back().seconds;
  for (const Parameter& p : vae.layout()) report.parameters += p.shape.count();
  report.train_images = data.train.count;
  report.test_images = data.test.count;
  report.beta = spec.objective.beta;
  report.epochs = epochs;
  write_report(report, folder);
}

// ---- Training -----------------------------------------------------------------------------------------------------

// What a resumed run continues must be the same experiment; only train.epochs may differ. `where`: the file that the
// stored spec comes from.
void check_same_experiment(const Spec& spec, const std::string& stored_json, const std::string& where) {
  Spec stored = parse_spec(stored_json, where);
  stored.train.epochs = spec.train.epochs;
  const std::string now = to_json(spec), then = to_json(stored);
  if (now == then) return;
  const auto [a, b] = std::ranges::mismatch(now, then);
  const auto line_of = [](const std::string& text, auto at) {
    const auto begin = std::find(std::make_reverse_iterator(at), text.rend(), '\n').base();
    const std::string line(begin, std::find(at, text.end(), '\n'));
    const std::size_t first = line.find_first_not_of(' '), last = line.find_last_not_of(" ,");
    return first == std::string::npos ? line : line.substr(first, last + 1 - first);
  };
  fail(where, ": this run was started with another spec, and only train.epochs may change when it is resumed: there ",
       line_of(then, b), ", now ", line_of(now, a));
}

// Whether `folder` holds a run that has begun, and that `spec` may continue. Throws Error where there is something
// else, or where a run may not go.
bool holds_run(const std::string& folder, bool resume, const Spec& spec) {
  if (!fs::exists(folder)) return false;
  require(fs::is_directory(folder), folder, ": is not a folder");
  const bool empty = std::ranges::all_of(fs::directory_iterator(folder), is_leftover);
  require(resume || empty, folder,
          ": the output folder exists; choose another with --out, or continue that run with --resume");
  const bool started = fs::exists(spec_path(folder));
  require(started || empty, folder, ": is not the folder of a run: it has no spec.json");
  if (started) check_same_experiment(spec, read_text(spec_path(folder)), spec_path(folder));
  return started;
}

// A word as a shell reads it.
std::string shell_word(const std::string& word) {
  if (word.find_first_of(" \t\"'\\$`*?&;|<>()") == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

// The command that continues a run that was stopped.
std::string resume_command(const RunOptions& options, const std::string& folder) {
  std::string line = fmt::format("elbo run {} --out {} --resume", shell_word(spec_path(folder)), shell_word(folder));
  if (options.device != "auto") line += " --device " + shell_word(options.device);
  if (options.backend.threads != 0) line += fmt::format(" --threads {}", options.backend.threads);
  if (!options.backend.record) line += " --no-graph";
  if (!options.data.empty()) line += " --data " + shell_word(options.data);
  return line;
}

std::uint32_t total_steps(const Spec& spec, const Trainer& trainer) {
  const std::uint64_t total = static_cast<std::uint64_t>(spec.train.epochs) * trainer.batches_per_epoch();
  require(total < ~std::uint32_t{0}, "train.epochs: ", spec.train.epochs, " epochs are ", total,
          " steps; at most 2^32 - 2 are possible");
  return static_cast<std::uint32_t>(total);
}

void print_epoch(const EpochMetrics& m, std::int64_t epochs) {
  fmt::print(
      "epoch {:>3}/{}  train ELBO {:9.3f}  test ELBO {:9.3f}  reconstruction {:8.3f}  KL {:7.3f}  {:>8.0f} images/s\n",
      m.epoch, epochs, m.train.elbo, m.test.elbo, m.test.reconstruction, m.test.kl, m.images_per_second);
  std::fflush(stdout);
}

class TrainingRun {
 public:
  TrainingRun(const Spec& spec, const std::string& folder, const Dataset& data, Backend& device)
      : spec_(spec),
        folder_(folder),
        checkpoints_(folder),
        trainer_(device, spec, data.train),
        evaluator_(trainer_.vae, spec, data.test),
        total_(total_steps(spec, trainer_)),
        line_(total_) {}

  Trainer& trainer() { return trainer_; }
  const std::vector<EpochMetrics>& epochs() const { return epochs_; }

  void restore_from(const std::string& name) {
    const TensorFile file = checkpoints_.read(name);
    check_same_experiment(spec_, stored_spec(file, name), name);
    progress_ = restore(trainer_, file, name);
    // Before the metrics are cut: from here on, `last` is where the run stands. `previous` stays, it may be the only
    // other one that is whole.
    if (name != "last") checkpoints_.replace_last(file);
    epochs_ = read_metrics(folder_, progress_.step);
    std::string text;
    for (const EpochMetrics& m : epochs_) text += to_json_line(m) + "\n";
    replace_file(metrics_path(folder_), text);
    // The end of an epoch may have been cut off between `last` and its other names.
    if (!epochs_.empty() && epochs_.back().step == progress_.step)
      for (const std::string& other : names_of(epochs_.back()))
        if (!checkpoints_.holds(other, progress_.step)) checkpoints_.keep_last_as(other);
    fmt::print("resumed from {} at step {} of {}\n", name, progress_.step, total_);
  }

  // False where a signal stopped it.
  bool train() {
    start_ = Clock::now();
    const std::uint32_t per_epoch = trainer_.batches_per_epoch();
    while (trainer_.step() < total_) {
      const std::uint32_t epoch = trainer_.step() / per_epoch, first = trainer_.step();
      const Clock::time_point begin = Clock::now();
      if (!finish_epoch(epoch, (epoch + 1) * per_epoch)) return false;
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      record_epoch(epoch, static_cast<double>((trainer_.step() - first) * spec_.train.batch_size) / seconds);
      if (stop_requested && trainer_.step() < total_) return false;
    }
    line_.clear();
    return true;
  }

 private:
  bool finish_epoch(std::uint32_t epoch, std::uint32_t end) {
    const std::int64_t every = spec_.train.checkpoint_steps;
    const std::string text = fmt::format("epoch {}/{}", epoch + 1, spec_.train.epochs);
    while (trainer_.step() < end) {
      trainer_.run_until(trainer_.step() + 1);
      line_.show(trainer_.step(), text);
      if (trainer_.step() == end) break;
      if (stop_requested || (every && trainer_.step() % every == 0)) {
        trainer_.check();
        write_checkpoint();
      }
      if (stop_requested) return false;
    }
    trainer_.check();
    return true;
  }

  void record_epoch(std::uint32_t epoch, double images_per_second) {
    EpochMetrics m;
    m.epoch = epoch + 1;
    m.step = trainer_.step();
    m.train = trainer_.figures();
    m.test = evaluator_.run();
    m.images_per_second = images_per_second;
    m.seconds = seconds();
    trainer_.reset_figures();
    progress_.best_elbo = std::max(progress_.best_elbo, m.test.elbo);
    // The line comes first: a run killed between the two repeats the epoch and drops the line.
    append_line(metrics_path(folder_), to_json_line(m));
    write_checkpoint();
    for (const std::string& name : names_of(m)) checkpoints_.keep_last_as(name);
    line_.clear();
    print_epoch(m, spec_.train.epochs);
    epochs_.push_back(std::move(m));
  }

  // The other names that the checkpoint at the end of an epoch gets.
  std::vector<std::string> names_of(const EpochMetrics& m) const {
    std::vector<std::string> names;
    if (m.test.elbo == progress_.best_elbo) names.emplace_back("best");
    if (spec_.train.checkpoint_epochs && m.epoch % spec_.train.checkpoint_epochs == 0)
      names.push_back(fmt::format("epoch-{}", m.epoch));
    return names;
  }

  void write_checkpoint() {
    Progress now = progress_;
    now.step = trainer_.step();
    now.seconds = seconds();
    checkpoints_.write_last(make_checkpoint(trainer_, spec_, now));
  }

  double seconds() const { return progress_.seconds + std::chrono::duration<double>(Clock::now() - start_).count(); }

  const Spec& spec_;
  std::string folder_;
  CheckpointFolder checkpoints_;
  Trainer trainer_;
  Evaluator evaluator_;
  std::uint32_t total_;
  ProgressLine line_;
  Progress progress_;
  std::vector<EpochMetrics> epochs_;
  Clock::time_point start_;
};

}  // namespace

int run_experiment(const RunOptions& options) {
  const Spec spec = load_spec(options.spec, options.overrides);
  const std::string folder = options.out.empty() ? choose_folder(spec.name, options.resume.has_value()) : options.out;
  holds_run(folder, options.resume.has_value(), spec);

  const Dataset data = load_dataset(spec.data, spec.seed, data_directories(options.data));
  BackendOptions backend_options = options.backend;
  backend_options.precision = spec.train.precision;
  OpenedDevice device = open_device(options.device, backend_options);
  const DeviceInfo info = device.backend->info();
  fmt::print("{}: {} on {}{}\n", spec.name, spec.data.dataset, info.description,
             device.reason.empty() ? "" : " (" + device.reason + ")");
  fmt::print("{} training images, {} test images; effective beta {}\n", data.train.count, data.test.count,
             spec.objective.beta);
  std::fflush(stdout);

  TrainingRun run(spec, folder, data, *device.backend);

  std::error_code error;
  fs::create_directories(folder, error);
  require(!error, folder, ": cannot be made: ", error.message());
  const FolderLock lock(folder);
  // Once more: another process may have been here since.
  const bool started = holds_run(folder, options.resume.has_value(), spec);
  remove_leftovers(folder);
  const nlohmann::ordered_json before = read_machine(folder);
  if (!started) replace_file(spec_path(folder), to_json(spec));  // the first file of a run
  const CheckpointFolder checkpoints(folder);
  if (options.resume && (*options.resume != "last" || checkpoints.has("last"))) {
    run.restore_from(*options.resume);
  } else {
    if (options.resume) fmt::print("{}: no checkpoint yet, so the run starts from the beginning\n", folder);
    replace_file(metrics_path(folder), "");
  }
  if (started) replace_file(spec_path(folder), to_json(spec));  // with the train.epochs of now
  if (const std::string then = text_of(before, "device_description"), version = text_of(before, "version");
      before.is_object() && (then != info.description || version != ELBO_VERSION))
    fmt::print("note: this run was begun by elbo {} on {}; elsewhere it goes on with other roundings\n", version, then);
  replace_file(machine_path(folder), machine_json(options, info, before));

  {
    const StopOnSignal signals;
    if (!run.train()) {
      fmt::print("stopped at step {} with a checkpoint; to go on: {}\n", run.trainer().step(),
                 resume_command(options, folder));
      return 130;
    }
  }
  make_report(folder, spec, run.trainer().vae, data, run.epochs());

  if (!run.epochs().empty()) {
    const EpochMetrics& last = run.epochs().back();
    fmt::print("weights    sha256 {}\n", hash_weights(run.trainer().vae));
    fmt::print("test ELBO  {:.3f} nats an image (reconstruction {:.3f}, KL {:.3f})\n", last.test.elbo,
               last.test.reconstruction, last.test.kl);
    fmt::print("time       {} for {} epochs on {}\n", format_seconds(last.seconds), last.epoch, info.name);
  }
  fmt::print("report     {}/report.html\n", folder);
  return 0;
}

// ---- Afterwards ---------------------------------------------------------------------------------------------------

namespace {

// A run, opened again.
struct OpenedRun {
  explicit OpenedRun(const RunQuery& q)
      : spec(parse_spec(read_text(spec_path(q.folder)), spec_path(q.folder))),
        data(load_dataset(spec.data, spec.seed, data_directories(q.data))) {
    BackendOptions options = q.backend;
    options.precision = spec.train.precision;
    device = open_device(q.device, options);
    vae = std::make_unique<Vae>(*device.backend, spec, data.train.image_size());
    const TensorFile file = CheckpointFolder(q.folder).read(q.checkpoint);
    load_weights(*vae, file, q.checkpoint);
    progress = read_progress(file, q.checkpoint);
  }

  Spec spec;
  Dataset data;
  OpenedDevice device;
  std::unique_ptr<Vae> vae;
  Progress progress;
};

}  // namespace

int evaluate_run(const RunQuery& query) {
  OpenedRun run(query);
  EpochMetrics m;
  m.step = run.progress.step;
  m.seconds = run.progress.seconds;
  m.train = Evaluator(*run.vae, run.spec, run.data.train).run();
  m.test = Evaluator(*run.vae, run.spec, run.data.test).run();
  m.epoch = m.step / std::max<std::int64_t>(1, run.data.train.count / run.spec.train.batch_size);
  fmt::print("{}\n", to_json_line(m));
  return 0;
}

int sample_run(const RunQuery& query, std::int64_t count, std::uint64_t seed, const std::string& out) {
  require(count >= 1 && count <= 65536, "--count ", count, ": 1 to 65536 samples are possible");
  OpenedRun run(query);
  const auto columns = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  replace_file(out, contact_sheet(draw_samples(*run.vae, run.data.test, count, seed), 0, count, columns, 2).png());
  fmt::print("{} samples: {}\n", count, out);
  return 0;
}

int report_run(const RunQuery& query) {
  OpenedRun run(query);
  make_report(query.folder, run.spec, *run.vae, run.data, read_metrics(query.folder, run.progress.step));
  fmt::print("report     {}/report.html\n", query.folder);
  return 0;
}

}  // namespace elbo
