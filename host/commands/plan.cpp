// elbo plan
#include "host/lab/plan.h"

#include <memory>

#include "host/commands/commands.h"
#include "host/commands/shared_options.h"

namespace elbo {

Action plan_command(Options& options) {
  const auto plan = std::make_shared<PlanOptions>();
  add_spec(options, plan->spec, plan->overrides);
  add_data(options, plan->data);
  options.text("--gpu", plan->gpu, "H100, H200, A100 or 4090").checked_by(find_gpu).shows_default();
  options.number("--bandwidth", plan->bandwidth, 0.001, 1e6, "GB/s, instead of the GPU's");
  options.number("--tflops", plan->tflops, 0.001, 1e6, "TFLOP/s of matrix products, instead of the GPU's");
  options.text("--json", plan->json, "also write the table to this file");
  return [plan] { return print_plan(*plan); };
}

}  // namespace elbo
