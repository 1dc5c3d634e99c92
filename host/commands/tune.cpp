// elbo tune
#include <memory>

#include "host/commands/commands.h"
#include "host/commands/shared_options.h"
#include "host/lab/tuning.h"

namespace elbo {

Action tune_command(Options& options) {
  const auto tuning = std::make_shared<TuneOptions>();
  add_spec(options, tuning->spec, tuning->overrides);
  add_device(options, tuning->device, tuning->backend);
  add_data(options, tuning->data);
  options.text("--out", tuning->out, "the file to write, for --tuning").required();
  options
      .number("--seconds", tuning->seconds, 0, 3600, "for each product, half of it to warm up; five timings at least")
      .shows_default();
  return [tuning] { return tune(*tuning); };
}

}  // namespace elbo
