// The loss kernels side by side: time, bytes, and error of every rival at several sizes.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "elbo/backend.h"
#include "host/lab/loss_case.h"

namespace elbo {

// What can be measured, and by whom: the names of loss_kinds; those of loss_rivals, and of the naive loop on a CPU.
std::vector<std::string> loss_names();
std::vector<std::string> rival_names();

// "100x784", or with more sizes, of which the first are the rows: "512x3x218x178". Throws Error.
LossShape parse_loss_shape(const std::string&);

struct BenchLossOptions {
  std::string device = "auto";
  BackendOptions backend;
  std::vector<std::string> shapes;             // empty: those of the device
  std::vector<std::int64_t> latents{20, 128};  // of `latent`; the first one also of `elbo`
  // What to measure, by names that there are; empty: all there is. The latent variable has no target and no output.
  std::vector<std::string> losses, rivals, targets, outputs;
  bool reference = true;         // also compute value and gradient in float64, and the errors against them
  std::optional<double> warmup;  // seconds before the timings of each rival; none: warmup_seconds()
  double seconds = 0.3;          // for each rival, and at least 30 timings (7 where they take more than 5 s)
  std::string json, page;        // also write the figures, a page of pictures, here
};

struct LossTiming {
  LossShape shape;
  std::string loss, rival, target, output;  // "bernoulli", "fused", "u8", "f32"; target and output may be "none"
  double median_us = 0, p10_us = 0, p90_us = 0;
  double bytes = 0;  // that the rival's contract moves
  int launches = 0;
  double scratch_bytes = 0;                // memory beside inputs and outputs
  double sm_clock_mhz = 0;                 // while that was timed; 0: unknown
  std::optional<LossCase::Errors> errors;  // against float64; none without a reference
};

struct LossBench {
  DeviceInfo device;
  double copy_bandwidth = 0;     // bytes a second, read and written
  double copy_sm_clock_mhz = 0;  // as LossTiming's
  std::vector<LossTiming> timings;
};

// Losses: loss_kinds. Rivals: loss_rivals, of which `latent` and `iwae` have two, and on the CPU the naive loop. The
// others' inputs rotate through more memory than a cache holds. Each timing is one call on a CPU and ten on a GPU.
// Throws Error where what is asked for leaves nothing to measure, or is more than a GPU's kernels can count.
LossBench measure_losses(const BenchLossOptions&);

// One page that opens offline: for every loss and size, bars against the copy bandwidth.
std::string loss_page(const LossBench&);

// Measures, prints the table, writes what is asked for.
int bench_loss(const BenchLossOptions&);

}  // namespace elbo
