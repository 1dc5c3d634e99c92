// Timings, beside a run of nothing else.
#pragma once
#include <cstdint>
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
  std::int64_t warmup = 50, steps = 500;
  std::string json;  // also write the figures here
};

// Times training steps of a spec, on its own data: median, 10th and 90th percentile in microseconds. On a GPU steps
// are timed in blocks of 40, since to wait after each would measure the waiting. Then every operation of the step, in
// steps that are issued call by call: its median, the rates that this makes of the plan's bytes and products
// (host/plan.h), and where the GPU is a known one, its floor.
int bench_step(const BenchOptions&);

// The q-quantile of sorted values, by the nearest rank.
double quantile(const std::vector<double>& sorted, double q);

}  // namespace elbo
