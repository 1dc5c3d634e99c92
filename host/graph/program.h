// A graph that has been given its memory: a list of device calls with fixed tensors. A GPU records it, a CPU runs it,
// `plan` prints it, `bench step` times it, `profile` names it, and a fault is searched along it.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "host/graph/graph.h"

namespace elbo {

// Where the storages of a graph lie in one block of memory. Two share some unless both are needed at one time.
struct MemoryPlan {
  static constexpr std::size_t elsewhere = ~std::size_t{0};

  explicit MemoryPlan(const Graph&);

  std::vector<std::size_t> offsets;  // by storage, multiples of 256 bytes; elsewhere: a block's, or nobody uses it
  std::size_t bytes = 0;             // of all
};

class Program {
 public:
  // `what`: it is for, in the error where the device has no such memory. Every block of the graph must have its own.
  Program(std::unique_ptr<Graph>, Backend&, std::string_view what);
  // In memory that it shares with other programs, which do not run at the same time. It must have room for all.
  Program(std::unique_ptr<Graph>, Backend&, std::shared_ptr<const Buffer> memory);

  // Queues every call.
  void run() const;
  // Queues one call, by its number in calls().
  void run(std::size_t call) const { calls()[call].operation->run(device_); }

  Backend& device() const { return device_; }
  const std::vector<Graph::Call>& calls() const { return graph_->calls(); }

  // For each call the calls that it waits for: they write what it reads or overwrites, or read what it overwrites. Left
  // out are those that another of them waits for. Two calls may run side by side if neither waits for the other, be it
  // by way of others.
  std::vector<std::vector<std::size_t>> dependencies() const;

  // Where a value lies that was an input, is kept, or is a block's.
  Tensor tensor(const Value&) const;

  // What a call writes and somebody has described, in the order of its tensors.
  struct Output {
    Tensor tensor;
    std::string what;
  };
  const std::vector<Output>& outputs(std::size_t call) const { return outputs_[call]; }

 private:
  void link();
  void* address(const Tensor& of_graph) const;

  Backend& device_;
  std::unique_ptr<Graph> graph_;
  MemoryPlan plan_;
  std::shared_ptr<const Buffer> memory_;
  std::vector<std::vector<std::string>> scopes_;  // of each call, outermost first
  std::vector<std::vector<Output>> outputs_;
  std::vector<std::byte*> bases_;  // of each storage; null: nobody uses it
};

}  // namespace elbo
