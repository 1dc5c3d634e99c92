#include "host/train/training_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "host/base/files.h"
#include "host/base/stop_signal.h"
#include "host/train/epoch_text.h"
#include "host/train/run_folder.h"

namespace elbo {
namespace {

std::uint32_t total_steps(const Spec& spec, const Trainer& trainer) {
  const std::uint64_t total = static_cast<std::uint64_t>(spec.train.epochs) * trainer.batches_per_epoch();
  if (total >= ~std::uint32_t{0})
    fail(spec.where("train.epochs"), ": ", spec.train.epochs, " epochs are ", total,
         " steps; at most 2^32 - 2 are possible");
  return static_cast<std::uint32_t>(total);
}

std::string name_of_epoch(const EpochMetrics& m) { return fmt::format("epoch-{}", m.epoch); }

}  // namespace

TrainingRun::TrainingRun(const Spec& spec, const Dataset& data, Backend& device, double checkpoint_seconds)
    : spec_(spec),
      checkpoint_seconds_(checkpoint_seconds),
      images_(describe_images(data)),
      trainer_(device, spec, data.train),
      evaluator_(trainer_.vae, spec, data.test),
      best_(trainer_),
      total_(total_steps(spec, trainer_)),
      line_(total_) {}

void TrainingRun::begin(const std::string& folder) {
  folder_ = folder;
  checkpoints_ = CheckpointFolder(folder);
  replace_file(metrics_path(folder_), "");
}

bool TrainingRun::restore(const std::string& folder, const std::string& name) {
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
  TensorFile file = checkpoints_.read(name, "--resume");
  const std::string path = checkpoints_.file(name);
  check_same_experiment(spec_, stored_spec(file, path), path);
  progress_ = elbo::restore(trainer_, file, path);
  require(progress_.images == images_, path, ": this run was trained on other images (", progress_.images,
          "); these are ", images_);
  if (progress_.step > total_)
    fail(spec_.where("train.epochs"), ": the run has done ", progress_.step, " steps, and ", spec_.train.epochs,
         " epochs are only ", total_);
  epochs_ = read_history(folder_, {progress_.step, trainer_.batches_per_epoch(), progress_.best_bound});
  // What can be wrong has been found; from here on, `last` is where the run stands, and only then are the metrics
  // cut. `previous` stays: it may be the only other one that is whole.
  if (name != "last") checkpoints_.replace_last(file);
  file = {};  // its memory is wanted: to settle names, others are read
  std::string text;
  for (const EpochMetrics& m : epochs_) text += to_json_line(m) + "\n";
  replace_file(metrics_path(folder_), text);
  settle_names();
  fmt::print("resumed from {} at step {} of {}\n", name, progress_.step, total_);
  return true;
}

bool TrainingRun::train() {
  start_ = Clock::now();
  // The first is there at once: a run that is killed early has something to go on from, and a disk that is too small
  // is found before an hour was spent.
  if (!checkpoints_.has("last")) write_checkpoint();
  last_written_ = Clock::now();
  if (trainer_.step() < total_) fmt::print("{}", epoch_head(trainer_.figures(), spec_.train.epochs));
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

bool TrainingRun::train_to_the_end() {
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
bool TrainingRun::finish_epoch(std::uint32_t epoch, std::uint32_t end) {
  const std::int64_t every = spec_.train.checkpoint_steps;
  const std::string text = fmt::format("epoch {}/{}", epoch + 1, spec_.train.epochs);
  while (trainer_.step() < end) {
    const std::int64_t step = trainer_.step(), next_checkpoint = every ? (step / every + 1) * every : end;
    trainer_.run_until(
        static_cast<std::uint32_t>(std::min({step + trainer_.steps_at_once(), next_checkpoint, std::int64_t{end}})));
    line_.show(trainer_.step(), text);
    writer_.check();
    if (trainer_.step() == end) break;
    const bool stop = stop_requested() != 0;
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
bool TrainingRun::record_epoch(std::uint32_t epoch, double images_per_second) {
  EpochMetrics m;
  m.epoch = epoch + 1;
  m.step = trainer_.step();
  m.train = trainer_.figures();
  m.test = evaluate();
  m.images_per_second = images_per_second;
  m.seconds = seconds();
  trainer_.reset_figures();
  progress_.best_bound = std::max(progress_.best_bound, m.test.bound());
  // The line comes first: a run killed between the two repeats the epoch and drops the line.
  writer_.add([path = metrics_path(folder_), line = to_json_line(m)] { append_line(path, line); });
  line_.clear();
  fmt::print("{}", epoch_line(m, spec_.train.epochs));
  epochs_.push_back(m);

  const bool end = m.step == total_, stop = stop_requested() != 0 && !end;
  if (end || stop || is_kept(m) || is_due()) {
    write_checkpoint();
  } else if (is_best(m)) {
    best_.take(progress_now());
    best_waits_ = true;
  }
  return !stop;
}

Figures TrainingRun::evaluate() {
  try {
    return evaluator_.run();
  } catch (const Diverged& e) {
    const std::uint32_t step = trainer_.step();
    throw Diverged(cat("training diverged at step ", step, " (epoch ", step / trainer_.batches_per_epoch(),
                       "): in the test after it, ", e.what(), remedies(spec_, step, Fault::Place::loss)));
  }
}

// Whether `last` is to be written at this step.
bool TrainingRun::is_due() const {
  const std::int64_t every = spec_.train.checkpoint_steps;
  return (every && trainer_.step() % every == 0) || seconds_since(last_written_) >= checkpoint_seconds_;
}

// Whether the epoch's checkpoint keeps a name of its own.
bool TrainingRun::is_kept(const EpochMetrics& m) const {
  return spec_.train.checkpoint_epochs && m.epoch % spec_.train.checkpoint_epochs == 0;
}

// Whether it is the best so far.
bool TrainingRun::is_best(const EpochMetrics& m) const { return m.test.bound() == progress_.best_bound; }

// The other names that the checkpoint at the end of an epoch gets.
std::vector<std::string> TrainingRun::names_of(const EpochMetrics& m) const {
  std::vector<std::string> names;
  if (is_best(m)) names.emplace_back("best");
  if (is_kept(m)) names.push_back(name_of_epoch(m));
  return names;
}

// A process that was killed may have left a checkpoint without some of its names.
void TrainingRun::settle_names() const {
  if (!epochs_.empty() && epochs_.back().step == progress_.step)
    for (const std::string& name : names_of(epochs_.back())) checkpoints_.settle(name, progress_.step, {"last"});
  const EpochMetrics* best = nullptr;
  for (const EpochMetrics& m : epochs_)
    if (is_best(m)) best = &m;
  if (best) checkpoints_.settle("best", best->step, {"next-best", "last", "previous", name_of_epoch(*best)});
  checkpoints_.remove_next_best();
}

// Gives the writer `last`, and `best` where that is another and not written yet. What they hold is read from the device
// now. Only one checkpoint waits at a time, since it takes memory.
void TrainingRun::write_checkpoint() {
  writer_.finish();
  const Progress now = progress_now();
  std::vector<std::string> names;
  if (!epochs_.empty() && epochs_.back().step == now.step) names = names_of(epochs_.back());
  const bool best_is_another = best_waits_ && std::ranges::find(names, "best") == names.end();
  hand_over(make_checkpoint(trainer_, spec_, now), best_is_another ? best_.read(spec_) : TensorFile{}, names);
}

void TrainingRun::hand_over(TensorFile last, TensorFile best, std::vector<std::string> names) {
  auto files = std::make_shared<const std::pair<TensorFile, TensorFile>>(std::move(last), std::move(best));
  writer_.add([files, names = std::move(names), folder = checkpoints_, metrics = metrics_path(folder_)] {
    sync_file(metrics);
    folder.write(files->first, files->second.tensors.empty() ? nullptr : &files->second, names);
  });
  best_waits_ = false;
  last_written_ = Clock::now();
}

// The weights of now are no good. The newest good ones may be the best, which may not be written yet: they are now. The
// result says which checkpoint is good. `last` may be of a step after the last evaluation, so it is evaluated.
std::string TrainingRun::keep_best_of_diverged() {
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

// The checkpoint's step; -1 where it is not there, or its figures are not finite. Its weights replace those of now.
std::int64_t TrainingRun::step_of_good(const char* name) {
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

Progress TrainingRun::progress_now() const { return {trainer_.step(), seconds(), progress_.best_bound, images_}; }

double TrainingRun::seconds() const { return progress_.seconds + seconds_since(start_); }

}  // namespace elbo
