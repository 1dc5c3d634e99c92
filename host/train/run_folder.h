// The folder of a run, and who may write into it.
//
//   spec.json  machine.json  tuning.json  metrics.jsonl  checkpoints/*.safetensors  figures/*.png  report.html
//
// spec.json comes first: a folder without it is not that of a run. Beside these names, and the temporary files that are
// to get them, all is somebody else's: never removed, never replaced.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "host/base/files.h"
#include "host/spec/spec.h"
#include "host/train/metrics.h"

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

// Throws Error where a run of that spec may not go into the folder: without `resume`, where anything is there; with it,
// where something else is there than a run that it may continue. Where one is, the folder has a spec.json.
void check_run_folder(const std::string& folder, bool resume, const Spec&);

// Held for as long as a process trains in a folder, so that two never write the same run.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);

 private:
  Descriptor folder_;
};

// Removes what a process that was killed had begun to write. Call it under the folder's lock: what is being written is
// told by a lock of its own, but the second names of checkpoints are not.
void remove_leftovers(const std::string& folder);

// Whether a file of that name would be one of a run's: it is one of the names above in the folder of a run that has
// begun. The folder's links are followed.
bool belongs_to_run(const std::string& path);

// What a checkpoint says of the epochs that are behind it.
struct Behind {
  std::int64_t step = 0, steps_per_epoch = 1;
  double best_elbo = 0;  // on the test set; -infinity where there is no epoch
};

// The epochs of metrics.jsonl that a checkpoint has behind it, each there once, in order. What follows them is dropped,
// readable or not: a run that was killed, or a power cut, may leave anything in what no checkpoint has behind it. The
// first ones, or all, may be missing, as where a run goes on from a checkpoint of another folder; a note says so.
// Throws Error naming the line, what is wrong with it, and what to do, where one is missing, twice there, not in its
// place, or of other figures than the checkpoint's.
std::vector<EpochMetrics> read_history(const std::string& folder, const Behind&);
// Whether there is anything in metrics.jsonl.
bool has_history(const std::string& folder);

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

}  // namespace elbo
