// A run: a folder (run_folder.h) that begins with the resolved spec and ends with a report.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "elbo/backend.h"

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

// Trains (train/training_run.h) and reports. Returns the exit status: 0, or 128 + the signal's number (130, 143, 129)
// where SIGINT, SIGTERM or SIGHUP stopped it after a checkpoint. What can be wrong with spec, data, device and folder
// is found before anything is written.
int run_experiment(const RunOptions&);

}  // namespace elbo
