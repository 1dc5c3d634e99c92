#include "host/lab/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <utility>

#include "host/base/devices.h"
#include "host/base/timing.h"
#include "host/base/tuning_file.h"
#include "host/data/dataset.h"
#include "host/lab/plan.h"
#include "host/lab/tuning.h"
#include "host/spec/spec.h"
#include "host/train/output.h"
#include "host/train/trainer.h"

namespace elbo {
namespace {

struct OperationTime {
  PlannedOperation planned;
  double median_us = 0;
};

// Times the operations of `steps` steps. A device that records measures a recording, so this needs one that does not.
std::vector<OperationTime> time_operations(const BenchOptions& options, const BackendOptions& backend, const Spec& spec,
                                           const ImageSet& images, std::int64_t steps) {
  std::vector<OperationTime> operations;
  BackendOptions call_by_call = backend;
  call_by_call.record = false;
  const OpenedDevice device = open_device(options.device, call_by_call);
  Trainer trainer(*device.backend, spec, images);
  for (PlannedOperation& o : plan_of(trainer.program().calls())) operations.push_back({std::move(o)});
  trainer.run_until(5);
  warm_up(warmup_seconds(options.warmup, device.backend->info()), [&] {
    trainer.run_until(trainer.step() + 5);
    trainer.check();
  });
  std::vector<std::vector<double>> times(operations.size());
  for (std::int64_t i = 0; i < steps; ++i) {
    device.backend->start_timing();
    trainer.run_until(trainer.step() + 1);
    std::vector<RangeTime> ranges = device.backend->stop_timing();
    std::erase_if(ranges, [](const RangeTime& r) { return !r.innermost; });
    require(ranges.size() == operations.size(), "the step has ", ranges.size(), " operations, its plan ",
            operations.size());
    for (std::size_t k = 0; k < ranges.size(); ++k) {
      require(ranges[k].path == "train_step/" + operations[k].planned.name, "the plan's ", operations[k].planned.name,
              " is the step's ", ranges[k].path);
      times[k].push_back(ranges[k].microseconds);
    }
  }
  for (std::size_t k = 0; k < times.size(); ++k) {
    std::ranges::sort(times[k]);
    operations[k].median_us = quantile(times[k], 0.5);
  }
  return operations;
}

void print_operations(const std::vector<OperationTime>& operations, const std::optional<Gpu>& gpu,
                      Precision precision) {
  double total = 0;
  for (const OperationTime& o : operations) total += o.median_us;
  fmt::print("\n{:<42}{:>10}{:>7}{:>9}{:>10}", "operation, issued by itself", "median us", "share", "GB/s", "GFLOP/s");
  if (gpu) fmt::print("{:>11}{:>8}", "floor us", "times");
  fmt::print("\n");
  for (const OperationTime& o : operations) {
    const double seconds = 1e-6 * o.median_us;
    fmt::print("{:<42}{:>10.1f}{:>6.1f}%{:>9.1f}{:>10}", o.planned.name, o.median_us, 100 * o.median_us / total,
               1e-9 * o.planned.bytes / seconds,
               o.planned.flops > 0 ? fmt::format("{:.1f}", 1e-9 * o.planned.flops / seconds) : "");
    if (gpu) {
      const double floor = floor_us(o.planned, *gpu, precision);
      fmt::print("{:>11.2f}{:>8.1f}", floor, o.median_us / floor);
    }
    fmt::print("\n");
  }
  fmt::print("{:<42}{:>10.1f}\n", "sum", total);
}

struct StepTimes {
  std::vector<double> microseconds;  // of a step, sorted
  double mean() const {
    return std::accumulate(microseconds.begin(), microseconds.end(), 0.0) / static_cast<double>(microseconds.size());
  }
  double sm_clock_mhz = 0;
};

// Times blocks of `block` steps, at least `timings` of them.
StepTimes time_steps(Backend& device, Trainer& trainer, const BenchOptions& options, std::uint32_t block,
                     std::size_t timings) {
  std::uint32_t step = 0;
  const auto take = [&] {
    trainer.run_until(step += block);
    trainer.check();
  };
  warm_up(warmup_seconds(options.warmup, device.info()), take);
  ClockRate clock(device);
  StepTimes times;
  while (static_cast<std::int64_t>(times.microseconds.size()) * block < options.steps ||
         times.microseconds.size() < timings) {
    const Clock::time_point begin = Clock::now();
    take();
    times.microseconds.push_back(1e6 * seconds_since(begin) / block);
    clock.sample([&] { trainer.run_until(step += block); });
  }
  std::ranges::sort(times.microseconds);
  times.sm_clock_mhz = clock.mhz();
  return times;
}

}  // namespace

int bench_step(const BenchOptions& options) {
  require_output(options.json, step_output, {options.spec});
  const Spec spec = load_spec(options.spec, options.overrides);
  const Dataset data = load_dataset(spec, data_directories(options.data));
  BackendOptions backend_options = options.backend;
  backend_options.precision = spec.train.precision;
  const OpenedDevice device = open_device(options.device, backend_options);
  const DeviceInfo info = device.backend->info();
  const bool on_gpu = info.launches && !info.simulated;
  StepTimes times;
  nlohmann::ordered_json j = {{"spec", spec.name},
                              {"batch_size", spec.train.batch_size},
                              {"kernels", nlohmann::json::parse(to_json(spec))["objective"]["kernels"]}};
  std::string graph;
  std::vector<ProductChoice> products;
  std::uint32_t block = 1;
  {
    Trainer trainer(*device.backend, spec, data.train);
    // A stream of batches runs dry at the end of a block: the more steps it has, the less that counts.
    if (on_gpu) block = trainer.images_on_device() ? 40 : 200;
    j["residency"] = trainer.images_on_device() ? "device" : "stream";
    times = time_steps(*device.backend, trainer, options, block, on_gpu ? 30 : 1);
    products = device.backend->products();
    j["products"] = to_json(products);
    j["graph_nodes"] = trainer.graph_nodes();
    j["dependent_launches"] = trainer.dependent_launches();
    if (trainer.graph_nodes() > 0)
      graph = fmt::format("{} nodes in the graph of a step, {} of them one after another\n", trainer.graph_nodes(),
                          trainer.dependent_launches());
  }
  const std::vector<double>& microseconds = times.microseconds;
  const double median = quantile(microseconds, 0.5), p10 = quantile(microseconds, 0.1),
               p90 = quantile(microseconds, 0.9);
  fmt::print("{}: a training step of {} images on {}\n", spec.name, spec.train.batch_size, info.description);
  fmt::print(
      "median {:.1f} us   p10 {:.1f}   p90 {:.1f}   mean {:.1f}   ({} timings of {} steps{})   {:.0f} images/s\n",
      median, p10, p90, times.mean(), microseconds.size(), block,
      times.sm_clock_mhz > 0 ? fmt::format(" at {:.0f} MHz", times.sm_clock_mhz) : "",
      1e6 * static_cast<double>(spec.train.batch_size) / median);
  fmt::print("{}", graph);
  print_products(products);
  note_unused_tuning(*device.backend, options.backend.tuning);
  j.update({{"device", info.name},
            {"device_description", info.description},
            {"threads", info.threads},
            {"median_us", median},
            {"p10_us", p10},
            {"p90_us", p90},
            {"mean_us", times.mean()},
            {"timings", microseconds.size()},
            {"steps_per_timing", block}});
  if (times.sm_clock_mhz > 0) j["sm_clock_mhz"] = times.sm_clock_mhz;
  const auto write = [&] { write_output(options.json, step_output, j.dump(2) + "\n"); };
  write();  // an error in what follows leaves the step's time
  if (!options.operations) return 0;

  const std::optional<Gpu> gpu = gpu_in(info.description);
  const std::vector<OperationTime> operations =
      time_operations(options, backend_options, spec, data.train, std::min<std::int64_t>(options.steps, 100));
  print_operations(operations, gpu, spec.train.precision);
  for (const OperationTime& o : operations) {
    j["operations"].push_back({{"name", o.planned.name},
                               {"shapes", o.planned.shapes},
                               {"median_us", o.median_us},
                               {"bytes", o.planned.bytes},
                               {"flops", o.planned.flops}});
    if (gpu) j["operations"].back()["floor_us"] = floor_us(o.planned, *gpu, spec.train.precision);
  }
  write();
  return 0;
}

}  // namespace elbo
