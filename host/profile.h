// A few training steps for a profiler, or as a trace.
#pragma once
#include <cstdint>
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
  std::int64_t warmup = 20, steps = 3;
  std::string trace;  // write a trace here
};

// Trains `warmup` steps, then `steps` between cudaProfilerStart and cudaProfilerStop, so that a profiler started with
// --profile-from-start off (ncu) or --capture-range=cudaProfilerApi (nsys) sees exactly those. With a trace the steps
// are issued call by call, timed by the device, and written in the format of Chrome's and Perfetto's viewers: the
// ranges of each step, every operation with the bytes and products of its plan.
int profile(const ProfileOptions&);

}  // namespace elbo
