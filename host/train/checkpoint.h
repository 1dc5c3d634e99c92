// A moment of a training run as a safetensors file, and the folder that keeps them.
//
// Tensors: every parameter by its PyTorch name; the optimiser's state as "optimizer.first.NAME" and
// "optimizer.second.NAME"; "epoch.sums", the running sums of the epoch under way. Metadata: the resolved spec, the
// step, and the figures below. Shuffling and noise are functions of (seed, step): there is nothing else to save.
#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "host/base/files.h"
#include "host/base/safetensors.h"
#include "host/train/trainer.h"

namespace elbo {

struct Progress {
  std::uint32_t step = 0;
  double seconds = 0;                                            // of training so far
  double best_bound = -std::numeric_limits<double>::infinity();  // Figures::bound() on the test set
  std::string images;                                            // what it is trained and tested on: describe_images()
};

TensorFile make_checkpoint(Trainer&, const Spec&, const Progress&);

// A moment of a training run that stays on the device until a file is wanted of it.
class Snapshot {
 public:
  explicit Snapshot(Trainer&);  // takes device memory, as much as the weights and the optimiser's state are

  // The state after the steps that are queued, at that progress. Copies on the device: waits for nothing.
  void take(const Progress&);
  TensorFile read(const Spec&) const;  // waits for all queued work

 private:
  Trainer& trainer_;
  Arena arena_;
  Tensor parameters_, first_, second_, sums_;
  Progress progress_;
};

// Puts a checkpoint's state into a trainer. `file` is the name for errors: a tensor that is missing, or has another
// shape than the network's, is an Error naming it.
Progress restore(Trainer&, const TensorFile&, const std::string& file);

// The weights alone, into a model.
void load_weights(Vae&, const TensorFile&, const std::string& file);

// The step and figures alone; the spec alone, as JSON.
Progress read_progress(const TensorFile&, const std::string& file);
std::string stored_spec(const TensorFile&, const std::string& file);

// SHA-256 of all weights, in the order of the model, as 64 hexadecimal digits.
std::string hash_weights(const Vae&);

// checkpoints/ of a run: last.safetensors; previous.safetensors, the one before it; best.safetensors, the best test
// ELBO among the epochs that `last` has behind it; epoch-N.safetensors. From the first on, there is a whole `last` at
// every moment. A process that is killed within write() may leave next-best.safetensors, which was to become `best`,
// and a checkpoint without some of its names. settle() gives these.
class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::string run) : folder_(std::move(run) + "/checkpoints") {}

  // What was `last` becomes `previous`, and what is now gets the other `names`, too. `best`, if not null, becomes that.
  void write(const TensorFile& last, const TensorFile* best, const std::vector<std::string>& names) const;
  // What was `last` is gone.
  void replace_last(const TensorFile&) const;
  // Makes sure that NAME.safetensors is whole and the state at `step`, if one of `others` is.
  void settle(const std::string& name, std::int64_t step, const std::vector<std::string>& others) const;
  // The end of settling.
  void remove_next_best() const;
  // Throws Error where that cannot be seen.
  bool has(const std::string& name) const;
  // "previous, best, epoch-4": those that are there.
  std::string names() const;
  // Reads and verifies; all numbers must be finite. The Error of one that is damaged or missing names another that is
  // whole, if there is one, as it is asked for on the command line: after `option`, such as "--resume".
  TensorFile read(const std::string& name, const std::string& option) const;
  std::string path(const std::string& name) const { return folder_ + "/" + name + ".safetensors"; }
  // The file that a user means by a name ("last") or a path.
  std::string file(const std::string& name) const;

 private:
  void link(const std::string& from, const std::string& to) const { replace_by_link(path(from), path(to)); }
  bool holds(const std::string& name, std::int64_t step) const;

  std::string folder_;
};

}  // namespace elbo
