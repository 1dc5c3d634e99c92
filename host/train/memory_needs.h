// What a run, or a look at one, takes of memory: known from a spec, the sizes of the images and a device, before any of
// it is taken.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "elbo/backend.h"
#include "host/data/dataset.h"
#include "host/model/vae.h"
#include "host/spec/spec.h"
#include "host/train/optimizer.h"

namespace elbo {

enum class MemorySide : std::uint8_t { device, host };

struct Need {
  std::string what;
  std::uint64_t bytes = 0;
  MemorySide side = MemorySide::device;
  std::string less{};  // "fewer model.*.units need less"; empty where nothing would help
};
// What is there at the same time.
using Needs = std::vector<Need>;

Needs operator+(Needs, const Needs&);

class MemoryNeeds {
 public:
  // `sizes`: of the images; no pixels are wanted. All three must outlive it.
  MemoryNeeds(const Spec&, const Dataset& sizes, const DeviceInfo&);

  const Spec& spec() const { return spec_; }
  const Dataset& data() const { return data_; }
  const Vae& vae() const { return vae_; }  // without memory

  // What all commands that have a model take: the program, the images on the host, the weights.
  Needs model() const;
  // One checkpoint that has been read, and is on its way to the device.
  Needs checkpoint() const;
  // The parts of TrainingRun: a step and its images, an evaluation, the best state, checkpoints on their way to the
  // disk.
  Needs optimizer() const;
  Needs step() const;
  Needs evaluation(const ImageSet&) const;
  Needs best_state() const;
  Needs checkpoints() const;
  // n images, or latent vectors, sent through the model: Vae::encode() and decode().
  Needs mapping(std::int64_t n) const;

 private:
  std::uint64_t weight_bytes() const { return static_cast<std::uint64_t>(vae_.parameters.count()) * sizeof(float); }

  const Spec& spec_;
  const Dataset& data_;
  const DeviceInfo& device_;
  Vae vae_;
  Optimizer optimizer_;
};

// Throws Error where the needs are more than this process may still take of the host's memory, or than the device has
// left: with both sums, the three largest needs, and what would need less. `what`: has these needs, "a run of
// mnist-2d". A device that is no GPU has its memory from the host.
void require_memory(const Needs&, const DeviceInfo&, const std::string& what);

}  // namespace elbo
