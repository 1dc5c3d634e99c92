// A step as a graph: operations over values, built once by forward code, that differentiates itself and becomes a list
// of device calls (program.h).
//
// A value is a tensor without memory. Its address is one of a space that the graph has for itself, where every storage
// begins at a multiple of 2^48; when the list is given its memory, addresses are moved there, as a linker does. So an
// operation is the same struct (elbo/operations/) in the graph and on the device, and a part of a tensor stays that
// part.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "elbo/backend.h"
#include "elbo/tensor.h"

namespace elbo {

class Graph;
class Gradients;

// Memory that outlives a graph: weights, running sums, the images. A graph names it when it is built; where it lies may
// come later.
struct Block {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;
  Tensor memory{};
};

// A tensor of a graph under construction. It is known by type and shape, and has no memory.
class Value {
 public:
  Value() = default;

  explicit operator bool() const { return graph_ != nullptr; }
  operator const Tensor&() const { return tensor_; }
  friend bool operator==(const Value&, const Value&) = default;  // the same tensor of the same graph
  const Shape& shape() const { return tensor_.shape; }
  std::int64_t rows() const { return tensor_.rows(); }
  std::int64_t columns() const { return tensor_.columns(); }
  Graph& graph() const { return *graph_; }

  // The same elements in another shape; each row as a vector; some of them, from element `first` on.
  Value reshaped(const Shape& s) const { return {*graph_, tensor_.reshaped(s)}; }
  Value flattened() const { return reshaped({rows(), columns()}); }
  Value part(std::int64_t first, const Shape&) const;

 private:
  friend class Graph;
  Value(Graph& graph, Tensor tensor) : graph_(&graph), tensor_(tensor) {}

  Graph* graph_ = nullptr;
  Tensor tensor_;
};

// A loss of each row of a batch and of each sample, in whatever partial sums a kernel leaves it.
struct RowLoss {
  Value partial;
  std::int64_t rows = 0, samples = 1;
};

// What a step minimises: a sum of mean losses, each with a factor.
class Objective {
 public:
  struct Term {
    RowLoss loss;
    double factor = 1;

    // Of each partial sum of the loss.
    float weight() const {
      return static_cast<float>(factor) * (1.0f / static_cast<float>(loss.rows) / static_cast<float>(loss.samples));
    }
  };

  explicit Objective(const RowLoss& loss) : terms_{{loss}} {}  // its mean

  friend Objective operator+(Objective a, const Objective& b) {
    a.terms_.insert(a.terms_.end(), b.terms_.begin(), b.terms_.end());
    return a;
  }
  friend Objective operator*(double factor, Objective a) {
    for (Term& term : a.terms_) term.factor *= factor;
    return a;
  }
  const std::vector<Term>& terms() const { return terms_; }
  // Of the mean of this loss; 0 where it is not minimised.
  double factor_of(const RowLoss&) const;

 private:
  std::vector<Term> terms_;
};

// Over the rows and their samples.
inline Objective mean(const RowLoss& loss) { return Objective(loss); }

// An operation of a graph: one of the device's (elbo/operation.h), and how it is differentiated.
class Operation {
 public:
  using Visit = std::function<void(const char* field, Tensor& tensor, Access access)>;

  virtual ~Operation() = default;
  virtual const char* name() const = 0;
  virtual void each_tensor(const Visit&) = 0;
  virtual std::string sizes() const = 0;
  virtual double bytes() const = 0;
  virtual double flops() const = 0;
  virtual void run(Backend&) const = 0;
  // Adds the operations that give the gradients of its inputs, out of those of its outputs.
  virtual void differentiate(Gradients&) const;

  // The device's operation, if it is that one, else null.
  template <class Op>
  Op* as();
};

// An operation that is no device's own, but made of those that are.
template <class Op>
concept RunsItself = requires(const Op& op, Backend& device) {
  op.run(device);
};

template <class Op>
class OperationOf : public Operation {
 public:
  explicit OperationOf(Op o) : op(std::move(o)) {}

  const char* name() const override { return Op::name; }
  void each_tensor(const Visit& visit) override { Op::each_tensor(op, visit); }
  std::string sizes() const override { return op.sizes(); }
  double bytes() const override { return bytes_of(op); }
  double flops() const override { return flops_of(op); }
  void run(Backend& device) const override {
    if constexpr (RunsItself<Op>) {
      op.run(device);
    } else {
      device.run(op);
    }
  }

  Op op;
};

template <class Op>
Op* Operation::as() {
  auto* const it = dynamic_cast<OperationOf<Op>*>(this);
  return it ? &it->op : nullptr;
}

class Graph {
 public:
  // `name`: of the whole, as a profiler shows it: "train_step".
  explicit Graph(std::string name) : name_(std::move(name)) {}
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  // ---- Values -----------------------------------------------------------------------------------------
  // The block must live until the graph has become a program.
  Value of(const Block&);
  Value make(const Shape&, DType = DType::f32);
  // For an operation that asks for so many elements between its input and output; none of 0.
  Tensor scratch(std::int64_t size) { return size > 0 ? static_cast<Tensor>(make({size})) : Tensor{}; }
  // One that the host writes before the calls run; one that is still there when they are done.
  Value input(const Shape&, DType = DType::f32);
  void keep(const Value&);  // before fuse(), which may do without a value
  // The same tensor, of which no gradient goes further back.
  Value stop_gradient(const Value&);
  // What it is, for a message about it: "the output of encoder.0".
  void describe(const Value&, std::string what);

  // ---- Calls ------------------------------------------------------------------------------------------
  // Calls that are added while it lives are named by it: "encode", and within it "dense0".
  class Scope {
   public:
    Scope(Graph& graph, const std::string& name) : graph_(graph), outer_(graph.scope_) {
      graph.scope_ = outer_.empty() ? name : outer_ + "/" + name;
    }
    ~Scope() { graph_.scope_ = outer_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Graph& graph_;
    std::string outer_;
  };

