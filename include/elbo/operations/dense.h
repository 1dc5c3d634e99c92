// A dense layer, as PyTorch's nn.Linear and an activation behind it, and its gradients.
#pragma once
#include "elbo/operation.h"
#include "elbo/sizes.h"
#include "elbo/types.h"

namespace elbo {

// y = activation(x weight' + bias). A gradient of relu needs no more of y than its signs: `mask` has a bit for each
// element, in an order of the device's own, and lies at a multiple of 16 bytes; Backend::makes_mask() tells where there
// may be one. Where a device's library adds the activation to the product, relu may turn a NaN into 0.
struct DenseForward {
  static constexpr const char* name = "dense_forward";

  Tensor x;       // f32 [R, I]
  Tensor weight;  // f32 [O, I]
  Tensor bias;    // f32 [O]
  Activation activation = Activation::identity;
  Tensor y;     // f32 [R, O] out
  Tensor mask;  // u8 [R, mask_bytes(O)] out, of relu, for a DenseBackward; none where there will be none

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("x", op.x, Access::read);
    f("weight", op.weight, Access::read);
    f("bias", op.bias, Access::read);
    f("y", op.y, Access::write);
    f("mask", op.mask, Access::write);
  }
  void check() const;
  std::string sizes() const;
  double flops() const;
};

// Of the layer y = activation(x weight' + bias): the gradients of its parameters and, unless dx is none, of what
// `input_activation` was applied to to make x, so that dx is the layer below's dz. dz is d objective / d (x weight' +
// bias).
struct DenseBackward {
  static constexpr const char* name = "dense_backward";

  Tensor x;                                            // f32 [R, I]
  Tensor weight;                                       // f32 [O, I]
  Tensor dz;                                           // f32 [R, O]
  Tensor dweight;                                      // f32 [O, I] out: dz' x; none where nobody wants it
  Tensor dbias;                                        // f32 [O] out; none where dweight is
  Activation input_activation = Activation::identity;  // x = input_activation(...)
  Tensor mask;                                         // of the DenseForward that made x; none: x tells
  Tensor dx;                                           // f32 [R, I] out: (dz weight) * input_activation'

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    const bool has_dx(op.dx);
    f("x", op.x, op.dweight || op.input_activation != Activation::identity ? Access::read : Access::unused);
    f("weight", op.weight, has_dx ? Access::read : Access::unused);
    f("dz", op.dz, Access::read);
    f("dbias", op.dbias, Access::write);
    f("dweight", op.dweight, Access::write);
    f("mask", op.mask, has_dx ? Access::read : Access::unused);
    f("dx", op.dx, Access::write);
  }
  void check() const;
  std::string sizes() const;
  double flops() const;
};

// dx = dy activation'(x), told from y = activation(x).
struct ActivationBackward {
  static constexpr const char* name = "activation_backward";

  Tensor y, dy;  // f32 [R, O]
  Activation activation = Activation::identity;
  Tensor dx;  // f32 [R, O] out, may be dy itself

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("y", op.y, Access::read);
    f("dy", op.dy, Access::read);
    f("dx", op.dx, Access::write);
  }
  void check() const;
  std::string sizes() const { return y.shape.str(); }
};

// sum = a + b. The gradient of what is used twice is such a sum.
struct Add {
  static constexpr const char* name = "add";

  Tensor a, b;  // f32, of any shape
  Tensor sum;   // f32 out, may be a or b

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("a", op.a, Access::read);
    f("b", op.b, Access::read);
    f("sum", op.sum, Access::write);
  }
  void check() const;
  std::string sizes() const { return a.shape.str(); }
};

}  // namespace elbo
