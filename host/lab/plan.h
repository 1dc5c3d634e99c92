// A training step as a table: what each operation reads, writes and computes, and the time that a given GPU takes for
// that at its peak rates.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "host/data/dataset.h"
#include "host/graph/graph.h"
#include "host/spec/spec.h"

namespace elbo {

// A call of a step: each of its inputs is read once and each output written once.
struct PlannedOperation {
  std::string name;    // the path of its profiling range within the step: "encode/dense0/dense_forward"
  std::string shapes;  // "[100, 784] x [784, 500]"
  double bytes = 0;    // read and written
  double flops = 0;    // of matrix products; everything else is bound by its bytes
};

std::vector<PlannedOperation> plan_of(const std::vector<Graph::Call>&);
// Of a training step on images like these, of which no pixels are wanted. It takes no memory for the network, and
// computes nothing.
std::vector<PlannedOperation> plan_step(const Spec&, const ImageSet&);
// Bytes that the step takes on a device; the images come on top.
struct StepMemory {
  std::uint64_t activations = 0, weights = 0, gradients = 0, optimizer = 0;
};
StepMemory memory_of_step(const Spec&, const ImageSet&);

// Peak rates: bytes a second, and FLOP a second of dense matrix products.
struct Gpu {
  std::string name;
  double bandwidth = 0, fp32 = 0, tf32 = 0, bf16 = 0;

  double rate(Precision) const;
};

// By a name of known_gpus(), in any case; throws Error listing them.
Gpu find_gpu(const std::string& name);
const std::vector<Gpu>& known_gpus();
// The one whose name is in a device's description.
std::optional<Gpu> gpu_in(const std::string& description);

// Microseconds that an operation takes at the GPU's peak rates: its bytes at the memory's bandwidth or its products,
// whichever is longer. What is still in the L2 cache can be read faster.
double floor_us(const PlannedOperation&, const Gpu&, Precision);
// Of all of them, one after the other.
double floor_us(const std::vector<PlannedOperation>&, const Gpu&, Precision);

struct PlanOptions {
  std::string spec;
  std::vector<std::string> overrides;  // --set
  std::string data;                    // --data
  std::string gpu = "h100";
  double bandwidth = 0, tflops = 0;  // --bandwidth (GB/s) and --tflops, instead of the GPU's; 0: the GPU's
  std::string json;                  // also write the table here
};

int print_plan(const PlanOptions&);

}  // namespace elbo
