// The folder of a run, and who may write into it.
//
//   spec.json  machine.json  tuning.json  metrics.jsonl  checkpoints/*.safetensors  figures/*.png  report.html
//
// spec.json comes first: a folder without it is not that of a run. A file of another name is somebody else's, unless it
// is a temporary one on its way to one of these names. It is never removed and never replaced.
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

// Makes the first of runs/NAME, runs/NAME-2, ... that is not there yet. Two processes at once get one each.
std::string make_default_folder(const std::string& name);
// The newest of these that holds a run of this experiment. Where none does, the newest; where there is none, runs/NAME.
std::string find_default_folder(const Spec&);

// Throws Error naming the first field in which a stored spec, of the file `where`, is of another experiment. A run that
// is resumed may differ in what its weights do not depend on: train.epochs, train.checkpoint_*, data.residency.
void check_same_experiment(const Spec&, const std::string& stored_json, const std::string& where);

// Throws Error naming the first field of the model or the objective in which they differ. What else does (images, the
// optimiser) may be looked at with other weights, too.
void check_same_model(const Spec&, const std::string& stored_json, const std::string& where);

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

// Removes what a killed process had begun to write. Call it under the folder's lock: a file that is being written has a
// lock of its own, but the second name of a checkpoint has none.
void remove_leftovers(const std::string& folder);

// Whether a file at that path is a run's, or would be: it has one of the names above in the folder of a run that has
// begun. Links are followed.
bool belongs_to_run(const std::string& path);

// What a checkpoint says of the epochs before it.
struct Behind {
  std::int64_t step = 0, steps_per_epoch = 1;
  double best_bound = 0;  // on the test set; -infinity where there is no epoch
};

// The epochs of metrics.jsonl that a checkpoint has behind it, each once and in order.
//
// What follows them is dropped, readable or not: a run that was killed, or a power cut, may have left anything there.
// The first epochs, or all, may be missing, as where a run goes on from a checkpoint of another folder; a note says so.
// Throws Error where another is missing, stands there twice or out of order, or where its figures are not the
// checkpoint's. The Error names the line, what is wrong with it and what to do.
std::vector<EpochMetrics> read_history(const std::string& folder, const Behind&);
// Whether there is anything in metrics.jsonl.
bool has_history(const std::string& folder);

// machine.json: where a run was made, and by which command, each time that it was begun or resumed.
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
