// A training run in its folder (run_folder.h): its epochs, their figures, and checkpoints to go on from.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "host/base/progress.h"
#include "host/base/timing.h"
#include "host/base/writer.h"
#include "host/data/dataset.h"
#include "host/train/checkpoint.h"
#include "host/train/evaluate.h"
#include "host/train/metrics.h"
#include "host/train/trainer.h"

namespace elbo {

// `last` is written at the beginning, at the end, on a signal, when some seconds have passed, and as often as
// train.checkpoint_epochs and train.checkpoint_steps ask for it. Where the run diverges, or its figures are not finite
// at the end of an epoch, that state gets no name, and the best becomes `last` if it is newer.
//
// A thread of its own writes: first the lines of metrics.jsonl that a checkpoint has behind it, then the checkpoint.
// Killed at any moment, a run goes on from `last`, drops the lines beyond it, and ends with the same bits as one that
// never was.
class TrainingRun {
 public:
  // Spec and data must outlive the run. Device memory for everything is taken here. `checkpoint_seconds` may pass until
  // `last` is written again.
  TrainingRun(const Spec&, const Dataset&, Backend&, double checkpoint_seconds);

  // From the beginning, in a folder that has no epoch yet.
  void begin(const std::string& folder);
  // From the checkpoint of that name. False where the run has not come to its first, which is written before the first
  // epoch's line.
  bool restore(const std::string& folder, const std::string& name);

  // False where a signal stopped it (stop_signal.h). When it returns, or throws because training diverged, all is on
  // the disk.
  bool train();

  Trainer& trainer() { return trainer_; }
  const std::vector<EpochMetrics>& epochs() const { return epochs_; }

 private:
  bool train_to_the_end();
  bool finish_epoch(std::uint32_t epoch, std::uint32_t end);
  bool record_epoch(std::uint32_t epoch, double images_per_second);
  Figures evaluate();

  bool is_due() const;
  bool is_kept(const EpochMetrics&) const;
  bool is_best(const EpochMetrics&) const;
  std::vector<std::string> names_of(const EpochMetrics&) const;

  void settle_names() const;
  void write_checkpoint();
  void hand_over(TensorFile last, TensorFile best, std::vector<std::string> names);
  std::string keep_best_of_diverged();
  std::int64_t step_of_good(const char* name);

  Progress progress_now() const;
  double seconds() const;

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

}  // namespace elbo
