// A few training steps for a profiler, or as a trace.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "elbo/backend.h"

namespace elbo {

struct ProfileOptions {
  std::string spec;
  std::vector<std::string> overrides;  // --set
  std::string device = "auto";
  BackendOptions backend;
  std::string data;
  std::optional<double> warmup;  // seconds of steps before those; none: warmup_seconds()
  std::int64_t steps = 3;
  std::string trace;  // write a trace here, and the table of its events beside it, as .csv
};

// Trains for `warmup`, then `steps` between cudaProfilerStart and cudaProfilerStop, so that a profiler started with
// --profile-from-start off (ncu) or --capture-range=cudaProfilerApi (nsys) sees exactly those. With a trace they are
// written in the format of Chrome's and Perfetto's viewers, and as a table of which a summary is printed:
// - on a GPU, each kernel, copy and fill as the device ran it, from the recording or, without it, call by call and
//   under the ranges of the step;
// - on a CPU, and where CUPTI is missing or refuses, the ranges, timed call by call, every operation with the bytes and
//   products of its plan.
int profile(const ProfileOptions&);

}  // namespace elbo
