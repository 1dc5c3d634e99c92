#include "host/commands/shared_options.h"

#include "host/base/devices.h"

namespace elbo {

Option add_spec(Options& options, std::string& spec, std::vector<std::string>& overrides) {
  options.texts("--set", overrides, "override a field of the spec: --set train.epochs=5").shows_type("FIELD=VALUE");
  return options.text("SPEC", spec, "the experiment: a JSON file, or - for standard input");
}

void add_data(Options& options, std::string& data) {
  options.text("--data", data, "folder of the data sets (default: $ELBO_DATA, ./data, /usr/share/datasets)");
}

void add_device(Options& options, std::string& device, BackendOptions& backend) {
  options.text("--device", device, "auto, cpu, cuda or cuda:N").checked_by(check_device_name).shows_default();
  options.number("--threads", backend.threads, 0, 1024, "CPU threads; 0: one for each core");
}

void add_no_graph(Options& options, BackendOptions& backend) {
  options.off_switch("--no-graph", backend.record, "issue every call of a step anew instead of replaying a recording");
}

void add_no_epilogues(Options& options, BackendOptions& backend) {
  options.off_switch("--no-epilogues", backend.epilogues,
                     "on a GPU: bias, activation and their gradients in kernels of their own, not in the products");
}

void add_tuning(Options& options, BackendOptions& backend) {
  options.text("--tuning", backend.tuning, "on a GPU: do the products by the algorithms in this file of `elbo tune`");
}

void add_warmup(Options& options, std::optional<double>& seconds) {
  options.number("--warmup", seconds, 0, 3600,
                 "seconds of work before what is timed (default: 0.5 on a GPU, 0.1 on a CPU)");
}

}  // namespace elbo
