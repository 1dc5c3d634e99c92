// elbo report
#include "host/commands/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "elbo/error.h"
#include "host/base/files.h"
#include "host/base/progress.h"
#include "host/commands/commands.h"
#include "host/commands/opened_run.h"
#include "host/report/collect.h"
#include "host/report/report.h"
#include "host/train/output.h"
#include "host/train/run_folder.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

// Throws Error where a report may not go into the folder, which is not the run's own.
void check_report_folder(const std::string& folder) {
  std::error_code error;
  const bool there = fs::exists(folder, error);
  const auto entries = there ? fs::directory_iterator(folder, error) : fs::directory_iterator();
  require(!error, folder, ": ", error.message());
  const auto is_temporary = [](const fs::directory_entry& e) {
    return !name_in_temporary(e.path().filename()).empty();
  };
  if (std::ranges::all_of(entries, is_temporary)) return;
  const std::string page = folder + "/report.html";
  require(fs::exists(page), folder, ": is not empty, and has no report of elbo; choose another folder with --out");
  require_output(page, report_output);
}

// Writes report.html and figures/ anew: the run's own, of its last checkpoint and on its own images, or others into the
// folder `out`, which is new, empty, or has a report made so.
int report(const RunQuery& query, const std::string& out) {
  require_output_folder(out.empty() ? query.folder : out);
  if (!out.empty()) check_report_folder(out);
  require(!out.empty() || query.checkpoint == "last", query.folder,
          ": its own report is that of its last checkpoint; --out FOLDER takes one of another");
  const auto moments = [](const MemoryNeeds& needs) {
    return std::vector<Needs>{needs.evaluation(needs.data().test), picture_needs(needs)};
  };
  OpenedRun run(query, moments, out.empty() ? "--out FOLDER --checkpoint" : "--checkpoint");
  require(!out.empty() || run.on_its_images, query.folder,
          ": its own report is on the images that it was trained on; --out FOLDER takes one on others");
  run.evaluate(run.data.test);
  const std::string folder = out.empty() ? query.folder : out;
  std::string name = run.spec.name;
  if (!out.empty()) name += fmt::format(" after step {}", run.progress.step);
  if (!run.on_its_images) name += ", on images that it was not trained on";
  make_report(query.folder, folder, name, run.spec, *run.vae, run.data, read_history(query.folder, run.behind()));
  fmt::print("report     {}/report.html\n", folder);
  return 0;
}

}  // namespace

void make_report(const std::string& folder, const std::string& out, const std::string& name, const Spec& spec, Vae& vae,
                 const Dataset& data, const std::vector<EpochMetrics>& epochs) {
  const Machine machine = read_machine(folder);
  ProgressLine line(ProgressLine::parts, "making the report");
  ReportData report = collect_pictures(vae, spec, data, [&line](double done) { line.show_part(done, "report"); });
  report.name = name;
  report.spec_json = to_json(spec);
  if (!machine.sessions.empty()) {
    const Session& last = machine.sessions.back();
    report.command = last.command;
    report.device = last.device_description;
    for (const Session& s : machine.sessions)
      if (report.device.find(s.device_description) == std::string::npos)
        report.device += "; earlier on " + s.device_description;
    report.machine = last.machine;
    report.version = last.version;
    report.date = last.date;
  }
  report.seconds = epochs.empty() ? 0 : epochs.back().seconds;
  for (const Parameter& p : vae.parameters.layout()) report.parameters += p.shape.count();
  report.train_images = data.train.count;
  report.test_images = data.test.count;
  report.objective = objective_text(spec);
  if (spec.objective.beta != 1) report.objective += " (the ELBO above counts KL once)";
  report.epochs = epochs;
  write_report(report, out);
}

Action report_command(Options& options) {
  const auto query = std::make_shared<RunQuery>();
  const auto out = std::make_shared<std::string>();
  add_query(options, *query);
  options.text("--out", *out, "another folder, for a report of another checkpoint or on other images");
  return [query, out] { return report(*query, *out); };
}

}  // namespace elbo
