// The command line.
#include <fmt/format.h>

#include <cerrno>
#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "host/base/devices.h"
#include "host/base/files.h"
#include "host/base/words.h"
#include "host/commands/command_line.h"
#include "host/commands/run.h"
#include "host/data/catalog.h"
#include "host/lab/bench.h"
#include "host/lab/bench_loss.h"
#include "host/lab/plan.h"
#include "host/lab/profile.h"
#include "host/lab/tuning.h"
#include "host/train/run_folder.h"

namespace {

using namespace elbo;

std::string join(int argc, char** argv) {
  std::string line;
  for (int i = 0; i < argc; ++i) line += (i ? " " : "") + shell_word(argv[i]);
  return line;
}

void add_device(CLI::App& app, std::string& device, BackendOptions& backend) {
  app.add_option("--device", device, "auto, cpu, cuda or cuda:N")
      ->check(accepted_by(check_device_name))
      ->capture_default_str();
  app.add_option("--threads", backend.threads, "CPU threads; 0: one for each core")
      ->transform(whole_number_in(0, 1024));
}

void add_no_graph(CLI::App& app, BackendOptions& backend) {
  app.add_flag_callback(
      "--no-graph", [&backend] { backend.record = false; },
      "issue every call of a step anew instead of replaying a recording");
}

void add_no_epilogues(CLI::App& app, BackendOptions& backend) {
  app.add_flag_callback(
      "--no-epilogues", [&backend] { backend.epilogues = false; },
      "on a GPU: bias, activation and their gradients in kernels of their own, not in the products");
}

void add_tuning(CLI::App& app, BackendOptions& backend) {
  app.add_option("--tuning", backend.tuning, "on a GPU: do the products by the algorithms in this file of `elbo tune`");
}

void add_warmup(CLI::App& app, std::optional<double>& seconds) {
  app.add_option("--warmup", seconds, "seconds of work before what is timed (default: 0.5 on a GPU, 0.1 on a CPU)")
      ->transform(number_in(0, 3600));
}

void add_data(CLI::App& app, std::string& data) {
  app.add_option("--data", data, "folder of the data sets (default: $ELBO_DATA, ./data, /usr/share/datasets)");
}

CLI::Option* add_spec(CLI::App& app, std::string& spec, std::vector<std::string>& overrides) {
  app.add_option("--set", overrides, "override a field of the spec: --set train.epochs=5")
      ->allow_extra_args(false)
      ->type_name("FIELD=VALUE");
  return app.add_option("SPEC", spec, "the experiment: a JSON file, or - for standard input")->required();
}

void add_query(CLI::App& app, RunQuery& q) {
  app.add_option("RUN", q.folder, "the folder of a run")->required();
  app.add_option("--checkpoint", q.checkpoint, "last, best, previous, epoch-N, or a file")->capture_default_str();
  add_device(app, q.device, q.backend);
  add_data(app, q.data);
}

// Whether what follows --resume cannot be meant as the SPEC.
bool is_checkpoint_name(const std::string& text) {
  return text == "last" || text == "previous" || text == "best" || text.starts_with("epoch-") ||
         text.ends_with(".safetensors");
}

int print(const std::string& text) {
  fmt::print("{}{}", text, text.ends_with('\n') ? "" : "\n");
  return 0;
}

int print_devices() {
  for (const DeviceEntry& d : list_devices())
    fmt::print("{:<5} {:<14} {}\n", d.name, d.available ? "available" : "not available", d.description);
  return 0;
}

int run_command_line(int argc, char** argv) {
  CLI::App app{"elbo trains, measures and shows variational auto-encoders from one JSON file."};
  app.set_version_flag("--version", "elbo " ELBO_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);

  RunOptions run;
  run.command = join(argc, argv);
  CLI::App& run_app = *app.add_subcommand("run", "train an experiment and report on it");
  CLI::Option* run_spec = add_spec(run_app, run.spec, run.overrides);
  add_device(run_app, run.device, run.backend);
  add_no_graph(run_app, run.backend);
  add_no_epilogues(run_app, run.backend);
  add_tuning(run_app, run.backend);
  add_data(run_app, run.data);
  run_app.add_option("--out", run.out, "the run's folder (default: runs/NAME)");
  std::string resume = "last";
  CLI::Option* resume_option =
      run_app
          .add_option("--resume", resume,
                      "continue from a checkpoint: last (default), previous, best, epoch-N, or a file")
          ->expected(0, 1);

  RunQuery query;
  CLI::App& eval_app = *app.add_subcommand("eval", "ELBO of the training and test images, as JSON");
  add_query(eval_app, query);

  CLI::App& sample_app = *app.add_subcommand("sample", "decode draws from the prior into a picture");
  std::int64_t count = 100;
  std::uint64_t seed = 0;
  std::string picture = "samples.png";
  add_query(sample_app, query);
  sample_app.add_option("--count", count, "how many")->transform(whole_number_in(1, 65536))->capture_default_str();
  sample_app.add_option("--seed", seed, "of the draws")
      ->transform(whole_number_in(0, 9007199254740991.0))
      ->capture_default_str();
  sample_app.add_option("--out", picture, "the PNG file; replaces a PNG that is no run's, and nothing else")
      ->capture_default_str();

  CLI::App& report_app = *app.add_subcommand("report", "write a run's report and figures anew");
  add_query(report_app, query);
  std::string report;
  report_app.add_option("--out", report, "another folder, for a report of another checkpoint or on other images");

  BenchOptions bench;
  CLI::App& bench_app = *app.add_subcommand("bench", "time what an experiment is made of");
  bench_app.require_subcommand(1);
  CLI::App& step_app = *bench_app.add_subcommand("step", "time training steps");
  add_spec(step_app, bench.spec, bench.overrides);
  add_device(step_app, bench.device, bench.backend);
  add_no_graph(step_app, bench.backend);
  add_no_epilogues(step_app, bench.backend);
  add_tuning(step_app, bench.backend);
  add_data(step_app, bench.data);
  step_app.add_option("--steps", bench.steps, "how many to time")
      ->transform(whole_number_in(1, 1e9))
      ->capture_default_str();
  add_warmup(step_app, bench.warmup);
  step_app.add_flag_callback(
      "--no-operations", [&bench] { bench.operations = false; }, "time the step alone, not what it is made of");
  step_app.add_option("--json", bench.json, "also write the figures to this file");

  BenchLossOptions losses;
  CLI::App& loss_app = *bench_app.add_subcommand(
      "loss", "time the rival kernels of likelihoods, latent variable and both, and compare them with float64");
  add_device(loss_app, losses.device, losses.backend);
  loss_app
      .add_option("--shape", losses.shapes,
                  "rows x pixels; may be given again (default: 100x784, 65536x784, 512x3x218x178)")
      ->check(accepted_by(parse_loss_shape))
      ->allow_extra_args(false);
  loss_app.add_option("--latent", losses.latents, "latent dimensions; may be given again; the head takes the first")
      ->transform(whole_number_in(1, 65536))
      ->allow_extra_args(false)
      ->capture_default_str();
  const auto add_filter = [&](const char* option, Words& names, const Words& known, const char* what) {
    loss_app.add_option(option, names, what)->check(one_of(known))->allow_extra_args(false);
  };
  add_filter("--loss", losses.losses, loss_names(),
             "bernoulli, gaussian, latent, elbo; may be given again (default: all)");
  add_filter("--rival", losses.rivals, rival_names(),
             "fused, fused_log, two_pass, unfused, and on a CPU naive; may be given again (default: all)");
  add_filter("--target", losses.targets, {"f32", "u8"}, "f32, u8; may be given again (default: both)");
  add_filter("--output", losses.outputs, {"f32", "bf16"}, "f32, bf16; may be given again (default: both)");
  loss_app.add_flag_callback(
      "--no-reference", [&losses] { losses.reference = false; },
      "do not compare with float64, which takes the host a while");
  add_warmup(loss_app, losses.warmup);
  loss_app.add_option("--seconds", losses.seconds, "for each rival; at least 30 timings, 7 of slow ones")
      ->transform(number_in(0, 3600))
      ->capture_default_str();
  loss_app.add_option("--json", losses.json, "also write the figures to this file");
  loss_app.add_option("--page", losses.page, "also write a page of pictures to this file");

  PlanOptions plan;
  CLI::App& plan_app = *app.add_subcommand("plan", "a training step as a table: shapes, bytes, FLOPs, floors on a GPU");
  add_spec(plan_app, plan.spec, plan.overrides);
  add_data(plan_app, plan.data);
  plan_app.add_option("--gpu", plan.gpu, "H100, H200, A100 or 4090")
      ->check(accepted_by(find_gpu))
      ->capture_default_str();
  plan_app.add_option("--bandwidth", plan.bandwidth, "GB/s, instead of the GPU's")->transform(number_in(0.001, 1e6));
  plan_app.add_option("--tflops", plan.tflops, "TFLOP/s of matrix products, instead of the GPU's")
      ->transform(number_in(0.001, 1e6));
  plan_app.add_option("--json", plan.json, "also write the table to this file");

  ProfileOptions profiling;
  CLI::App& profile_app = *app.add_subcommand("profile", "a few training steps, for a profiler or as a trace");
  add_spec(profile_app, profiling.spec, profiling.overrides);
  add_device(profile_app, profiling.device, profiling.backend);
  add_no_graph(profile_app, profiling.backend);
  add_no_epilogues(profile_app, profiling.backend);
  add_tuning(profile_app, profiling.backend);
  add_data(profile_app, profiling.data);
  add_warmup(profile_app, profiling.warmup);
  profile_app.add_option("--steps", profiling.steps, "how many")
      ->transform(whole_number_in(1, 1e6))
      ->capture_default_str();
  profile_app.add_option("--trace", profiling.trace,
                         "write a trace for Perfetto or Chrome here and the same as a table beside it, as .csv");

  TuneOptions tuning;
  CLI::App& tune_app = *app.add_subcommand("tune", "find the fastest algorithm of each matrix product, on a GPU");
  add_spec(tune_app, tuning.spec, tuning.overrides);
  add_device(tune_app, tuning.device, tuning.backend);
  add_data(tune_app, tuning.data);
  tune_app.add_option("--out", tuning.out, "the file to write, for --tuning")->required();
  tune_app.add_option("--seconds", tuning.seconds, "for each product, half of it to warm up; five timings at least")
      ->transform(number_in(0, 3600))
      ->capture_default_str();

  CLI::App& data_app = *app.add_subcommand("data", "the data sets: what is there, and is it right");
  data_app.require_subcommand(1);
  std::string data;
  CLI::App& list_app = *data_app.add_subcommand("list", "what is there, and where to get what is not");
  CLI::App& verify_app =
      *data_app.add_subcommand("verify", "read every file, and compare known ones with their checksums");
  for (CLI::App* a : {&list_app, &verify_app}) add_data(*a, data);

  CLI::App& schema_app = *app.add_subcommand("schema", "the JSON schema of experiments");
  CLI::App& devices_app = *app.add_subcommand("devices", "the devices that can be used here");

  app.footer(
      "Exit status: 0 where all went well; 1 after an error, which standard error tells; 2 where the command line was\n"
      "wrong and nothing was begun; 130 or 143 where SIGINT or SIGTERM ended it, a run with a checkpoint to go on "
      "from.");

  try {
    run_spec->required(false);  // --resume may have taken it
    app.parse(argc, argv);
    if (*resume_option) run.resume = resume.empty() ? "last" : resume;
    if (run_app && run.spec.empty()) {
      if (!run.resume || is_checkpoint_name(*run.resume)) throw CLI::RequiredError("SPEC");
      run.spec = *run.resume;
      run.resume = "last";
    }
  } catch (const CLI::Success& e) {  // --help, --version
    run_spec->required();
    std::ostringstream text;
    app.exit(e, text, text);
    return print(text.str());
  } catch (const CLI::ParseError& e) {
    std::fprintf(stderr, "elbo: %s\n`%s --help` says what there is\n", explain(app, e).c_str(),
                 command_given(app).c_str());
    return 2;
  }

  if (run_app) return run_experiment(run);
  if (eval_app) return evaluate_run(query);
  if (sample_app) return sample_run(query, count, seed, picture);
  if (report_app) return report_run(query, report);
  if (step_app) return bench_step(bench);
  if (loss_app) return bench_loss(losses);
  if (profile_app) return profile(profiling);
  if (tune_app) return tune(tuning);
  if (plan_app) return print_plan(plan);
  if (list_app) return print(list_data(data_directories(data)));
  if (verify_app) {
    bool good = false;
    print(verify_data(data_directories(data), good));
    return good ? 0 : 1;
  }
  if (schema_app) return print(spec_schema());
  if (devices_app) return print_devices();
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    std::fputs("elbo: this CPU has no AVX2 and FMA, which this build needs\n", stderr);
    return 1;
  }
#endif
  // A pipe that nobody reads and a file that may not grow are errors of the call, which say what they are of.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // so that lines and errors come in order where both go to one file
  try {
    const int status = run_command_line(argc, argv);
    if (std::fclose(stdout) != 0 && status == 0) elbo::fail_call(errno, "standard output", "cannot be written");
    return status;
  } catch (const std::bad_alloc&) {
    std::fputs("elbo: out of memory\n", stderr);
  } catch (const std::filesystem::filesystem_error& e) {
    std::fprintf(stderr, "elbo: %s: %s\n", e.path1().c_str(), e.code().message().c_str());
  } catch (const std::system_error& e) {  // fmt::print's
    std::fprintf(stderr, "elbo: standard output: cannot be written: %s\n", e.code().message().c_str());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "elbo: %s\n", e.what());
  }
  return 1;
}
