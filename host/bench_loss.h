// The loss kernels side by side: time, bytes, and error of every rival at several sizes.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "elbo/backend.h"

namespace elbo {

struct LossShape {
  std::int64_t rows = 0, pixels = 0;  // of the logits; the target has as many
};

// "100x784", or with more sizes, of which the first are the rows: "512x3x218x178". Throws Error.
LossShape parse_loss_shape(const std::string&);

struct BenchLossOptions {
  std::string device = "auto";
  BackendOptions backend;
  std::vector<std::string> shapes;  // empty: those of the device
  double seconds = 1;               // for each rival, and at least 30 timings (7 where they take more than 5 s)
  std::string json, page;           // also write the figures, a page of pictures, here
};

// How a loss can be computed on a device, with the kernels that one call of it launches on a GPU.
struct LossRival {
  const char* name;
  Kernels kernels;
  int likelihood_launches;  // value and gradient
};
inline constexpr LossRival loss_rivals[] = {
    {"unfused", Kernels::unfused, 4},
    {"two_pass", Kernels::two_pass, 2},
    {"fused_log", Kernels::fused_log, 1},
    {"fused", Kernels::fused, 1},
};

struct LossTiming {
  LossShape shape;
  std::string loss, rival, target;  // "bernoulli", "fused", "u8"
  double median_us = 0, p10_us = 0, p90_us = 0;
  double bytes = 0;  // that the rival's contract moves
  int launches = 0;
  double scratch_bytes = 0;                    // memory beside inputs and outputs
  double value_error = 0, gradient_error = 0;  // against float64: of the sum, relative; of the gradient, by its largest
};

struct LossBench {
  DeviceInfo device;
  double copy_bandwidth = 0;  // bytes a second, read and written
  std::vector<LossTiming> timings;
};

// Rivals: unfused, two_pass, fused_log and fused (see Kernels), and on the CPU `naive`: one thread's loop over std::exp
// and std::log1p. The others' inputs rotate through more memory than a cache holds. Each timing is one call on a CPU
// and ten on a GPU.
LossBench measure_losses(const BenchLossOptions&);

// One page that opens offline: for every loss and size, bars against the copy bandwidth.
std::string loss_page(const LossBench&);

// Measures, prints the table, writes what is asked for.
int bench_loss(const BenchLossOptions&);

}  // namespace elbo
