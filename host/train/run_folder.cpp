#include "host/train/run_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "elbo/error.h"
#include "host/base/devices.h"
#include "host/base/files.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* blank = " \t\r\n";

// The fields of a session, by their names in machine.json.
constexpr std::array<std::pair<const char*, std::string Session::*>, 6> session_fields{
    {{"version", &Session::version},
     {"date", &Session::date},
     {"command", &Session::command},
     {"device", &Session::device},
     {"device_description", &Session::device_description},
     {"machine", &Session::machine}}};

std::string default_folder(const std::string& name, int i) {
  return i == 1 ? "runs/" + name : fmt::format("runs/{}-{}", name, i);
}

// Whether a run gives a file this name. `folder`: empty, or that within the run's.
bool is_name_of_run(const std::string& folder, const fs::path& name) {
  if (folder == "checkpoints") return name.extension() == ".safetensors";
  if (folder == "figures") return name.extension() == ".png";
  constexpr std::array names = {"spec.json", "machine.json", "tuning.json", "metrics.jsonl", "report.html"};
  return folder.empty() && std::ranges::find(names, name.string()) != names.end();
}

// What a killed process had begun to write.
bool is_leftover(const std::string& folder, const fs::directory_entry& entry) {
  return fs::is_regular_file(entry.symlink_status()) &&
         is_name_of_run(folder, name_in_temporary(entry.path().filename().string()));
}

// Whether more than the first file of a run is there.
bool has_begun(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / "spec.json", error) &&
         (fs::exists(folder / "metrics.jsonl", error) || fs::exists(folder / "checkpoints", error));
}

// A spec.json alone, which a person may have written, is a run's where it is as a run writes it.
bool is_written_by_run(const std::string& spec) {
  const std::string text = read_text(spec);
  return to_json(parse_spec(text, spec)) == text;
}

bool is_of_same_experiment(const Spec& spec, const std::string& folder) {
  try {
    check_same_experiment(spec, read_text(spec_path(folder)), spec_path(folder));
    return true;
  } catch (const Error&) {
    return false;
  }
}

// "model.latent was 2, now it is 3" in words of the caller's, of the first field in which they differ; empty where they
// are the same.
std::string difference(const Spec& before, const char* was, const Spec& after, const char* is) {
  const auto then = ordered_json::parse(to_json(before)).flatten(), now = ordered_json::parse(to_json(after)).flatten();
  const auto value = [](const ordered_json& of, const std::string& field) {
    return of.contains(field) ? of[field].dump() : std::string("absent");
  };
  for (const auto* side : {&then, &now}) {
    for (const auto& [field, unused] : side->items()) {
      if (value(now, field) == value(then, field)) continue;
      std::string path = field.substr(1);
      std::ranges::replace(path, '/', '.');
      return cat(path, was, value(then, field), is, value(now, field));
    }
  }
  return "";
}

}  // namespace

std::string spec_path(const std::string& folder) { return folder + "/spec.json"; }
std::string metrics_path(const std::string& folder) { return folder + "/metrics.jsonl"; }
std::string machine_path(const std::string& folder) { return folder + "/machine.json"; }

std::string make_default_folder(const std::string& name) {
  std::error_code error;
  fs::create_directories("runs", error);
  for (int i = 1; !error; ++i) {
    std::string folder = default_folder(name, i);
    if (fs::create_directory(folder, error)) return folder;
    if (fs::exists(folder)) error.clear();
  }
  fail("runs/", name, ": cannot be made: ", error.message());
}

std::string find_default_folder(const Spec& spec) {
  int count = 0;
  while (fs::exists(default_folder(spec.name, count + 1))) ++count;
  for (int i = count; i >= 1; --i)
    if (std::string folder = default_folder(spec.name, i); is_of_same_experiment(spec, folder)) return folder;
  return default_folder(spec.name, std::max(count, 1));
}

