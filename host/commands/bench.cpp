// elbo bench step, elbo bench loss
#include "host/lab/bench.h"

#include <memory>

#include "host/commands/commands.h"
#include "host/commands/shared_options.h"
#include "host/lab/bench_loss.h"

namespace elbo {

Action bench_step_command(Options& options) {
  const auto bench = std::make_shared<BenchOptions>();
  add_spec(options, bench->spec, bench->overrides);
  add_device(options, bench->device, bench->backend);
  add_no_graph(options, bench->backend);
  add_no_epilogues(options, bench->backend);
  add_tuning(options, bench->backend);
  add_data(options, bench->data);
  options.number("--steps", bench->steps, 1, 1e9, "how many to time").shows_default();
  add_warmup(options, bench->warmup);
  options.off_switch("--no-operations", bench->operations, "time the step alone, not what it is made of");
  options.text("--json", bench->json, "also write the figures to this file");
  return [bench] { return bench_step(*bench); };
}

Action bench_loss_command(Options& options) {
  const auto bench = std::make_shared<BenchLossOptions>();
  add_device(options, bench->device, bench->backend);
  options
      .texts("--shape", bench->shapes,
             "rows x pixels, with iwae four rows an image; may be given again (default: 100x784, 65536x784, "
             "512x3x218x178)")
      .checked_by(parse_loss_shape);
  options
      .number("--latent", bench->latents, 1, 65536, "latent dimensions; may be given again; the head takes the first")
      .shows_default();
  options
      .texts("--loss", bench->losses,
             "bernoulli, gaussian, gaussian_learned, latent, elbo, iwae; may be given again (default: all)")
      .one_of(loss_names());
  options
      .texts("--rival", bench->rivals,
             "fused, fused_log, two_pass, unfused, and on a CPU naive; may be given again (default: all)")
      .one_of(rival_names());
  options.texts("--target", bench->targets, "f32, u8; may be given again (default: both)").one_of({"f32", "u8"});
  options.texts("--output", bench->outputs, "f32, bf16; may be given again (default: both)").one_of({"f32", "bf16"});
  options.off_switch("--no-reference", bench->reference, "do not compare with float64, which takes the host a while");
  add_warmup(options, bench->warmup);
  options.number("--seconds", bench->seconds, 0, 3600, "for each rival; at least 30 timings, 7 of slow ones")
      .shows_default();
  options.text("--json", bench->json, "also write the figures to this file");
  options.text("--page", bench->page, "also write a page of pictures to this file");
  return [bench] { return bench_loss(*bench); };
}

}  // namespace elbo
