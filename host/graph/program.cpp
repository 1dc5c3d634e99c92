#include "host/graph/program.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

namespace elbo {
namespace {

constexpr std::size_t deepest_scope = 8;

// From the first call that uses a storage to the last.
struct Lifetime {
  std::size_t first = ~std::size_t{0}, last = 0;

  bool used() const { return first <= last; }
  bool overlaps(const Lifetime& other) const { return first <= other.last && other.first <= last; }
};

std::vector<Lifetime> lifetimes(const Graph& graph) {
  std::vector<Lifetime> lives(graph.storages().size());
  const auto& calls = graph.calls();
  for (std::size_t i = 0; i < calls.size(); ++i)
    calls[i].operation->each_tensor([&](const char*, Tensor& t, Access access) {
      if (!t || access == Access::unused) return;
      Lifetime& life = lives[graph.location(t).storage];
      life.first = std::min(life.first, i);
      life.last = std::max(life.last, i);
    });
  for (std::size_t s = 0; s < lives.size(); ++s) {
    const Graph::Storage& storage = graph.storages()[s];
    if (storage.given) lives[s].first = 0;
    if (storage.kept) lives[s].last = calls.size();
  }
  return lives;
}

// What a call does with memory.
struct Use {
  std::uintptr_t begin, end;
  bool writes;

