#include "host/graph/graph.h"

#include <algorithm>

namespace elbo {
namespace {

constexpr int offset_bits = 48;
constexpr std::uintptr_t offset_mask = (std::uintptr_t{1} << offset_bits) - 1;

void* address(std::size_t storage, std::size_t offset) {
  return reinterpret_cast<void*>((std::uintptr_t{storage + 1} << offset_bits) + offset);
}

// "decode/dense1" -> "decode_backward/dense1": the backward calls of a scope.
std::string backward(const std::string& scope) {
  if (scope.empty()) return scope;
  const std::size_t end = scope.find('/');
  return scope.substr(0, end) + "_backward" + (end == std::string::npos ? "" : scope.substr(end));
}

bool is_read(Access a) { return a == Access::read || a == Access::update || a == Access::rows; }
bool is_written(Access a) { return a == Access::write || a == Access::update || a == Access::scratch; }

}  // namespace

Value Value::part(std::int64_t first, const Shape& shape) const {
  require(first >= 0 && first + shape.count() <= tensor_.count(), "elements ", first, " to ", first + shape.count() - 1,
          " of ", tensor_.shape);
  Tensor t = tensor_;
  t.data = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(t.data) +
                                   static_cast<std::uintptr_t>(first) * size_of(t.dtype));
  t.shape = shape;
  return {*graph_, t};
}

void Operation::differentiate(Gradients&) const { fail(name(), " has no gradient"); }

// ---- Values -----------------------------------------------------------------------------------------------------

Value Graph::make_storage(const Shape& shape, DType dtype, Storage storage) {
  const std::size_t number = storages_.size();
  require(number < (std::size_t{1} << (64 - offset_bits)) - 1, name_, ": has too many tensors");
  const Tensor t{address(number, 0), dtype, shape};
  storage.bytes = t.bytes();
  if (storage.root == Storage::own) storage.root = number;
  require(storage.bytes <= offset_mask, name_, ": a tensor ", shape, " of ", storage.bytes,
          " bytes; a tensor has at most 2^48");
  storages_.push_back(storage);
  return {*this, t};
}

Value Graph::of(const Block& block) {
  const auto found = blocks_.find(&block);
  if (found != blocks_.end()) return found->second;
  return blocks_[&block] = make_storage(block.shape, block.dtype, {.block = &block});
}

Value Graph::make(const Shape& shape, DType dtype) { return make_storage(shape, dtype, {}); }

Value Graph::input(const Shape& shape, DType dtype) { return make_storage(shape, dtype, {.given = true}); }

void Graph::keep(const Value& v) {
  require(!fused_, name_, ": a value is kept after calls were fused, which may have done without it");
  storages_[location(v).storage].kept = true;
}

Value Graph::stop_gradient(const Value& v) {
  const Location at = location(v);
  const Value all =
      make_storage({static_cast<std::int64_t>(storages_[at.storage].bytes)}, DType::u8, {.root = at.storage});
  Tensor t = v;
  t.data = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(all.tensor_.data) + at.offset);
  return {*this, t};
}

void Graph::describe(const Value& v, std::string what) { descriptions_[location(v)] = std::move(what); }

std::string Graph::description(const Tensor& t) const {
  const auto found = descriptions_.find(location(t));
  return found == descriptions_.end() ? "" : found->second;
}

std::size_t Graph::storage_of(const Tensor& t) const {
  const std::size_t storage = (reinterpret_cast<std::uintptr_t>(t.data) >> offset_bits) - 1;
  require(storage < storages_.size(), name_, ": a tensor ", t.shape, " that is none of this graph");
  return storage;
}

Graph::Location Graph::location(const Tensor& t) const {
  return {storages_[storage_of(t)].root, reinterpret_cast<std::uintptr_t>(t.data) & offset_mask};
}

// ---- Calls ------------------------------------------------------------------------------------------------------

void Graph::append(std::unique_ptr<Operation> operation) { calls_.push_back({scope_, std::move(operation)}); }

