// elbo sample
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>

#include "elbo/error.h"
#include "host/base/progress.h"
#include "host/commands/commands.h"
#include "host/commands/opened_run.h"
#include "host/report/collect.h"
#include "host/report/picture.h"
#include "host/train/output.h"

namespace elbo {
namespace {

struct SampleOptions {
  RunQuery query;
  std::int64_t count = 100;
  std::uint64_t seed = 0;
  std::string out = "samples.png";
};

int sample(const SampleOptions& options) {
  require_output(options.out, png_output);
  const std::int64_t count = options.count;
  constexpr std::int64_t longest_side = 8192, gap = 2;  // pixels of the picture; between images
  const auto columns = static_cast<std::int64_t>(std::ceil(std::sqrt(static_cast<double>(count))));
  const std::int64_t side = longest_side / columns - gap;
  const OpenedRun run(options.query, [count, side](const MemoryNeeds& needs) {
    return std::vector<Needs>{sample_needs(needs, count, side)};
  });
  ProgressLine line(ProgressLine::parts, "decoding the samples");
  const ImageStrip samples = draw_samples(*run.vae, run.data.test, count, options.seed, side,
                                          [&line](double done) { line.show_part(done, "samples"); });
  line.clear();
  require(std::ranges::all_of(samples.pixels, [](float x) { return std::isfinite(x); }), run.checkpoint,
          ": its weights have diverged: samples hold NaN or infinity");
  write_output(options.out, png_output, contact_sheet(samples, 0, count, columns, gap).png());
  const bool shrunk = samples.height < run.data.test.height || samples.width < run.data.test.width;
  fmt::print("{} samples{}: {}\n", count,
             shrunk ? fmt::format(", shrunk to {} x {}", samples.height, samples.width) : "", options.out);
  return 0;
}

}  // namespace

Action sample_command(Options& options) {
  const auto given = std::make_shared<SampleOptions>();
  add_query(options, given->query);
  options.number("--count", given->count, 1, 65536, "how many").shows_default();
  options.number("--seed", given->seed, 0, 9007199254740991.0, "of the draws").shows_default();
  options.text("--out", given->out, "the PNG file; replaces a PNG that is no run's, and nothing else").shows_default();
  return [given] { return sample(*given); };
}

}  // namespace elbo