  bool conflicts_with(const Use& other) const {
    return (writes || other.writes) && begin < other.end && other.begin < end;
  }
};

std::vector<Use> uses_of(Operation& operation) {
  std::vector<Use> uses;
  operation.each_tensor([&](const char*, Tensor& t, Access access) {
    if (!t || access == Access::unused) return;
    const auto begin = reinterpret_cast<std::uintptr_t>(t.data);
    uses.push_back({begin, begin + t.bytes(), access != Access::read && access != Access::rows});
  });
  return uses;
}

std::vector<std::string> split(const std::string& scope) {
  std::vector<std::string> names;
  for (std::size_t begin = 0; begin < scope.size();) {
    const std::size_t end = std::min(scope.find('/', begin), scope.size());
    names.push_back(scope.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

// Takes away the masks that the device does not make.
void drop_masks(const std::vector<Graph::Call>& calls, Backend& device) {
  for (const Graph::Call& call : calls) {
    auto* const layer = call.operation->as<DenseForward>();
    if (!layer || !layer->mask || device.makes_mask(*layer)) continue;
    for (const Graph::Call& other : calls)
      if (auto* const gradient = other.operation->as<DenseBackward>();
          gradient && gradient->mask.data == layer->mask.data)
        gradient->mask = {};
    layer->mask = {};
  }
}

}  // namespace

// The largest first, each as low as it fits.
MemoryPlan::MemoryPlan(const Graph& graph) : offsets(graph.storages().size(), elsewhere) {
  const std::vector<Lifetime> lives = lifetimes(graph);
  std::vector<std::size_t> order;
  for (std::size_t s = 0; s < lives.size(); ++s)
    if (lives[s].used() && !graph.storages()[s].block && graph.storages()[s].root == s) order.push_back(s);
  std::ranges::stable_sort(order, std::greater(), [&](std::size_t s) { return graph.storages()[s].bytes; });

  const auto end_of = [&](std::size_t s) {
    const std::size_t size = graph.storages()[s].bytes;
    return offsets[s] + (size + Arena::alignment - 1) / Arena::alignment * Arena::alignment;
  };
  std::vector<std::size_t> placed;  // by offset
  for (const std::size_t s : order) {
    offsets[s] = 0;
    for (const std::size_t other : placed)
      if (lives[s].overlaps(lives[other]) && offsets[other] < end_of(s) && offsets[s] < end_of(other))
        offsets[s] = end_of(other);
    placed.insert(std::ranges::upper_bound(placed, offsets[s], {}, [&](std::size_t p) { return offsets[p]; }), s);
    bytes = std::max(bytes, end_of(s));
  }
}

Program::Program(std::unique_ptr<Graph> graph, Backend& device, std::string_view what)
    : device_(device),
      graph_(std::move(graph)),
      plan_(*graph_),
      memory_(std::make_shared<Buffer>(device, plan_.bytes, Memory::device, what)) {
  link();
}

Program::Program(std::unique_ptr<Graph> graph, Backend& device, std::shared_ptr<const Buffer> memory)
    : device_(device), graph_(std::move(graph)), plan_(*graph_), memory_(std::move(memory)) {
  if (plan_.bytes > memory_->size())
    fail(graph_->name(), " needs ", plan_.bytes, " bytes, and is to share ", memory_->size());
  link();
}

void* Program::address(const Tensor& t) const {
  const Graph::Location at = graph_->location(t);
  return bases_[at.storage] ? bases_[at.storage] + at.offset : nullptr;
}

Tensor Program::tensor(const Value& value) const {
  Tensor t = value;
  t.data = address(t);
  return t;
}

void Program::link() {
  for (std::size_t s = 0; s < graph_->storages().size(); ++s) {
    const Block* const block = graph_->storages()[s].block;
    if (block && !block->memory) fail(graph_->name(), ": ", block->name, " has no memory");
    bases_.push_back(block                                       ? static_cast<std::byte*>(block->memory.data)
                     : plan_.offsets[s] == MemoryPlan::elsewhere ? nullptr
                                                                 : memory_->data() + plan_.offsets[s]);
  }
  for (const Graph::Call& call : graph_->calls()) {
    scopes_.push_back(split(call.scope));
    if (scopes_.back().size() > deepest_scope)
      fail(graph_->name(), ": the scope ", call.scope, " is deeper than ", deepest_scope);
    std::vector<Output>& outputs = outputs_.emplace_back();
    call.operation->each_tensor([&](const char*, Tensor& t, Access access) {
      if (!t) return;
      const std::string what = access == Access::write ? graph_->description(t) : "";
      t.data = address(t);
      if (!what.empty()) outputs.push_back({t, what});
    });
  }
  drop_masks(calls(), device_);
}

std::vector<std::vector<std::size_t>> Program::dependencies() const {
  std::vector<std::vector<Use>> uses;
  std::vector<std::vector<std::size_t>> waits;
  std::vector<std::vector<bool>> before;  // of each call: all that must be done first
  for (const Graph::Call& call : calls()) {
    uses.push_back(uses_of(*call.operation));
    std::vector<std::size_t>& direct = waits.emplace_back();
    std::vector<bool>& all = before.emplace_back(calls().size(), false);
    for (std::size_t i = uses.size() - 1; i-- > 0;) {
      const bool conflict = std::ranges::any_of(uses.back(), [&](const Use& a) {
        return std::ranges::any_of(uses[i], [&](const Use& b) { return a.conflicts_with(b); });
      });
      if (!conflict || all[i]) continue;
      direct.insert(direct.begin(), i);
      all[i] = true;
      for (std::size_t k = 0; k < i; ++k)
        if (before[i][k]) all[k] = true;
    }
  }
  return waits;
}

void Program::run() const {
  const Backend::Range whole(device_, graph_->name().c_str());
  std::array<std::optional<Backend::Range>, deepest_scope> open;
  std::span<const std::string> now;
  const auto close_to = [&](std::size_t depth) {
    for (std::size_t k = now.size(); k-- > depth;) open[k].reset();
  };
  for (std::size_t i = 0; i < calls().size(); ++i) {
    const std::span<const std::string> next = scopes_[i];
    const auto common = static_cast<std::size_t>(std::ranges::mismatch(now, next).in1 - now.begin());
    close_to(common);
    for (std::size_t k = common; k < next.size(); ++k) open[k].emplace(device_, next[k].c_str());
    now = next;
    run(i);
  }
  close_to(0);
}

}  // namespace elbo