std::vector<std::size_t> Graph::users(const Tensor& t, bool (*counts)(Access)) const {
  const std::size_t storage = location(t).storage;
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < calls_.size(); ++i)
    calls_[i].operation->each_tensor([&](const char*, Tensor& of, Access access) {
      const bool known = !found.empty() && found.back() == i;
      if (of && !known && counts(access) && location(of).storage == storage) found.push_back(i);
    });
  return found;
}

std::vector<std::size_t> Graph::readers(const Tensor& t) const { return users(t, is_read); }
std::vector<std::size_t> Graph::writers(const Tensor& t) const { return users(t, is_written); }

bool Graph::stays(const Tensor& t, std::size_t first, std::size_t last) const {
  return std::ranges::none_of(writers(t), [=](std::size_t i) { return first < i && i < last; });
}

bool Graph::is_unused(const Tensor& t, std::size_t first, std::size_t last) const {
  return stays(t, first, last) &&
         std::ranges::none_of(readers(t), [=](std::size_t i) { return first <= i && i < last; });
}

void Graph::replace(std::size_t call, std::size_t count, std::unique_ptr<Operation> operation) {
  calls_[call].operation = std::move(operation);
  for (; count > 1; --count) remove(call + 1);
}

void Graph::fuse(const std::vector<Rule>& rules) {
  fused_ = true;
  for (std::size_t i = 0; i < calls_.size();) {
    const bool changed = std::ranges::any_of(rules, [&](Rule rule) { return rule(*this, i); });
    i = changed ? 0 : i + 1;  // what has changed may fit a rule that did not fit before
  }
}

// ---- Differentiation --------------------------------------------------------------------------------------------

double Objective::factor_of(const RowLoss& loss) const {
  double factor = 0;
  for (const Term& term : terms_)
    if (term.loss.partial == loss.partial) factor += term.factor;
  return factor;
}

void Graph::differentiate(const Objective& objective, const std::vector<std::pair<Value, Value>>& wanted) {
  Gradients(*this, wanted).run(objective);
}

Gradients::Gradients(Graph& graph, const std::vector<std::pair<Value, Value>>& wanted)
    : graph_(graph), wanted_(wanted), depends_(graph.storages().size(), false) {
  for (const auto& [value, gradient] : wanted)
    if (value.shape() != gradient.shape())
      fail(graph.name_, ": the gradient of ", value.shape(), " cannot have shape ", gradient.shape());
  for (const Graph::Call& call : graph.calls()) {
    bool depends = false;
    call.operation->each_tensor([&](const char*, Tensor& t, Access access) {
      if (t && is_read(access) && wants(t)) depends = true;
    });
    if (!depends) continue;
    call.operation->each_tensor([&](const char*, Tensor& t, Access access) {
      if (t && is_written(access)) depends_[graph.storage_of(t)] = !graph.storages()[graph.storage_of(t)].block;
    });
  }
}

Gradients::Piece Gradients::piece(const Tensor& t) const {
  const std::size_t begin = graph_.location(t).offset;
  return {graph_.storage_of(t), begin, begin + t.bytes()};
}

bool Gradients::wants(const Tensor& t) const {
  if (!t) return false;
  const Piece it = piece(t);
  if (it.storage < depends_.size() && depends_[it.storage]) return true;
  return std::ranges::any_of(wanted_, [&](const auto& pair) { return it.is_within(piece(pair.first)); });
}

Tensor Gradients::of(const Tensor& t) {
  const Piece it = piece(t);
  told_.insert(it);
  const auto found = tensors_.find(it);
  if (found == tensors_.end()) {
    for (const auto& [other, gradient] : tensors_)
      if (other.overlaps(it)) fail(graph_.name_, ": only a part of ", t.shape, " has a gradient, ", gradient.shape);
    return {};
  }
  Tensor gradient = found->second;
  gradient.shape = t.shape;
  return gradient;
}

float Gradients::weight_of(const Tensor& t) {
  const Piece it = piece(t);
  told_weights_.insert(it);
  const auto found = weights_.find(it);
  if (found != weights_.end()) return found->second;
  for (const auto& [other, weight] : weights_)
    if (other.overlaps(it)) fail(graph_.name_, ": only a part of ", t.shape, " has a weight in the objective");
  return 0;
}

