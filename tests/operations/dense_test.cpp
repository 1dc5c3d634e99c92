// Dense layers, their gradients, and the sum of two tensors.
#include <algorithm>
#include <cmath>

#include "elbo/math/activation.h"
#include "tests/operations/cases.h"
#include "tests/operations/lab.h"
#include "tests/setting.h"

namespace elbo::test {
namespace {

constexpr Activation activations[] = {Activation::identity, Activation::relu, Activation::tanh, Activation::softplus};

struct Dense {
  Floats x, weight, bias, dz;
  explicit Dense(const DenseCase& c)
      : x(normals(c.rows * c.in, 1)),
        weight(normals(c.out * c.in, 2, 1.0f / std::sqrt(static_cast<float>(c.in)))),
        bias(normals(c.out, 3)),
        dz(normals(c.rows * c.out, 4)) {}
};

// Summing n products in fp32, in any order, errs by a few times 6e-8 of the sum of their magnitudes; 2e-6
// leaves room for the activation.
constexpr double product_tolerance = 2e-6;

// The simulated device's products are plain loops: large ones take long there, and show nothing that small ones do not.
// multiplications: of the largest product.
bool is_left_out(const Lab& d, std::int64_t multiplications) { return d.is("sim") && multiplications > 1'000'000; }

TEST_P(Ops, DenseForward) {
  for (const DenseCase& c : dense_cases) {
    if (is_left_out(lab(), c.rows * c.in * c.out)) continue;
    const Dense v(c);
    Expected linear(c.rows * c.out);
    for (std::int64_t i = 0; i < c.rows * c.out; ++i) {
      const std::int64_t r = i / c.out, o = i % c.out;
      linear.add(i, v.bias[at(o)]);
      for (std::int64_t k = 0; k < c.in; ++k) linear.add(i, double{v.x[at(r * c.in + k)]} * v.weight[at(o * c.in + k)]);
    }
    for (Activation activation : activations) {
      Expected want = linear;
      for (double& value : want.value) value = math::activate(activation, value);
      for (const char* refused : {"", "relu_mask", "relu", "bias"}) {
        if (*refused && !lab().is("sim")) break;
        for (const bool with_mask : {true, false}) {
          const Setting none_of("ELBO_SIM_REFUSES", refused);
          Lab& d = next(true, refused);
          const Tensor y = d.make({c.rows, c.out});
          DenseForward op{.x = d.put({c.rows, c.in}, v.x),
                          .weight = d.put({c.out, c.in}, v.weight),
                          .bias = d.put({c.out}, v.bias),
                          .activation = activation,
                          .y = y,
                          .mask = {}};
          if (with_mask) d.give_mask(op);
          d.run(op);
          expect_close(d.get(y), want, product_tolerance, cat("y, activation ", static_cast<int>(activation)));
        }
      }
    }
  }
}

// x comes from a layer below, whose weight is the identity, so that it is activation(before) and there is a mask.
TEST_P(Ops, DenseBackward) {
  for (const DenseCase& c : dense_cases) {
    if (is_left_out(lab(), c.rows * c.in * std::max(c.in, c.out))) continue;
    Dense v(c);
    for (std::size_t i = 0; i < v.x.size(); i += 5) v.x[i] = 0;  // where relu's slope is 0
    Floats identity(at(c.in * c.in));
    for (std::int64_t i = 0; i < c.in; ++i) identity[at(i * c.in + i)] = 1;
    for (Activation activation : activations) {
      Floats x = v.x;
      for (float& value : x) value = math::activate(activation, value);
      Expected want_weight(c.out * c.in), want_bias(c.out), want_x(c.rows * c.in);
      for (std::int64_t i = 0; i < c.rows * c.out; ++i) {
        const std::int64_t r = i / c.out, o = i % c.out;
        const double g = v.dz[at(i)];
        want_bias.add(o, g);
        for (std::int64_t k = 0; k < c.in; ++k) {
          want_weight.add(o * c.in + k, g * x[at(r * c.in + k)]);
          want_x.add(r * c.in + k, g * v.weight[at(o * c.in + k)]);
        }
      }
      // A slope errs by one part in 1e7 of 1, not of itself (1 - x^2 has lost digits where x is near 1), so that the
      // magnitudes stay as they are.
      for (std::int64_t i = 0; i < c.rows * c.in; ++i)
        want_x.value[at(i)] *= math::activation_slope(activation, double{x[at(i)]});
      // An error of x, of one part in 1e7 of 1, enters by its factor.
      for (std::int64_t i = 0; i < c.out * c.in; ++i) want_weight.magnitude[at(i)] += want_bias.magnitude[at(i / c.in)];

      struct Way {
        bool epilogues, mask, dx;
        const char* refused = "";
      };
      for (const auto [epilogues, with_mask, with_dx, refused] :
           {Way{true, true, true}, Way{true, false, true}, Way{false, true, true}, Way{true, false, false},
            Way{true, true, true, "relu_mask"}, Way{true, true, true, "mask"}, Way{true, true, true, "row_sums"}}) {
        if (*refused && !lab().is("sim")) break;
        const Setting none_of("ELBO_SIM_REFUSES", refused);
        Lab& d = next(epilogues, refused);
        const Tensor below = d.make({c.rows, c.in});
        DenseForward layer{.x = d.put({c.rows, c.in}, v.x),
                           .weight = d.put({c.in, c.in}, identity),
                           .bias = d.put({c.in}, Floats(at(c.in))),
                           .activation = activation,
                           .y = below,
                           .mask = {}};
        if (with_mask) d.give_mask(layer);
        d->run(layer);
        const Tensor dweight = d.make({c.out, c.in}), dbias = d.make({c.out});
        const Tensor dx = with_dx ? d.make({c.rows, c.in}) : Tensor{};
        d.run(DenseBackward{.x = below,
                            .weight = d.put({c.out, c.in}, v.weight),
                            .dz = d.put({c.rows, c.out}, v.dz),
                            .dweight = dweight,
                            .dbias = dbias,
                            .input_activation = activation,
                            .mask = layer.mask,
                            .dx = dx});
        const std::string which = cat("activation ", static_cast<int>(activation), ", ", c.in, " to ", c.out,
                                      ", epilogues ", epilogues, " but ", refused);
        expect_close(d.get(below), Expected(x), 1e-6, "x, " + which);
        expect_close(d.get(dbias), want_bias, product_tolerance, "dbias, " + which);
        expect_close(d.get(dweight), want_weight, product_tolerance, "dweight, " + which);
        if (with_dx) expect_close(d.get(dx), want_x, product_tolerance, "dx, " + which);
      }
    }
  }
}

// The bias's gradient by itself: of any number of rows, in strips of any number of columns.
TEST_P(Ops, TheGradientOfABiasIsASumOverTheRows) {
  for (const std::int64_t rows : {1, 7, 8, 9, 100}) {
    for (const std::int64_t columns : {1, 31, 32, 33, 500}) {
      const Floats dz = normals(rows * columns, 16);
      Expected want(columns);
      for (std::int64_t i = 0; i < rows * columns; ++i) want.add(i % columns, dz[at(i)]);
      for (const bool epilogues : {true, false}) {
        Lab& d = next(epilogues);
        const Tensor dbias = d.make({columns});
        d.run(DenseBackward{.x = d.put({rows, 1}, Floats(at(rows), 1.0f)),
                            .weight = d.put({columns, 1}, Floats(at(columns), 1.0f)),
                            .dz = d.put({rows, columns}, dz),
                            .dweight = d.make({columns, 1}),
                            .dbias = dbias,
                            .mask = {},
                            .dx = {}});
        expect_close(d.get(dbias), want, product_tolerance, cat("dbias [", rows, ", ", columns, "]"));
      }
    }
  }
}

// What the optimiser and the loss look for. relu may hide one where the product's library does it (DenseForward).
TEST_P(OpsAligned, DenseKeepsNan) {
  const DenseCase c{5, 7, 9};
  for (const bool epilogues : {true, false}) {
    for (Activation activation : activations) {
      Lab& d = next(epilogues);
      Dense v(c);
      v.x[2 * 7 + 3] = nan;
      const Tensor x = d.put({5, 7}, v.x), weight = d.put({9, 7}, v.weight), y = d.make({5, 9});
      d->run(DenseForward{
          .x = x, .weight = weight, .bias = d.put({9}, v.bias), .activation = activation, .y = y, .mask = {}});
      const Floats got = d.get(y);
      for (std::size_t i = 0; i < got.size(); ++i) {
        const bool may_hide = activation == Activation::relu && epilogues;
        EXPECT_TRUE(std::isnan(got[i]) == (i / 9 == 2) || may_hide) << i;
        EXPECT_TRUE(i / 9 == 2 || !std::isnan(got[i])) << i;
      }

      v.dz[2 * 9 + 4] = nan;
      const Tensor dweight = d.make({9, 7}), dbias = d.make({9}), dx = d.make({5, 7});
      const Tensor halves = d.put({5, 7}, Floats(35, 0.5f));
      d->run(DenseBackward{.x = halves,
                           .weight = weight,
                           .dz = d.put({5, 9}, v.dz),
                           .dweight = dweight,
                           .dbias = dbias,
                           .input_activation = activation,
                           .mask = {},
                           .dx = dx});
      const Floats bias = d.get(dbias), w = d.get(dweight), back = d.get(dx);
      for (std::size_t i = 0; i < bias.size(); ++i) EXPECT_EQ(std::isnan(bias[i]), i == 4);
      for (std::size_t i = 0; i < w.size(); ++i) EXPECT_EQ(std::isnan(w[i]), i / 7 == 4);
      for (std::size_t i = 0; i < back.size(); ++i) EXPECT_EQ(std::isnan(back[i]), i / 7 == 2);
    }
  }
}

TEST_P(Ops, ActivationBackward) {
  for (const std::int64_t n : element_counts) {
    for (Activation activation : activations) {
      Floats y = normals(n, 14), dy = normals(n, 15);
      for (float& value : y) value = math::activate(activation, value);
      if (n > 1) dy[0] = nan;  // which is kept
      Expected want(n);
      for (std::int64_t i = 0; i < n; ++i) {
        want.value[at(i)] = dy[at(i)] * math::activation_slope(activation, double{y[at(i)]});
        want.magnitude[at(i)] = std::abs(dy[at(i)]);  // a slope errs by one part in 1e7 of 1
      }
      Floats apart;
      for (const bool in_place : {false, true}) {
        Lab& d = next();
        const Tensor arriving = d.put({1, n}, dy), dx = in_place ? arriving : d.make({1, n});
        d.run(ActivationBackward{.y = d.put({1, n}, y), .dy = arriving, .activation = activation, .dx = dx});
        const std::string which = cat("activation ", static_cast<int>(activation), ", ", n, " elements");
        Floats got = d.get(dx);
        EXPECT_EQ(std::isnan(got[0]), n > 1) << which;
        if (in_place) expect_same_bits(got, apart, "in place, " + which);
        apart = got;
        if (n > 1) got[0] = 0, want.value[0] = want.magnitude[0] = 0;
        expect_close(got, want, 3e-7, which);
      }
    }
  }
}

TEST_P(Ops, Add) {
  for (const std::int64_t n : element_counts) {
    const Floats a = normals(n, 1), b = normals(n, 2);
    Floats want = a;
    for (std::int64_t i = 0; i < n; ++i) want[at(i)] += b[at(i)];
    enum class Into { apart, first, second };
    for (const Into into : {Into::apart, Into::first, Into::second}) {
      Lab& d = next();
      Add op{.a = d.put({n}, a), .b = d.put({n}, b), .sum = {}};
      op.sum = into == Into::first ? op.a : into == Into::second ? op.b : d.make({n});
      d.run(op);
      expect_same_bits(d.get(op.sum), want, cat(n, " elements, into ", static_cast<int>(into)));
    }
  }
}

TEST_P(OpsAligned, DenseRefusesWrongShapes) {
  Lab& d = lab();
  const Tensor t23 = d.make({2, 3}), t43 = d.make({4, 3}), t4 = d.make({4}), t24 = d.make({2, 4}), t3 = d.make({3});
  const Tensor bytes = d.make({2, 3}, DType::u8);
  const auto forward = [&](const Tensor& bias, const Tensor& y, const Tensor& mask) {
    expect_refused("dense_forward: ", [&] {
      d->run(DenseForward{.x = t23, .weight = t43, .bias = bias, .activation = Activation::relu, .y = y, .mask = mask});
    });
  };
  forward(t3, t24, {});
  forward(t4, t23, {});
  forward(t4, t24, bytes);
  forward({nullptr, DType::f32, {4}}, t24, {});
  const auto backward = [&](const Tensor& dbias, const Tensor& mask, const Tensor& dx) {
    expect_refused("dense_backward: ", [&] {
      d->run(DenseBackward{.x = t23,
                           .weight = t43,
                           .dz = t24,
                           .dweight = t43,
                           .dbias = dbias,
                           .input_activation = Activation::relu,
                           .mask = mask,
                           .dx = dx});
    });
  };
  backward(t3, {}, {});
  backward(t4, {}, t24);
  backward(t4, bytes, t23);
}

}  // namespace
}  // namespace elbo::test
