// A run: a folder (run_folder.h) that begins with the resolved spec and ends with a report.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "host/base/devices.h"
#include "host/data/dataset.h"
#include "host/spec/spec.h"
#include "host/train/metrics.h"

namespace elbo {

struct RunOptions {
  std::string spec;                    // path of the spec
  std::vector<std::string> overrides;  // --set
  std::string device = "auto";
  BackendOptions backend;             // precision comes from the spec
  std::string data;                   // --data
  std::string out;                    // empty: runs/NAME, or runs/NAME-2, ... (with resume: the newest of these)
  std::optional<std::string> resume;  // "last", "previous", "best", or a file
  std::string command;                // the command line, for the report
  double checkpoint_seconds = 30;     // that may pass until the last checkpoint is written again
};

// Trains. Returns the exit status: 0, or 128 + the signal's number (130, 143, 129) when SIGINT, SIGTERM or SIGHUP
// stopped it after a checkpoint. Everything that can be wrong with spec, data, device and folder is found before
// anything is written.
//
// `last` is written at the beginning, at the end, on a signal, when checkpoint_seconds have passed, and as often as
// train.checkpoint_epochs and train.checkpoint_steps ask for it; where the run diverges, or its figures are not finite
// at the end of an epoch, that state gets no name, and the best becomes `last` if it is newer. What is written is
// written by a thread of its own, first the lines of metrics.jsonl that a checkpoint has behind it, then the
// checkpoint: killed at any moment, a run goes on from `last`, drops the lines beyond it, and ends with the same bits
// as one that never was.
int run_experiment(const RunOptions&);

// What eval, sample and report do with a finished (or interrupted) run.
struct RunQuery {
  std::string folder;
  std::string checkpoint = "last";  // or "best", "previous", "epoch-N", or a file
  std::string device = "auto";
  BackendOptions backend;
  std::string data;
};

// Each throws Error where the model's figures or pictures are not finite.
int evaluate_run(const RunQuery&);  // prints train and test figures as JSON
int sample_run(const RunQuery&, std::int64_t count, std::uint64_t seed, const std::string& out);  // writes a PNG
// Writes report.html and figures/ anew: the run's own, of its last checkpoint and on its own images, or others into the
// folder `out`, which is new, empty, or has a report made so.
int report_run(const RunQuery&, const std::string& out);

}  // namespace elbo