Tensor Gradients::into(const Tensor& t) {
  if (!wants(t)) return {};
  const Piece it = piece(t);
  asked_.insert(it);
  const auto found = tensors_.find(it);
  if (found != tensors_.end()) {
    const Tensor more = graph_.make(t.shape);
    to_add_.emplace_back(found->second, more);
    return more;
  }
  for (const auto& [other, gradient] : tensors_)
    if (other.overlaps(it))
      fail(graph_.name_, ": the gradients of ", t.shape, " and of ", gradient.shape, " overlap, and are not the same");
  for (const auto& [value, gradient] : wanted_) {
    const Piece all = piece(value);
    if (!it.is_within(all)) continue;
    return tensors_[it] = gradient.part(static_cast<std::int64_t>((it.begin - all.begin) / size_of(t.dtype)), t.shape);
  }
  return tensors_[it] = graph_.make(t.shape);
}

// Whether the objective depends on what a call writes, and that on what is wanted.
bool Gradients::matters(std::size_t call) {
  bool has_gradient = false, depends = false;
  graph_.calls_[call].operation->each_tensor([&](const char*, Tensor& t, Access access) {
    if (!t) return;
    if (is_written(access) && !graph_.is_block(t)) {
      const Piece it = piece(t);
      for (const auto& [other, weight] : weights_) has_gradient |= other.overlaps(it);
      for (const auto& [other, gradient] : tensors_) has_gradient |= other.overlaps(it);
    }
    if (is_read(access)) depends |= wants(t);
  });
  if (!has_gradient) return false;
  graph_.calls_[call].operation->each_tensor([&](const char* field, Tensor& t, Access access) {
    if (!t || !is_read(access) || wants(t)) return;
    for (const auto& [value, gradient] : wanted_)
      if (piece(value).overlaps(piece(t)))
        fail(graph_.name_, ": the gradient of a part of ", t.shape, " is wanted, and ",
             graph_.calls_[call].operation->name(), " takes all of it as its ", field);
  });
  return depends;
}

// What the rule of a call reads once more must be what the call has read.
void Gradients::check_unchanged(std::size_t call) const {
  graph_.calls_[call].operation->each_tensor([&](const char* field, Tensor& t, Access access) {
    if (!t || !is_read(access) || graph_.stays(t, call, forward_calls_)) return;
    fail(graph_.name_, ": ", graph_.calls_[call].operation->name(), " cannot be differentiated: a call behind it has ",
         "changed its ", field);
  });
}

void Gradients::differentiate(std::size_t call) {
  check_unchanged(call);
  told_.clear();
  told_weights_.clear();
  asked_.clear();
  const std::string outer = std::exchange(graph_.scope_, backward(graph_.calls_[call].scope));
  const Operation& operation = *graph_.calls_[call].operation;  // where it is, also when calls are added
  operation.differentiate(*this);
  for (auto [sum, more] : to_add_) {
    more.shape = sum.shape;  // the parts may have seen it in other shapes
    graph_.add(Add{.a = sum, .b = more, .sum = sum});
  }
  to_add_.clear();
  graph_.scope_ = outer;
  graph_.calls_[call].operation->each_tensor([&](const char* field, Tensor& t, Access access) {
    if (!t) return;
    const Piece it = piece(t);
    const bool written = is_written(access) && !graph_.is_block(t);
    if ((written && tensors_.contains(it) && !told_.contains(it)) ||
        (written && weights_.contains(it) && !told_weights_.contains(it)) ||
        (is_read(access) && wants(t) && !asked_.contains(it)))
      fail(graph_.name_, ": the gradient of ", operation.name(), " leaves out its ", field);
  });
}

void Gradients::run(const Objective& objective) {
  for (const Objective::Term& term : objective.terms()) weights_[piece(term.loss.partial)] += term.weight();
  forward_calls_ = graph_.calls().size();
  for (std::size_t i = forward_calls_; i-- > 0;)
    if (matters(i)) differentiate(i);
}

}  // namespace elbo
