// What the operations of a device have in common. An operation (elbo/operations/) is a struct that says everything of
// one call:
//
//   name             its name, also that of its profiling range; the stem of its launcher, its kernels and its CPU body
//   members          tensors and settings
//   each_tensor(op)  its tensors by their names, and how it uses them
//   check()          throws Error where types, shapes or settings do not fit each other
//   sizes()          what there is to do, for people: "[100, 784] x [784, 500]"
//   flops()          of its matrix products, where it has any
//
// A tensor may begin at any multiple of its element's size, a StepState at one of 8 bytes.
//
// Letters in shape comments: R rows of a batch, S samples a row, D pixels of an image, L latent dimensions, I and O
// inputs and outputs of a layer, N images of a data set, P parameters.
#pragma once
#include <cstdint>
#include <string>

#include "elbo/step_state.h"
#include "elbo/tensor.h"

namespace elbo {

enum class Access : std::uint8_t {
  read,
  write,    // all of it
  update,   // read and written
  rows,     // read, as many rows of it as the operation's first output has
  scratch,  // written and read again within the call
  unused,   // with these settings
};

// Bytes that an operation has to move: what it reads once and what it writes once.
template <class Op>
double bytes_of(const Op& op) {
  double bytes = 0, rows = 0;
  Op::each_tensor(op, [&](const char*, const Tensor& t, Access access) {
    if (access == Access::write && rows == 0 && t) rows = static_cast<double>(t.rows());
  });
  Op::each_tensor(op, [&](const char*, const Tensor& t, Access access) {
    if (!t) return;
    const auto size = static_cast<double>(t.bytes());
    switch (access) {
      case Access::read:
      case Access::write: bytes += size; break;
      case Access::update: bytes += 2 * size; break;
      case Access::rows: bytes += size / static_cast<double>(t.rows()) * rows; break;
      case Access::scratch:
      case Access::unused: break;
    }
  });
  return bytes;
}

template <class Op>
double flops_of(const Op& op) {
  if constexpr (requires { op.flops(); }) return op.flops();
  return 0;
}

// ---- For check() ---------------------------------------------------------------------------------------------------

// Throws Error unless `t` has memory, this type and this shape.
void check_tensor(const char* operation, const char* what, const Tensor& t, DType, const Shape&);
// Throws Error unless `state` is a StepState.
void check_state(const char* operation, const Tensor& state);
// Throws Error unless there are at least so many f32 elements of scratch, which only the unfused kernels need: an
// operation's scratch_size(), 0 with other variants.
void check_scratch(const char* operation, const Tensor& scratch, std::int64_t need);

}  // namespace elbo