  // One that has no gradient, and one that may have.
  template <class Op>
  void add(Op op) {
    append(std::make_unique<OperationOf<Op>>(std::move(op)));
  }
  void append(std::unique_ptr<Operation>);

  // Adds the operations that give the gradient of `objective` with respect to each first value, in the place of the
  // second, which has its shape. Either may be a part of a block. Nothing is written to the second where the objective
  // does not depend on the first. A block is where a gradient ends, also if a call before has changed it.
  void differentiate(const Objective&, const std::vector<std::pair<Value, Value>>& wanted);

  // Makes one call of several neighbours where a device has one for them. `rule(graph, i)` may change call i and
  // others, and tells whether it did.
  using Rule = bool (*)(Graph&, std::size_t i);
  void fuse(const std::vector<Rule>&);

  // ---- What there is ----------------------------------------------------------------------------------
  struct Call {
    std::string scope;  // "encode/dense0"; empty at the top
    std::unique_ptr<Operation> operation;

    // "encode/dense0/dense_forward"
    std::string path() const { return (scope.empty() ? "" : scope + "/") + operation->name(); }
  };
  const std::string& name() const { return name_; }
  const std::vector<Call>& calls() const { return calls_; }
  void remove(std::size_t call) { calls_.erase(calls_.begin() + static_cast<std::ptrdiff_t>(call)); }
  // One call in the place of `count`.
  void replace(std::size_t call, std::size_t count, std::unique_ptr<Operation>);

  // The calls that read, or write, any of its storage, in their order.
  std::vector<std::size_t> readers(const Tensor&) const;
  std::vector<std::size_t> writers(const Tensor&) const;
  // Whether no call behind `first` and before `last` writes any of its storage.
  bool stays(const Tensor&, std::size_t first, std::size_t last) const;
  // Whether none of them reads any of it either: what is to be written there may be written at `first`.
  bool is_unused(const Tensor&, std::size_t first, std::size_t last) const;
  // Whether somebody wants it beside the calls: the host, or what outlives the graph.
  bool is_wanted(const Tensor& t) const { return is_block(t) || storages_[location(t).storage].kept; }
  // The description of a tensor, empty where it has none.
  std::string description(const Tensor&) const;

  // ---- Memory -----------------------------------------------------------------------------------------
  struct Storage {
    std::size_t bytes = 0;
    const Block* block = nullptr;  // whose memory it is; null: the program's
    std::size_t root = own;        // the storage whose memory it has: its own number, unless it stands for another
    bool given = false;            // by the host, before the first call
    bool kept = false;             // for the host, behind the last call
    static constexpr std::size_t own = ~std::size_t{0};
  };
  const std::vector<Storage>& storages() const { return storages_; }
  // Where a tensor of the graph lies: in which storage, and how many bytes from its beginning. An alias is what it
  // stands for.
  struct Location {
    std::size_t storage, offset;
    auto operator<=>(const Location&) const = default;
  };
  Location location(const Tensor&) const;
  std::size_t storage_of(const Tensor&) const;  // its number, be it an alias or not
  bool is_block(const Tensor& t) const { return storages_[location(t).storage].block != nullptr; }

 private:
  friend class Gradients;
  Value make_storage(const Shape&, DType, Storage);
  std::vector<std::size_t> users(const Tensor&, bool (*counts)(Access)) const;

  std::string name_, scope_;
  std::vector<Call> calls_;
  std::vector<Storage> storages_;
  std::map<const Block*, Value> blocks_;
  std::map<Location, std::string> descriptions_;
  bool fused_ = false;
};

// The gradients of a graph's values while it is being differentiated. What cannot be differentiated is an Error: a part
// of a value beside another part that overlaps it, a value that a later call has changed, a rule that leaves out an
// input or an output which matters.
class Gradients {
 public:
  Gradients(Graph& graph, const std::vector<std::pair<Value, Value>>& wanted);

  Graph& graph() { return graph_; }

  // Whether the gradient of an operation's input is wanted.
  bool wants(const Tensor&) const;
  // The gradient of an operation's output; none where no operation has given it one.
  Tensor of(const Tensor&);
  // The weight of an operation's output in the objective, for each of its elements; 0 where it is none of the terms.
  float weight_of(const Tensor&);
  // Where an operation is to write its part of the gradient of its input; none where nobody wants it. Of the second
  // part on, the parts are added up behind the operation's calls.
  Tensor into(const Tensor&);

 private:
  friend class Graph;
  // The bytes of a storage that a tensor is. An alias is a storage of its own here.
  struct Piece {
    std::size_t storage, begin, end;
    auto operator<=>(const Piece&) const = default;
    bool overlaps(const Piece& o) const { return storage == o.storage && begin < o.end && o.begin < end; }
    bool is_within(const Piece& o) const { return storage == o.storage && o.begin <= begin && end <= o.end; }
  };
  Piece piece(const Tensor&) const;
  void run(const Objective&);
  bool matters(std::size_t call);
  void differentiate(std::size_t call);
  void check_unchanged(std::size_t call) const;

  Graph& graph_;
  const std::vector<std::pair<Value, Value>>& wanted_;
  std::vector<bool> depends_;  // by storage: on something wanted
  std::map<Piece, float> weights_;
  std::map<Piece, Tensor> tensors_;
  std::vector<std::pair<Tensor, Tensor>> to_add_;  // the first is to get the second, too
  std::set<Piece> told_, told_weights_, asked_;    // by of(), weight_of() and into(), for the call at hand
  std::size_t forward_calls_ = 0;
};

}  // namespace elbo