void check_same_experiment(const Spec& spec, const std::string& stored_json, const std::string& where) {
  Spec stored = parse_spec(stored_json, where);
  stored.train.epochs = spec.train.epochs;
  stored.train.checkpoint_epochs = spec.train.checkpoint_epochs;
  stored.train.checkpoint_steps = spec.train.checkpoint_steps;
  stored.data.residency = spec.data.residency;
  if (const std::string change = difference(stored, " was ", spec, ", now it is "); !change.empty())
    fail(where, ": this run was started with another spec: ", change,
         "; only train.epochs, train.checkpoint_* and data.residency may change when a run is resumed ",
         "(another run is named by --out)");
}

void check_same_model(const Spec& spec, const std::string& stored_json, const std::string& where) {
  Spec trained = spec;
  const Spec stored = parse_spec(stored_json, where);
  trained.model = stored.model;
  trained.objective = stored.objective;
  if (const std::string change = difference(trained, " is ", spec, ", and in the run's spec.json "); !change.empty())
    fail(where, ": its weights are of another model or objective: ", change);
}

void check_run_folder(const std::string& folder, bool resume, const Spec& spec) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found) return;
  require(!error, folder, ": ", error.message());
  require(fs::is_directory(status), folder, ": is not a folder");
  const bool empty =
      std::ranges::all_of(fs::directory_iterator(folder), [](const auto& entry) { return is_leftover("", entry); });
  require(resume || empty, folder,
          ": the output folder exists; choose another with --out, or continue that run with --resume");
  const bool started = fs::exists(spec_path(folder));
  require(started || empty, folder, ": is not the folder of a run: it has no spec.json");
  if (!started) return;
  check_same_experiment(spec, read_text(spec_path(folder)), spec_path(folder));
  require(has_begun(folder) || is_written_by_run(spec_path(folder)), folder,
          ": is not the folder of a run: nothing is beside its spec.json, and no run wrote that; choose another with "
          "--out");
}

FolderLock::FolderLock(const std::string& folder)
    : folder_(check_call(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), folder, "cannot be opened")) {
  switch (lock(folder_.get(), IfTaken::leave)) {
    case Locking::done: return;
    case Locking::taken_by_another: fail(folder, ": another process is training here");
    case Locking::impossible: fail_call(errno, folder, "cannot be locked");
  }
}

void remove_leftovers(const std::string& folder) {
  for (const char* part : {"", "checkpoints", "figures"}) {
    const std::string path = *part ? folder + "/" + part : folder;
    std::vector<fs::path> leftovers;
    std::error_code error;
    const fs::directory_iterator entries(path, error);
    if (error == std::errc::no_such_file_or_directory) continue;
    require(!error, path, ": cannot be read: ", error.message());
    for (const fs::directory_entry& entry : entries)
      if (is_leftover(part, entry)) leftovers.push_back(entry.path());
    for (const fs::path& leftover : leftovers) remove_leftover(leftover);
  }
}

bool belongs_to_run(const std::string& path) {
  const fs::path place = place_of(path), folder = place.parent_path();
  const std::string part = folder.filename();
  return (is_name_of_run("", place.filename()) && has_begun(folder)) ||
         (is_name_of_run(part, place.filename()) && has_begun(folder.parent_path()));
}

bool has_history(const std::string& folder) {
  return fs::exists(metrics_path(folder)) &&
         read_text(metrics_path(folder)).find_first_not_of(blank) != std::string::npos;
}

