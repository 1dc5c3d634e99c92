#include "host/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "host/data/dataset.h"
#include "host/devices.h"
#include "host/files.h"
#include "host/spec.h"
#include "host/trainer.h"

namespace elbo {
namespace {

// The q-quantile of sorted values, by the nearest rank.
double quantile(const std::vector<double>& sorted, double q) {
  const auto rank = static_cast<std::size_t>(std::lround(q * static_cast<double>(sorted.size() - 1)));
  return sorted[rank];
}

}  // namespace

int bench_step(const BenchOptions& options) {
  const Spec spec = load_spec(options.spec, options.overrides);
  require(options.steps > 0 && options.warmup >= 0, "--steps should be positive and --warmup not negative");
  const Dataset data = load_dataset(spec.data, spec.seed, data_directories(options.data));
  BackendOptions backend_options = options.backend;
  backend_options.precision = spec.train.precision;
  const OpenedDevice device = open_device(options.device, backend_options);
  const DeviceInfo info = device.backend->info();
  Trainer trainer(*device.backend, spec, data.train);

  const std::uint32_t block = info.name == "cpu" ? 1 : 10;
  auto step = static_cast<std::uint32_t>(options.warmup);
  trainer.run_until(step);
  trainer.check();
  std::vector<double> microseconds;
  while (static_cast<std::int64_t>(microseconds.size()) * block < options.steps) {
    const auto begin = std::chrono::steady_clock::now();
    trainer.run_until(step += block);
    trainer.check();
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - begin;
    microseconds.push_back(time.count() / block);
  }
  std::ranges::sort(microseconds);

  const double median = quantile(microseconds, 0.5), p10 = quantile(microseconds, 0.1),
               p90 = quantile(microseconds, 0.9);
  fmt::print("{}: a training step of {} images on {}\n", spec.name, spec.train.batch_size, info.description);
  fmt::print("median {:.1f} us   p10 {:.1f}   p90 {:.1f}   ({} timings of {} steps)   {:.0f} images/s\n", median, p10,
             p90, microseconds.size(), block, 1e6 * static_cast<double>(spec.train.batch_size) / median);
  if (!options.json.empty()) {
    const nlohmann::ordered_json j = {{"spec", spec.name},
                                      {"batch_size", spec.train.batch_size},
                                      {"device", info.name},
                                      {"device_description", info.description},
                                      {"threads", info.threads},
                                      {"median_us", median},
                                      {"p10_us", p10},
                                      {"p90_us", p90},
                                      {"timings", microseconds.size()},
                                      {"steps_per_timing", block}};
    replace_file(options.json, j.dump(2) + "\n");
  }
  return 0;
}

}  // namespace elbo
