#include "host/graph/finish.h"

namespace elbo {

bool fuse_end_of_step(Graph& graph, std::size_t call) {
  const auto& calls = graph.calls();
  if (call + 3 > calls.size()) return false;
  const auto* const losses = calls[call].operation->as<Accumulate>();
  const auto* const update = calls[call + 1].operation->as<OptimizerStep>();
  const auto* const advance = calls[call + 2].operation->as<Advance>();
  if (!losses || !update || !advance) return false;
  if (losses->state.data != update->state.data || update->state.data != advance->state.data) return false;
  graph.replace(call, 3, std::make_unique<OperationOf<FinishStep>>(FinishStep{*losses, *update, *advance}));
  return true;
}

}  // namespace elbo
