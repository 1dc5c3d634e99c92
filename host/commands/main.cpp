// The program: its commands, and how its errors are told.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <system_error>

#include "host/base/files.h"
#include "host/commands/command_line.h"
#include "host/commands/commands.h"

namespace {

using namespace elbo;

const CommandLine& program() {
  static const CommandLine all = {
      "elbo trains, measures and shows variational auto-encoders from one JSON file.",
      "elbo " ELBO_VERSION,
      "Exit status: 0 where all went well; 1 after an error, which standard error tells; 2 where the command line was\n"
      "wrong and nothing was begun; 130 or 143 where SIGINT or SIGTERM ended it, a run with a checkpoint to go on "
      "from.",
      {
          {"run", "train an experiment and report on it", run_command},
          {"eval", "figures of the training and test images, as JSON", eval_command},
          {"sample", "decode draws from the prior into a picture", sample_command},
          {"report", "write a run's report and figures anew", report_command},
          {"bench",
           "time what an experiment is made of",
           nullptr,
           {
               {"step", "time training steps", bench_step_command},
               {"loss",
                "time the rival kernels of likelihoods, latent variable and both, and compare them with float64",
                bench_loss_command},
           }},
          {"plan", "a training step as a table: shapes, bytes, FLOPs, floors on a GPU", plan_command},
          {"profile", "a few training steps, for a profiler or as a trace", profile_command},
          {"tune", "find the fastest algorithm of each matrix product, on a GPU", tune_command},
          {"data",
           "the data sets: what is there, and is it right",
           nullptr,
           {
               {"list", "what is there, and where to get what is not", data_list_command},
               {"verify", "read every file, and compare known ones with their checksums", data_verify_command},
           }},
          {"schema", "the JSON schema of experiments", schema_command},
          {"devices", "the devices that can be used here", devices_command},
      },
  };
  return all;
}

}  // namespace

int main(int argc, char** argv) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    std::fputs("elbo: this CPU has no AVX2 and FMA, which this build needs\n", stderr);
    return 1;
  }
#endif
  // Without these signals, a write fails to a pipe that nobody reads and to a file that may not grow. Its error says
  // what could not be written.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // so that lines and errors come in order where both go to one file
  try {
    const int status = run_command_line(program(), argc, argv);
    if (std::fclose(stdout) != 0 && status == 0) fail_call(errno, "standard output", "cannot be written");
    return status;
  } catch (const std::bad_alloc&) {
    std::fputs("elbo: out of memory\n", stderr);
  } catch (const std::filesystem::filesystem_error& e) {
    std::fprintf(stderr, "elbo: %s: %s\n", e.path1().c_str(), e.code().message().c_str());
  } catch (const std::system_error& e) {
    // fmt::print throws one where it cannot write, and the stream knows of that.
    const char* const what = std::ferror(stdout) ? "standard output: cannot be written: " : "";
    std::fprintf(stderr, "elbo: %s%s\n", what, e.code().message().c_str());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "elbo: %s\n", e.what());
  }
  return 1;
}
