#include "host/lab/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "host/base/devices.h"
#include "host/base/timing.h"
#include "host/data/dataset.h"
#include "host/lab/plan.h"
#include "host/train/output.h"
#include "host/train/trainer.h"

namespace elbo {
namespace {

using Activity = Activity;
using RangeTime = RangeTime;

// The device, and whether it tells its activities. Where it does not, it must not record: a range has a time of its
// own only where its calls are issued one by one.
std::pair<OpenedDevice, bool> open_for_trace(const ProfileOptions& options, BackendOptions backend) {
  OpenedDevice device = open_device(options.device, backend);
  try {
    if (device.backend->watch_activities()) return {std::move(device), true};
  } catch (const Error& e) {
    fmt::print("no kernels in this trace, but ranges, issued call by call: {}\n", e.what());
  }
  if (backend.record) {
    backend.record = false;
    device.backend.reset();
    device = open_device(options.device, backend);
  }
  return {std::move(device), false};
}

// ---- The trace -------------------------------------------------------------------------------------------------

using Planned = std::map<std::string, PlannedOperation>;  // by the path of the operation's range

nlohmann::ordered_json complete_event(const std::string& name, double start, double microseconds, std::size_t track) {
  return {{"name", name}, {"ph", "X"}, {"ts", start}, {"dur", microseconds}, {"pid", 1}, {"tid", track}};
}

nlohmann::ordered_json name_event(const char* what, std::size_t track, const std::string& name) {
  return {{"name", what}, {"ph", "M"}, {"pid", 1}, {"tid", track}, {"args", {{"name", name}}}};
}

double per_microsecond(double amount, double microseconds) { return microseconds > 0 ? amount / microseconds : 0; }

nlohmann::ordered_json range_event(const RangeTime& r, const Planned& planned) {
  nlohmann::ordered_json event = complete_event(r.path.substr(r.path.rfind('/') + 1), r.start, r.microseconds, 1);
  event["args"]["path"] = r.path;
  if (const auto found = planned.find(r.path); found != planned.end()) {
    const PlannedOperation& o = found->second;
    event["args"]["shapes"] = o.shapes;
    event["args"]["bytes"] = o.bytes;
    event["args"]["GB/s"] = 1e-3 * per_microsecond(o.bytes, r.microseconds);
    if (o.flops > 0) {
      event["args"]["flops"] = o.flops;
      event["args"]["GFLOP/s"] = 1e-3 * per_microsecond(o.flops, r.microseconds);
    }
  }
  return event;
}

nlohmann::ordered_json activity_event(const Activity& a, std::size_t track) {
  nlohmann::ordered_json event = complete_event(a.name, a.start, a.microseconds, track);
  event["cat"] = a.kind;
  if (a.kind == "kernel") {
    event["args"] = {
        {"grid", a.grid}, {"block", a.block}, {"registers", a.registers}, {"shared bytes", a.shared_bytes}};
  } else {
    event["args"] = {{"bytes", a.bytes},
                     {"GB/s", 1e-3 * per_microsecond(static_cast<double>(a.bytes), a.microseconds)}};
  }
  if (a.graph_node) event["args"]["graph node"] = a.graph_node;
  return event;
}

// Trace Event Format: complete events ("X") in microseconds, and the names of their tracks ("M"). The ranges are track
// 1, and each stream is one.
nlohmann::ordered_json trace_events(const std::string& device, const std::vector<RangeTime>& ranges,
                                    const Planned& planned, const std::vector<Activity>& activities) {
  nlohmann::ordered_json events = {name_event("process_name", 0, device)};
  if (!ranges.empty()) events.push_back(name_event("thread_name", 1, "ranges"));
  for (const RangeTime& r : ranges) events.push_back(range_event(r, planned));
  std::map<std::string, std::size_t> tracks;
  for (const Activity& a : activities) {
    const auto [track, is_new] = tracks.emplace(a.stream, tracks.size() + 2);
    if (is_new) events.push_back(name_event("thread_name", track->second, "stream " + a.stream));
    events.push_back(activity_event(a, track->second));
  }
  return events;
}

// ---- The table ---------------------------------------------------------------------------------------------------

// The operations among the ranges, as if they were activities.
std::vector<Activity> operations(const std::vector<RangeTime>& ranges, const Planned& planned) {
  std::vector<Activity> all;
  for (const RangeTime& r : ranges) {
    if (!r.innermost) continue;
    Activity a{"range", r.path.substr(r.path.find('/') + 1), ""};
    a.start = r.start;
    a.microseconds = r.microseconds;
    if (const auto found = planned.find(r.path); found != planned.end())
      a.bytes = static_cast<std::int64_t>(found->second.bytes);
    all.push_back(std::move(a));
  }
  return all;
}

std::string csv(const std::vector<Activity>& activities) {
  const auto size = [](const std::array<std::int64_t, 3>& s) { return fmt::format("{}x{}x{}", s[0], s[1], s[2]); };
  std::string text = "start_us,duration_us,kind,name,stream,grid,block,registers,shared_bytes,bytes\n";
  for (const Activity& a : activities) {
    text += fmt::format("{:.3f},{:.3f},{},{},{},", a.start, a.microseconds, a.kind, a.name, a.stream);
    if (a.kind == "kernel") {
      text += fmt::format("{},{},{},{},\n", size(a.grid), size(a.block), a.registers, a.shared_bytes);
    } else {
      text += fmt::format(",,,,{}\n", a.bytes);
    }
  }
  return text;
}

// The time in which at least one of them was under way; they are in the order in which they began.
double busy_microseconds(const std::vector<Activity>& activities) {
  double busy = 0, over = 0;
  for (const Activity& a : activities) {
    const double end = a.start + a.microseconds;
    busy += std::max(0.0, end - std::max(a.start, over));
    over = std::max(over, end);
  }
  return busy;
}

void print_sums(const std::vector<Activity>& activities, std::uint32_t steps) {
  struct Sum {
    std::string name;
    std::vector<double> times;
    double total = 0;
  };
  std::map<std::string, Sum> by_name;
  double total = 0, end = 0;
  std::size_t widest = 30;
  for (const Activity& a : activities) {
    Sum& sum = by_name[a.name];
    sum.name = a.name;
    sum.times.push_back(a.microseconds);
    sum.total += a.microseconds;
    total += a.microseconds;
    end = std::max(end, a.start + a.microseconds);
    widest = std::max(widest, a.name.size());
  }
  std::vector<Sum> sums;
  for (auto& [name, sum] : by_name) sums.push_back(std::move(sum));
  std::ranges::stable_sort(sums, std::ranges::greater(), &Sum::total);

  const bool kernels = !activities.empty() && activities[0].kind != "range";
  fmt::print("\n{:<{}}{:>8}{:>12}{:>8}{:>12}\n", kernels ? "kernel, copy or fill" : "operation", widest, "count",
             "total us", "share", "median us");
  for (Sum& sum : sums) {
    std::ranges::sort(sum.times);
    fmt::print("{:<{}}{:>8}{:>12.1f}{:>7.1f}%{:>12.2f}\n", sum.name, widest, sum.times.size(), sum.total,
               100 * sum.total / total, quantile(sum.times, 0.5));
  }
  fmt::print("{:<{}}{:>8}{:>12.1f}\n", "sum", widest, activities.size(), total);
  fmt::print("{:.1f} us a step, {:.0f}% of it at work\n\n", end / steps, 100 * busy_microseconds(activities) / end);
}

void write_trace(const ProfileOptions& options, const std::string& table, const Spec& spec,
                 const std::vector<PlannedOperation>& plan, const std::string& device,
                 const std::vector<RangeTime>& ranges, const std::vector<Activity>& activities) {
  Planned planned;
  for (const PlannedOperation& o : plan) planned["train_step/" + o.name] = o;
  const std::vector<Activity> rows = activities.empty() ? operations(ranges, planned) : activities;
  print_sums(rows, static_cast<std::uint32_t>(options.steps));
  nlohmann::ordered_json trace;
  trace["traceEvents"] = trace_events(device, ranges, planned, activities);
  trace["displayTimeUnit"] = "ns";
  trace["otherData"] = {{"spec", spec.name}, {"device", device}};
  write_output(options.trace, trace_output, trace.dump() + "\n");
  write_output(table, table_output, csv(rows));
  fmt::print("trace: {} (open it in ui.perfetto.dev or chrome://tracing)\ntable: {}\n", options.trace, table);
}

}  // namespace

int profile(const ProfileOptions& options) {
  const bool tracing = !options.trace.empty();
  const std::string table = tracing ? std::filesystem::path(options.trace).replace_extension(".csv").string() : "";
  require(!tracing || table != options.trace, "--trace ", options.trace,
          ": that is where the table goes; name the trace .json");
  require_output(options.trace, trace_output, {options.spec});
  require_output(table, table_output, {options.spec});

  const Spec spec = load_spec(options.spec, options.overrides);
  const Dataset data = load_dataset(spec, data_directories(options.data));
  BackendOptions backend_options = options.backend;
  backend_options.precision = spec.train.precision;
  auto [opened, watched] = tracing ? open_for_trace(options, backend_options)
                                   : std::pair(open_device(options.device, backend_options), false);
  Backend& device = *opened.backend;
  Trainer trainer(device, spec, data.train);
  const auto steps = static_cast<std::uint32_t>(options.steps);
  warm_up(warmup_seconds(options.warmup, device.info()), [&] {
    trainer.run_until(trainer.step() + 20);
    trainer.check();
  });
  const std::uint32_t warmup = trainer.step();

  const bool ranges_too = tracing && !device.options().record;
  device.take_activities();  // the warm-up's are not wanted
  device.collect(true);
  if (ranges_too) device.start_timing();
  trainer.run_until(warmup + steps);
  const std::vector<RangeTime> ranges = ranges_too ? device.stop_timing() : std::vector<RangeTime>();
  trainer.check();
  device.collect(false);
  const std::vector<Activity> activities = device.take_activities();
  require(!watched || !activities.empty(), "the device told of no kernel in these steps");

  fmt::print("{}: {} steps after {} on {}\n", spec.name, steps, warmup, device.info().description);
  if (tracing)
    write_trace(options, table, spec, plan_of(trainer.program().calls()), device.info().description, ranges,
                activities);
  return 0;
}

}  // namespace elbo
