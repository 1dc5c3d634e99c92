// elbo profile
#include "host/lab/profile.h"

#include <memory>

#include "host/commands/commands.h"
#include "host/commands/shared_options.h"

namespace elbo {

Action profile_command(Options& options) {
  const auto profiling = std::make_shared<ProfileOptions>();
  add_spec(options, profiling->spec, profiling->overrides);
  add_device(options, profiling->device, profiling->backend);
  add_no_graph(options, profiling->backend);
  add_no_epilogues(options, profiling->backend);
  add_tuning(options, profiling->backend);
  add_data(options, profiling->data);
  add_warmup(options, profiling->warmup);
  options.number("--steps", profiling->steps, 1, 1e6, "how many").shows_default();
  options.text("--trace", profiling->trace,
               "write a trace for Perfetto or Chrome here and the same as a table beside it, as .csv");
  return [profiling] { return profile(*profiling); };
}

}  // namespace elbo
