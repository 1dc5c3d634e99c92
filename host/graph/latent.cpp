#include "host/graph/latent.h"

#include <algorithm>

namespace elbo {
namespace {

class Latent final : public OperationOf<SampleLatent> {
 public:
  using OperationOf::OperationOf;

  void differentiate(Gradients& gradients) const override {
    Graph& graph = gradients.graph();
    SampleLatentBackward backward{.stats = op.stats,
                                  .dz = op.z ? gradients.of(op.z) : Tensor{},
                                  .state = op.state,
                                  .posterior = op.posterior,
                                  .variant = op.variant,
                                  .kl_scale = op.kl_partial ? gradients.weight_of(op.kl_partial) : 0.0f,
                                  .sampled_kl_scale = op.sampled_kl ? gradients.weight_of(op.sampled_kl) : 0.0f,
                                  .dsampled_kl = op.sampled_kl ? gradients.of(op.sampled_kl) : Tensor{},
                                  .dstats = gradients.into(op.stats),
                                  .scratch = {}};
    if (backward.has_sampled_kl() && !backward.dz)
      fail(graph.name(), ": the KL divergence of draws has a weight in the objective, and the draws themselves none");
    backward.scratch = graph.scratch(backward.scratch_size());
    graph.add(backward);
  }
};

void append(const LatentOptions& options, Graph& graph, SampleLatent op) {
  op.posterior = options.posterior;
  op.variant = options.variant;
  op.scratch = graph.scratch(op.scratch_size());
  graph.append(std::make_unique<Latent>(op));
}

// Whether calls i < k, which are a and b, are of the same posterior at the same step.
template <class Op>
bool same_posterior(const Graph& graph, const Op& a, std::size_t i, const Op& b, std::size_t k) {
  return a.stats == b.stats && a.state == b.state && a.posterior == b.posterior && a.variant == b.variant &&
         graph.stays(a.stats, i, k) && graph.stays(a.state, i, k);
}

}  // namespace

Value sample_latent(const Value& stats, const Value& state, std::int64_t samples, const LatentOptions& options) {
  const Value z = stats.graph().make({stats.rows(), samples, stats.columns() / 2});
  append(options, stats.graph(),
         {.stats = stats, .state = state, .z = z, .kl_partial = {}, .sampled_kl = {}, .scratch = {}});
  return z;
}

LatentDraws sample_latent_with_kl(const Value& stats, const Value& state, std::int64_t samples,
                                  const LatentOptions& options) {
  Graph& graph = stats.graph();
  const std::int64_t rows = stats.rows();
  const Value z = graph.make({rows, samples, stats.columns() / 2}), kl = graph.make({rows, samples});
  append(options, graph, {.stats = stats, .state = state, .z = z, .kl_partial = {}, .sampled_kl = kl, .scratch = {}});
  return {z, {kl, rows, samples}};
}

RowLoss latent_kl(const Value& stats, const Value& state, const LatentOptions& options) {
  Graph& graph = stats.graph();
  const std::int64_t rows = stats.rows();
  const Value kl = graph.make({ceil_div(rows, latent_tile), stats.columns() / 2});
  append(options, graph, {.stats = stats, .state = state, .z = {}, .kl_partial = kl, .sampled_kl = {}, .scratch = {}});
  return {kl, rows, 1};
}

bool fuse_sample_with_kl(Graph& graph, std::size_t call) {
  auto* const first = graph.calls()[call].operation->as<SampleLatent>();
  if (!first) return false;
  for (std::size_t i = call + 1; i < graph.calls().size(); ++i) {
    const auto* const second = graph.calls()[i].operation->as<SampleLatent>();
    if (!second || !same_posterior(graph, *first, call, *second, i)) continue;
    if ((first->z && second->z) || (first->kl_partial && second->kl_partial)) continue;
    if (second->z) {
      first->z = second->z;
      first->sampled_kl = second->sampled_kl;
      first->scratch = second->scratch;
    } else {
      first->kl_partial = second->kl_partial;
    }
    graph.remove(i);
    return true;
  }
  return false;
}

bool fuse_sample_with_kl_backward(Graph& graph, std::size_t call) {
  const auto* const add = graph.calls()[call].operation->as<Add>();
  if (!add || add->sum.data != add->a.data) return false;
  // The only calls that write the two summands, which nobody but the sum reads.
  const std::vector<std::size_t> of_a = graph.writers(add->a), of_b = graph.writers(add->b);
  if (of_a.size() != 2 || of_a[1] != call || of_b.size() != 1 || graph.is_wanted(add->b)) return false;
  const std::size_t a = of_a[0], b = of_b[0];
  const auto is_read_before = [&](const Tensor& t) { return graph.readers(t).front() < call; };
  if (a >= b || is_read_before(add->a) || is_read_before(add->b) || graph.readers(add->b).size() != 1) return false;
  const auto* const first = graph.calls()[a].operation->as<SampleLatentBackward>();
  auto* const second = graph.calls()[b].operation->as<SampleLatentBackward>();
  if (!first || !second || first->dstats.data != add->a.data || second->dstats.data != add->b.data) return false;
  if (!same_posterior(graph, *first, a, *second, b) || static_cast<bool>(first->dz) == static_cast<bool>(second->dz))
    return false;
  if (first->dz) {
    if (!graph.stays(first->dz, a, b) || (first->dsampled_kl && !graph.stays(first->dsampled_kl, a, b))) return false;
    second->dz = first->dz;
    second->sampled_kl_scale = first->sampled_kl_scale;
    second->dsampled_kl = first->dsampled_kl;
    second->scratch = first->scratch;
  }
  second->kl_scale += first->kl_scale;  // one of them is 0
  second->dstats = add->sum;
  graph.remove(call);
  graph.remove(a);
  return true;
}

}  // namespace elbo
