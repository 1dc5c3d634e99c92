// Timings, beside a run of nothing else.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "elbo/backend.h"

namespace elbo {

struct BenchOptions {
  std::string spec;                    // path of the spec
  std::vector<std::string> overrides;  // --set
  std::string device = "auto";
  BackendOptions backend;
  std::string data;
  std::optional<double> warmup;  // seconds of steps before those that are timed; none: warmup_seconds()
  std::int64_t steps = 500;
  bool operations = true;  // time those, too
  std::string json;        // also write the figures here
};

// Times training steps of a spec, on its own data: median, 10th and 90th percentile in microseconds. On a GPU steps
// are timed in blocks of 40, since to wait after each would measure the waiting; in blocks of 200 where the
// images are streamed, and then with what the host does for a batch. Then every operation of the step, in steps that
// are issued call by call: its median, the rates that this makes of the plan's bytes and products (host/lab/plan.h),
// and where the GPU is a known one, its floor. The file is there before the operations are timed, and once more with
// them.
int bench_step(const BenchOptions&);

}  // namespace elbo
