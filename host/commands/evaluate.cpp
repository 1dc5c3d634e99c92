// elbo eval
#include <fmt/format.h>

#include <memory>

#include "host/commands/commands.h"
#include "host/commands/opened_run.h"

namespace elbo {
namespace {

int evaluate(const RunQuery& query) {
  const OpenedRun run(query, [](const MemoryNeeds& needs) {
    return std::vector<Needs>{needs.evaluation(needs.data().train), needs.evaluation(needs.data().test)};
  });
  EpochMetrics m;
  m.step = run.progress.step;
  m.seconds = run.progress.seconds;
  m.train = run.evaluate(run.data.train);
  m.test = run.evaluate(run.data.test);
  m.epoch = m.step / run.behind().steps_per_epoch;
  fmt::print("{}\n", to_json_line(m));
  return 0;
}

}  // namespace

Action eval_command(Options& options) {
  const auto query = std::make_shared<RunQuery>();
  add_query(options, *query);
  return [query] { return evaluate(*query); };
}

}  // namespace elbo
