// A run that is finished, or was interrupted: what eval, sample and report look at.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "host/base/devices.h"
#include "host/commands/command_line.h"
#include "host/data/dataset.h"
#include "host/model/vae.h"
#include "host/spec/spec.h"
#include "host/train/checkpoint.h"
#include "host/train/memory_needs.h"
#include "host/train/metrics.h"
#include "host/train/run_folder.h"

namespace elbo {

// Which run, which moment of it, on what.
struct RunQuery {
  std::string folder;
  std::string checkpoint = "last";  // or "best", "previous", "epoch-N", or a file
  std::string device = "auto";
  BackendOptions backend;
  std::string data;
};

void add_query(Options&, RunQuery&);

// What a command takes of memory beside the model: at one moment, at the next, and so on.
using MomentsOf = std::function<std::vector<Needs>(const MemoryNeeds&)>;

struct OpenedRun {
  // Throws Error where there is less memory than that. `option`: by which another checkpoint is asked for, should this
  // one be damaged. A note says so where the images are not those that the run was trained on.
  explicit OpenedRun(const RunQuery&, const MomentsOf&, const std::string& option = "--checkpoint");

  // Throws Error where the figures are not finite.
  Figures evaluate(const ImageSet&) const;
  // What the checkpoint has behind it.
  Behind behind() const;

  Spec spec;
  Dataset data;
  OpenedDevice device;
  std::unique_ptr<Vae> vae;
  std::string checkpoint;  // its path
  Progress progress;
  bool on_its_images = false;  // those that it was trained on
};

}  // namespace elbo
