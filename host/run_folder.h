// The folder of a run, and who may write into it.
//
//   spec.json  machine.json  tuning.json  metrics.jsonl  checkpoints/*.safetensors  figures/*.png  report.html
//
// spec.json comes first: a folder without it is not that of a run.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "host/metrics.h"
#include "host/spec.h"

namespace elbo {

std::string spec_path(const std::string& folder);
std::string metrics_path(const std::string& folder);
std::string machine_path(const std::string& folder);

// Makes the first of runs/NAME, runs/NAME-2, ... that is not there yet. Of two processes each gets its own.
std::string make_default_folder(const std::string& name);
// The newest of them that holds a run of this experiment; where none does, the newest; where there is none, runs/NAME.
std::string find_default_folder(const Spec&);

// What a resumed run continues must be the same experiment: only fields may differ that the weights do not depend on
// (train.epochs, train.checkpoint_*, data.residency). `where`: the file that the stored spec comes from. Throws Error
// naming the first field that differs.
void check_same_experiment(const Spec&, const std::string& stored_json, const std::string& where);

// Whether `folder` holds a run that has begun, and that `spec` may continue. Throws Error where there is something
// else, or where a run may not go.
bool holds_run(const std::string& folder, bool resume, const Spec&);

// Held for as long as a process trains in a folder, so that two never write the same run.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_;
};

// Removes what a process that was killed had begun to write. Call it under the folder's lock.
void remove_leftovers(const std::string& folder);

// The epochs of metrics.jsonl up to `step`; none where there is no such file. A line that cannot be read is dropped
// where it is the last (a crash cut it short) or is of a later epoch (a power cut may leave anything in what no
// checkpoint has behind it). Throws Error naming the line where it is another.
std::vector<EpochMetrics> read_metrics(const std::string& folder, std::int64_t step);

// Where a run was made, and by which command: machine.json. Of a run that was resumed, the last time, with the times
// before.
struct Session {
  std::string version, date, command, device, device_description, machine;
  std::string products{};  // how its matrix products were done, as a JSON list; empty: nothing to tell
};
struct Machine {
  std::vector<Session> sessions;  // the last one last
};
Machine read_machine(const std::string& folder);  // without sessions where there is none, or it cannot be read
std::string to_json(const Machine&);

// The session that begins now, on a device of that name and description.
Session begin_session(const std::string& command, const std::string& device, const std::string& description);

// A word as a shell reads it.
std::string shell_word(const std::string& word);

}  // namespace elbo