std::vector<EpochMetrics> read_history(const std::string& folder, const Behind& checkpoint) {
  const std::string path = metrics_path(folder), text = fs::exists(path) ? read_text(path) : "";
  const std::int64_t last = checkpoint.step / checkpoint.steps_per_epoch;
  std::vector<EpochMetrics> epochs;
  std::size_t line = 0;
  const auto refuse = [&](const auto&... what) {
    fail(path, ":", line, ": ", what..., "; epochs 1 to ", last, " were expected, those of the checkpoint of step ",
         checkpoint.step,
         ". An earlier checkpoint may go with what is there; with this file moved away, all goes on without it");
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string record = text.substr(at, end - at);
    at = end + 1;
    ++line;
    if (record.find_first_not_of(blank) == std::string::npos) continue;
    const bool complete = (epochs.empty() ? 0 : epochs.back().epoch) == last;
    EpochMetrics m;
    try {
      m = parse_metrics(record);
    } catch (const Error& e) {
      if (!complete) refuse(e.what());
      continue;
    }
    if (m.epoch > last && (complete || epochs.empty())) continue;
    if (!epochs.empty() && m.epoch != epochs.back().epoch + 1)
      refuse("epoch ", m.epoch, " follows on epoch ", epochs.back().epoch);
    if (m.epoch < 1 || m.step != m.epoch * checkpoint.steps_per_epoch)
      refuse("epoch ", m.epoch, " ends with step ", m.step, ", but an epoch has ", checkpoint.steps_per_epoch);
    if (!epochs.empty()) {
      const Figures &now = m.test, &before = epochs.back().test;
      if (now.judge().name != before.judge().name)
        refuse("epoch ", m.epoch, " has test.", now.judge().name, " to judge it by, epoch ", m.epoch - 1, " test.",
               before.judge().name);
      if (now.unit_kl.size() != before.unit_kl.size())
        refuse("test.unit_kl of ", now.unit_kl.size(), " latent units behind an epoch of ", before.unit_kl.size());
    }
    epochs.push_back(std::move(m));
  }
  if (!epochs.empty() && epochs.back().epoch < last) refuse("the last is epoch ", epochs.back().epoch);

  NamedFigure best = epochs.empty() ? Figures().judge() : epochs.back().test.judge();
  best.value = -std::numeric_limits<double>::infinity();
  for (const EpochMetrics& m : epochs) best.value = std::max(best.value, m.test.bound());
  const std::int64_t missing = epochs.empty() ? last : epochs.front().epoch - 1;
  if (best.value > checkpoint.best_bound || (missing == 0 && best.value != checkpoint.best_bound))
    refuse("the best test.", best.name, " up to here is ", fmt::format("{}", best.value), ", but ",
           fmt::format("{}", checkpoint.best_bound), " by the checkpoint");
  if (missing > 0)
    std::fprintf(stderr, "note: %s: the figures of epoch%s are not there\n", path.c_str(),
                 missing == 1 ? " 1" : fmt::format("s 1 to {}", missing).c_str());
  return epochs;
}

Machine read_machine(const std::string& folder) {
  Machine machine;
  if (!fs::exists(machine_path(folder))) return machine;
  const auto json = ordered_json::parse(read_text(machine_path(folder)), nullptr, false);
  const auto add = [&](const ordered_json& from) {
    Session session;
    for (const auto& [name, field] : session_fields)
      if (from.is_object() && from.contains(name) && from[name].is_string()) session.*field = from[name];
    if (from.is_object() && from.contains("products") && from["products"].is_array())
      session.products = from["products"].dump();
    if (!session.version.empty()) machine.sessions.push_back(std::move(session));
  };
  if (json.is_object() && json.contains("earlier") && json["earlier"].is_array())
    for (const ordered_json& earlier : json["earlier"]) add(earlier);
  add(json);
  return machine;
}

std::string to_json(const Machine& machine) {
  ordered_json json, earlier = ordered_json::array();
  for (std::size_t i = 0; i < machine.sessions.size(); ++i) {
    ordered_json session;
    for (const auto& [name, field] : session_fields) session[name] = machine.sessions[i].*field;
    if (const std::string& products = machine.sessions[i].products; !products.empty())
      session["products"] = ordered_json::parse(products);
    if (i + 1 < machine.sessions.size()) {
      earlier.push_back(std::move(session));
    } else {
      json = std::move(session);
    }
  }
  if (!earlier.empty()) json["earlier"] = std::move(earlier);
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

Session begin_session(const std::string& command, const std::string& device, const std::string& description) {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char date[32];
  std::strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", &utc);
  utsname system{};
  uname(&system);
  return {ELBO_VERSION,
          date,
          command,
          device,
          description,
          fmt::format("{}, {} cores, {} {}", host_processor(), sysconf(_SC_NPROCESSORS_ONLN), system.sysname,
                      system.release)};
}

}  // namespace elbo
