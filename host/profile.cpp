#include "host/profile.h"

#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "host/data/dataset.h"
#include "host/devices.h"
#include "host/files.h"
#include "host/plan.h"
#include "host/trainer.h"

namespace elbo {
namespace {

// Trace Event Format: complete events ("X"), microseconds.
nlohmann::ordered_json trace_events(const std::vector<Backend::RangeTime>& ranges,
                                    const std::vector<PlannedOperation>& plan) {
  std::map<std::string, const PlannedOperation*> planned;
  for (const PlannedOperation& o : plan) planned["train_step/" + o.name] = &o;
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  for (const Backend::RangeTime& r : ranges) {
    nlohmann::ordered_json event = {{"name", r.path.substr(r.path.rfind('/') + 1)},
                                    {"ph", "X"},
                                    {"ts", r.start},
                                    {"dur", r.microseconds},
                                    {"pid", 1},
                                    {"tid", 1}};
    event["args"]["path"] = r.path;
    if (const auto found = planned.find(r.path); found != planned.end()) {
      const PlannedOperation& o = *found->second;
      event["args"]["shapes"] = o.shapes;
      event["args"]["bytes"] = o.bytes;
      event["args"]["GB/s"] = r.microseconds > 0 ? 1e-3 * o.bytes / r.microseconds : 0;
      if (o.flops > 0) {
        event["args"]["flops"] = o.flops;
        event["args"]["GFLOP/s"] = r.microseconds > 0 ? 1e-3 * o.flops / r.microseconds : 0;
      }
    }
    events.push_back(std::move(event));
  }
  return events;
}

}  // namespace

int profile(const ProfileOptions& options) {
  const Spec spec = load_spec(options.spec, options.overrides);
  const Dataset data = load_dataset(spec.data, spec.seed, data_directories(options.data));
  BackendOptions backend_options = options.backend;
  backend_options.precision = spec.train.precision;
  if (!options.trace.empty()) backend_options.record = false;
  const OpenedDevice device = open_device(options.device, backend_options);
  Trainer trainer(*device.backend, spec, data.train);
  const auto warmup = static_cast<std::uint32_t>(options.warmup), steps = static_cast<std::uint32_t>(options.steps);
  trainer.run_until(warmup);
  trainer.check();

  device.backend->collect(true);
  if (!options.trace.empty()) device.backend->start_timing();
  trainer.run_until(warmup + steps);
  const std::vector<Backend::RangeTime> ranges =
      options.trace.empty() ? std::vector<Backend::RangeTime>() : device.backend->stop_timing();
  trainer.check();
  device.backend->collect(false);

  fmt::print("{}: {} steps after {} on {}\n", spec.name, steps, warmup, device.backend->info().description);
  if (!options.trace.empty()) {
    nlohmann::ordered_json trace;
    trace["traceEvents"] = trace_events(ranges, plan_step(spec, data.train));
    trace["displayTimeUnit"] = "ns";
    trace["otherData"] = {{"spec", spec.name}, {"device", device.backend->info().description}};
    replace_file(options.trace, trace.dump() + "\n");
    fmt::print("trace: {} (open it in ui.perfetto.dev or chrome://tracing)\n", options.trace);
  }
  return 0;
}

}  // namespace elbo
