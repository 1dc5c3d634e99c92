// The graph: gradients, memory, the rules by which calls become one, and what models to come will want of it, built
// here out of operations of the tests alone.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "elbo/math/activation.h"
#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"
#include "host/base/devices.h"
#include "host/graph/dense.h"
#include "host/graph/fusion.h"
#include "host/graph/importance.h"
#include "host/graph/latent.h"
#include "host/graph/likelihood.h"
#include "host/graph/program.h"
#include "host/train/step.h"
#include "tests/errors.h"
#include "tests/graph_bench.h"
#include "tests/synthetic.h"

namespace elbo {
namespace {

using namespace test;

// ---- Operations of the tests, in the host's memory -----------------------------------------------------------------

// loss [R, 1] = the sum of x^4 / 4 of each row of x [R, C], which takes any gradient of a loss: a weight or a tensor.
struct Quartics {
  static constexpr const char* name = "quartics";
  Tensor x, loss;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("x", op.x, Access::read);
    f("loss", op.loss, Access::write);
  }
  std::string sizes() const { return x.shape.str(); }
  void run(Backend&) const {
    for (std::int64_t r = 0; r < x.rows(); ++r) {
      double sum = 0;
      for (std::int64_t c = 0; c < x.columns(); ++c) sum += std::pow(double{x.as<float>()[r * x.columns() + c]}, 4) / 4;
      loss.as<float>()[r] = static_cast<float>(sum);
    }
  }
};

struct QuarticsBackward {
  static constexpr const char* name = "quartics_backward";
  Tensor x;
  float weight;
  Tensor dx;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("x", op.x, Access::read);
    f("dx", op.dx, Access::write);
  }
  std::string sizes() const { return x.shape.str(); }
  void run(Backend&) const {
    for (std::int64_t i = 0; i < x.count(); ++i) dx.as<float>()[i] = weight * std::pow(x.as<float>()[i], 3.0f);
  }
};

RowLoss quartics(const Value& x) {
  struct Operation final : OperationOf<Quartics> {
    using OperationOf::OperationOf;
    void differentiate(Gradients& g) const override {
      g.graph().add(QuarticsBackward{op.x, g.weight_of(op.loss), g.into(op.x)});
    }
  };
  const Value flat = x.flattened(), loss = x.graph().make({x.rows(), 1});
  x.graph().append(std::make_unique<Operation>(Quartics{flat, loss}));
  return {loss, x.rows(), 1};
}

// ---- Gradients -----------------------------------------------------------------------------------------------------

// Two layers that share their weight, whose outputs both have a loss: everything is used twice.
struct Shared {
  static constexpr std::int64_t rows = 3, width = 5;
  Bench bench;
  Block x = bench.make("x", {rows, width}, normals(rows* width, 1));
  Block weight = bench.make("weight", {width, width}, normals(width* width, 2, 0.5f));
  Block bias = bench.make("bias", {width}, normals(width, 3, 0.2f));
  Block dx = bench.make("dx", {rows, width});
  Block dweight = bench.make("dweight", {width, width}), dbias = bench.make("dbias", {width});

  explicit Shared(Activation activation) {
    auto graph = std::make_unique<Graph>("shared");
    Graph& g = *graph;
    const Value w = g.of(weight), b = g.of(bias);
    const Value first = dense(g.of(x), w, b, activation), second = dense(first, w, b, activation);
    const Objective loss = mean(quartics(first)) + 0.5f * mean(quartics(second));
    g.differentiate(loss, {{w, g.of(dweight)}, {b, g.of(dbias)}, {g.of(x), g.of(dx)}});
    fuse(g);
    Program(std::move(graph), bench.device, "a test").run();
  }
};

// The same loss in double.
double loss_of_shared(Activation activation, const std::vector<double>& x, const std::vector<double>& weight,
                      const std::vector<double>& bias) {
  constexpr std::int64_t n = Shared::width;
  const auto layer = [&](const std::vector<double>& from) {
    std::vector<double> to;
    for (std::int64_t r = 0; r < Shared::rows; ++r)
      for (std::int64_t o = 0; o < n; ++o) {
        double sum = bias[at(o)];
        for (std::int64_t i = 0; i < n; ++i) sum += from[at(r * n + i)] * weight[at(o * n + i)];
        to.push_back(math::activate(activation, sum));
      }
    return to;
  };
  const std::vector<double> first = layer(x), second = layer(first);
  double loss = 0;
  for (std::size_t i = 0; i < first.size(); ++i) loss += (std::pow(first[i], 4) + 0.5 * std::pow(second[i], 4)) / 4;
  return loss / Shared::rows;
}

TEST(Gradient, OfWhatIsUsedTwiceIsTheSum) {
  for (const Activation activation : {Activation::identity, Activation::tanh, Activation::softplus}) {
    Shared shared(activation);
    std::vector<double> values[3];
    Floats gradients[3];
    const Block* const blocks[] = {&shared.x, &shared.weight, &shared.bias, &shared.dx, &shared.dweight, &shared.dbias};
    for (int k = 0; k < 3; ++k) {
      const Floats read = shared.bench.get(blocks[k]->memory);
      values[k].assign(read.begin(), read.end());
      gradients[k] = shared.bench.get(blocks[k + 3]->memory);
    }
    for (int k = 0; k < 3; ++k)
      for (std::size_t i = 0; i < values[k].size(); ++i) {
        constexpr double step = 1e-5;
        const double before = values[k][i];
        double slope = 0;
        for (const int sign : {1, -1}) {
          values[k][i] = before + sign * step;
          slope += sign * loss_of_shared(activation, values[0], values[1], values[2]) / (2 * step);
        }
        values[k][i] = before;
        // Sums of some twenty products in f32.
        EXPECT_NEAR(gradients[k][i], slope, 1e-5 * (1 + std::abs(slope))) << blocks[k]->name << ", element " << i;
      }
  }
}

TEST(Gradient, IsTheSameFusedAndNot) {
  for (const Activation activation : {Activation::relu, Activation::tanh}) {
    Floats gradients[2];
    std::size_t calls[2];
    for (const bool fused : {true, false}) {
      Bench bench;
      Block x = bench.make("x", {3, 5}, normals(15, 1)), weight = bench.make("weight", {5, 5}, normals(25, 2)),
            bias = bench.make("bias", {5}, normals(5, 3));
      Block dweight = bench.make("dweight", {5, 5}), dbias = bench.make("dbias", {5});
      auto graph = std::make_unique<Graph>("layers");
      const Value w = graph->of(weight), b = graph->of(bias);
      const Value y = dense(dense(graph->of(x), w, b, activation), w, b, Activation::identity);
      graph->differentiate(mean(quartics(y)), {{w, graph->of(dweight)}, {b, graph->of(dbias)}});
      if (fused) fuse(*graph);
      const Program program(std::move(graph), bench.device, "a test");
      program.run();
      gradients[fused] = bench.get(dweight.memory);
      calls[fused] = program.calls().size();
    }
    EXPECT_EQ(calls[true] + 1, calls[false]);
    EXPECT_EQ(gradients[true], gradients[false]);
  }
}

TEST(Gradient, EndsWhereItIsStoppedAndAtOtherParameters) {
  Bench bench;
  Block x = bench.make("x", {2, 4}, normals(8, 1)), weight = bench.make("weight", {4, 4}, normals(16, 2)),
        bias = bench.make("bias", {4}, normals(4, 3));
  Block into = bench.make("gradient", {4, 4}, Floats(16, 7.0f)), dbias = bench.make("dbias", {4});
  const auto calls = [&](bool stop) {
    auto graph = std::make_unique<Graph>("stopped");
    const Value h = dense(graph->of(x), graph->of(weight), graph->of(bias), Activation::relu);
    const RowLoss loss = quartics(stop ? graph->stop_gradient(h) : h);
    graph->differentiate(mean(loss), {{graph->of(weight), graph->of(into)}, {graph->of(bias), graph->of(dbias)}});
    fuse(*graph);
    const Program program(std::move(graph), bench.device, "a test");
    program.run();
    return program.calls().size();
  };
  EXPECT_EQ(calls(true), 2u);
  EXPECT_EQ(bench.get(into.memory), Floats(16, 7.0f));
  EXPECT_EQ(calls(false), 5u);
  EXPECT_NE(bench.get(into.memory), Floats(16, 7.0f));
}

// 0.3 of the mean loss and a ten-thousand-millionth of the mean quartic of each chunk's: the weight of a row's gradient
// is a number and a tensor, which the value must be known for.
TEST(Gradient, OfALossThatIsWeighedByATensor) {
  constexpr std::int64_t rows = 2, samples = 2, outputs = rows * samples, pixels = 4100, chunks = 2;
  constexpr float weight = 0.3f, factor = 1e-10f;
  for (const Likelihood likelihood : {Likelihood::bernoulli, Likelihood::gaussian})
    for (const LossVariant variant :
         {LossVariant::fused, LossVariant::fused_log, LossVariant::two_pass, LossVariant::unfused})
      for (const bool fused : {true, false}) {
        Bench bench;
        const Floats logits = normals(outputs * pixels, 1);
        Block x = bench.make("x", {outputs, pixels}, logits), dx = bench.make("dx", {outputs, pixels});
        Block target = bench.make_bytes("target", {rows, pixels});
        bench.device.fill(target.memory, 200);
        auto graph = std::make_unique<Graph>("weighed");
        const Value from = graph->of(x);
        const RowLoss loss = likelihood_loss(from, graph->of(target), {.likelihood = likelihood, .variant = variant});
        graph->differentiate(weight * mean(loss) + factor * mean(quartics(loss.partial)), {{from, graph->of(dx)}});
        if (fused) fuse(*graph);
        const Program program(std::move(graph), bench.device, "a test");
        program.run();
        EXPECT_EQ(program.calls().size(), 4u);  // loss, quartics, and the gradients of the two

        const auto pixel = [&](std::int64_t i) {
          const double output = logits[at(i)], value = 200 / 255.0;
          return likelihood == Likelihood::bernoulli ? math::bernoulli(output, value)
                                                     : math::gaussian(output, value, 0.5, 0.5 * std::log(2 * M_PI));
        };
        std::vector<double> nll(outputs * chunks);
        for (std::int64_t i = 0; i < outputs * pixels; ++i)
          nll[at(i / pixels * chunks + i % pixels / pixel_chunk)] += pixel(i).value;
        const Floats got = bench.get(dx.memory);
        for (std::int64_t i = 0; i < outputs * pixels; ++i) {
          const double partial = nll[at(i / pixels * chunks + i % pixels / pixel_chunk)];
          const double want = (weight + factor * std::pow(partial, 3)) / outputs * pixel(i).grad;
          // The loss errs by a few parts in 1e7, its cube by three times that.
          ASSERT_NEAR(got[at(i)], want, 3e-6 * (weight + factor * std::pow(partial, 3)))
              << static_cast<int>(likelihood) << ", kernels " << static_cast<int>(variant) << ", element " << i;
        }
      }
}

// A graph over x [2, 4], a layer of [4, 4] and places for gradients.
struct Pieces {
  Bench bench;
  Block x = bench.make("x", {2, 4}, normals(8, 1)), weight = bench.make("weight", {4, 4}, normals(16, 2));
  Block bias = bench.make("bias", {4}, normals(4, 3)), state = bench.make_state(1);
  Block target = bench.make_bytes("target", {2, 4}), fault = bench.make_bytes("fault", {8});
  Block dx = bench.make("dx", {2, 4}), dweight = bench.make("dweight", {4, 4}), dbias = bench.make("dbias", {4});
  std::unique_ptr<Graph> graph = std::make_unique<Graph>("pieces");
  Graph& g = *graph;

  Value layer(const Value& from, Activation activation = Activation::identity) {
    return dense(from, g.of(weight), g.of(bias), activation);
  }
  // Runs what there is; the gradient of x.
  Floats run(bool fused = true) {
    if (fused) fuse(g);
    Program(std::move(graph), bench.device, "a test").run();
    return bench.get(dx.memory);
  }
};

TEST(Gradient, WhatCannotBeDifferentiatedIsAnError) {
  const auto error = [](const std::function<void(Pieces&)>& build) {
    Pieces p;
    return error_of([&] { build(p); });
  };
  expect_words(error([](Pieces& p) {
                 p.g.differentiate(mean(quartics(axpy(p.g.of(p.x), p.g.of(p.x), 1.0f))), {{p.g.of(p.x), p.g.of(p.dx)}});
               }),
               {"axpy has no gradient"});
  expect_words(error([](Pieces& p) {
                 p.g.differentiate(mean(quartics(p.layer(p.g.of(p.x)).part(4, {1, 4}))), {{p.g.of(p.x), p.g.of(p.dx)}});
               }),
               {"only a part of [2, 4] has a gradient"});
  expect_words(error([](Pieces& p) {
                 const Value x = p.g.of(p.x);
                 p.g.differentiate(mean(quartics(x)) + mean(quartics(x.part(0, {1, 4}))), {{x, p.g.of(p.dx)}});
               }),
               {"[1, 4]", "[2, 4]", "overlap"});
  expect_words(error([](Pieces& p) {
                 p.g.differentiate(mean(quartics(p.g.of(p.x))),
                                   {{p.g.of(p.x).part(0, {1, 4}), p.g.of(p.dx).part(0, {1, 4})},
                                    {p.g.of(p.x).part(4, {1, 4}), p.g.of(p.dx).part(4, {1, 4})}});
               }),
               {"a part of [2, 4] is wanted", "quartics takes all of it"});
  expect_words(error([](Pieces& p) {
                 const Value y = p.layer(p.g.of(p.x));
                 const RowLoss loss = quartics(y);
                 p.g.differentiate(sum(loss.partial.part(0, {1, 1})), {{p.g.of(p.x), p.g.of(p.dx)}});
               }),
               {"only a part of [2, 1] has a weight in the objective"});
  expect_words(error([](Pieces& p) {
                 const LatentDraws draws = sample_latent_with_kl(p.g.of(p.x), p.g.of(p.state), 2, {});
                 p.g.differentiate(mean(draws.kl), {{p.g.of(p.x), p.g.of(p.dx)}});
               }),
               {"the KL divergence of draws has a weight", "the draws themselves none"});
  expect_words(error([](Pieces& p) {  // a later call has changed what the layer has read
                 const RowLoss loss = quartics(p.layer(p.g.of(p.x)));
                 p.g.add(Axpy{p.g.of(p.weight), p.g.of(p.weight), 1.0f, p.g.of(p.weight)});
                 p.g.differentiate(mean(loss), {{p.g.of(p.x), p.g.of(p.dx)}});
               }),
               {"dense_forward", "changed its weight"});
  expect_words(error([](Pieces& p) {  // the weight of an output that is no loss
                 p.g.differentiate(sum(p.layer(p.g.of(p.x))), {{p.g.of(p.x), p.g.of(p.dx)}});
               }),
               {"dense_forward leaves out its y"});
  expect_words(error([](Pieces& p) {  // by a tensor, where the rule asks for a number only
                 p.g.differentiate(mean(quartics(quartics(p.g.of(p.x)).partial)), {{p.g.of(p.x), p.g.of(p.dx)}});
               }),
               {"quartics leaves out its loss"});
  expect_words(error([](Pieces& p) {
                 const RowLoss loss = quartics(p.g.of(p.x));
                 fuse(p.g);
                 p.g.keep(loss.partial);
               }),
               {"kept after calls were fused"});
}

TEST(Gradient, EndsAtABlockThatACallBeforeHasChanged) {
  Pieces p;
  p.g.add(Axpy{p.g.of(p.weight), p.g.of(p.weight), 1.0f, p.g.of(p.weight)});
  p.g.differentiate(mean(quartics(p.layer(p.g.of(p.x)))), {{p.g.of(p.weight), p.g.of(p.dweight)}});
  p.run();
  EXPECT_NE(p.bench.get(p.dweight.memory), Floats(16, 0.0f));
}

TEST(Gradient, GoesToAStoppedValueThatIsWantedItself) {
  Pieces p;
  const Value h = p.g.stop_gradient(p.layer(p.g.of(p.x)));
  p.g.differentiate(mean(quartics(h)), {{h, p.g.of(p.dx)}});
  EXPECT_NE(p.run(), Floats(8, 0.0f));
}

TEST(Gradient, OfAWeightWithoutItsBias) {
  Pieces one, both;
  one.g.differentiate(mean(quartics(one.layer(one.g.of(one.x)))), {{one.g.of(one.weight), one.g.of(one.dweight)}});
  both.g.differentiate(
      mean(quartics(both.layer(both.g.of(both.x)))),
      {{both.g.of(both.weight), both.g.of(both.dweight)}, {both.g.of(both.bias), both.g.of(both.dbias)}});
  one.run();
  both.run();
  EXPECT_EQ(one.bench.get(one.dweight.memory), both.bench.get(both.dweight.memory));
  EXPECT_EQ(one.bench.get(one.dbias.memory), Floats(4, 0.0f));
}

// ---- Rules that do not fit ------------------------------------------------------------------------------------------

// The gradient of x, with the rules and without: they change what is done, and not what comes out.
void expect_same_gradient(const std::function<void(Pieces&)>& build) {
  Pieces fused, plain;
  build(fused);
  build(plain);
  const Floats gradient = plain.run(false);
  EXPECT_NE(gradient, Floats(8, 0.0f));
  EXPECT_EQ(fused.run(true), gradient);
}

TEST(Rules, LeaveAGradientThatSomebodyWants) {
  expect_same_gradient([](Pieces& p) {
    const Value y = p.layer(p.g.of(p.x), Activation::relu);
    p.g.differentiate(mean(quartics(p.layer(y))), {{y, p.g.of(p.dx)}, {p.g.of(p.weight), p.g.of(p.dweight)}});
  });
}

TEST(Rules, LeaveSumsOfMoreThanASampleAndItsDivergence) {
  expect_same_gradient([](Pieces& p) {  // three parts: divergence, quartics, sample
    const Value stats = p.g.of(p.x), z = sample_latent(stats, p.g.of(p.state), 1, {});
    const RowLoss direct = quartics(stats), sampled = quartics(z);
    p.g.differentiate(mean(latent_kl(stats, p.g.of(p.state), {})) + mean(direct) + mean(sampled),
                      {{stats, p.g.of(p.dx)}});
  });
}

TEST(Rules, LeaveLossesOfDifferentLikelihoods) {
  expect_same_gradient([](Pieces& p) {
    const Value x = p.g.of(p.x), t = p.g.of(p.target);
    const RowLoss one = likelihood_loss(x, t, {.likelihood = Likelihood::bernoulli}),
                  two = likelihood_loss(x, t, {.likelihood = Likelihood::gaussian});
    p.g.differentiate(0.3f * mean(one) + 0.7f * mean(two), {{x, p.g.of(p.dx)}});
  });
  expect_same_gradient([](Pieces& p) {
    const Value x = p.g.of(p.x), t = p.g.of(p.target).part(0, {2, 2});
    const auto loss = [&](PixelMean mean) {
      return likelihood_loss(x, t, {.likelihood = Likelihood::gaussian_learned, .mean = mean});
    };
    const RowLoss one = loss(PixelMean::identity), two = loss(PixelMean::sigmoid);
    p.g.differentiate(0.3f * mean(one) + 0.7f * mean(two), {{x, p.g.of(p.dx)}});
  });
}

// A value is given with one gradient; another of the same inputs has a weight of its own.
TEST(Rules, LeaveASecondGradientOfAValue) {
  expect_same_gradient([](Pieces& p) {
    const Value x = p.g.of(p.x), w = p.g.of(p.weight).part(0, {2, 4});
    const RowLoss bound = importance_bound({x.reshaped({8, 1}), 2, 4}, {w, 2, 4}, LossVariant::fused);
    p.g.differentiate(mean(bound), {{x, p.g.of(p.dx)}});
    p.g.differentiate(2.0 * mean(bound), {{w, p.g.of(p.dweight).part(0, {2, 4})}});
  });
}

// The decoder is z itself, [2 * samples, 2], and the targets are 0.
Objective importance_weighted(Pieces& p, std::int64_t samples) {
  const Value stats = p.g.of(p.x);
  const LatentDraws draws = sample_latent_with_kl(stats, p.g.of(p.state), samples, {});
  const RowLoss nll = likelihood_loss(draws.z.reshaped({2 * samples, 2}), p.g.of(p.target).part(0, {2, 2}),
                                      {.likelihood = Likelihood::gaussian});
  return mean(importance_bound(nll, draws.kl, LossVariant::fused));
}

// With one draw all its weight is its own: the ELBO, its KL divergence by sampling.
TEST(Gradient, OfTheBoundWithOneDrawIsThatOfTheElboWithASampledKl) {
  Pieces weighted, sampled;
  weighted.g.differentiate(importance_weighted(weighted, 1), {{weighted.g.of(weighted.x), weighted.g.of(weighted.dx)}});
  const Value stats = sampled.g.of(sampled.x);
  const LatentDraws draws = sample_latent_with_kl(stats, sampled.g.of(sampled.state), 1, {});
  const RowLoss nll = likelihood_loss(draws.z.reshaped({2, 2}), sampled.g.of(sampled.target).part(0, {2, 2}),
                                      {.likelihood = Likelihood::gaussian});
  sampled.g.differentiate(mean(nll) + mean(draws.kl), {{stats, sampled.g.of(sampled.dx)}});
  EXPECT_EQ(weighted.run(), sampled.run());
}

TEST(Rules, LeaveTheGradientOfImportanceWeights) {
  for (const std::int64_t samples : {1, 3})
    expect_same_gradient([=](Pieces& p) {
      const Value stats = p.g.of(p.x);
      const Objective bound = importance_weighted(p, samples);
      p.g.keep(latent_kl(stats, p.g.of(p.state), {}).partial);
      p.g.differentiate(bound + 0.5f * mean(quartics(stats)), {{stats, p.g.of(p.dx)}});
    });
}

// Against differences of the bound, computed here in double.
TEST(Gradient, OfTheImportanceWeightedBound) {
  for (const std::int64_t samples : {1, 4}) {
    Pieces p;
    p.g.differentiate(importance_weighted(p, samples), {{p.g.of(p.x), p.g.of(p.dx)}});
    const Floats x = p.bench.get(p.x.memory), gradient = p.run();
    const StepState state = state_at(3, 1, {});
    const auto bound = [&](const std::vector<double>& stats) {
      double loss = 0;
      for (std::uint32_t r = 0; r < 2; ++r) {
        double weights = 0;
        for (std::uint32_t s = 0; s < samples; ++s) {
          double log_weight = 0;
          const math::Normals4 eps =
              math::normals({state.seed, Purpose::latent, state.noise_step, state.row0 + r, s}, 0);
          for (std::size_t d = 0; d < 2; ++d) {
            const double mu = stats[4 * r + d], log_variance = stats[4 * r + 2 + d], e = eps.v[d];
            const double z = mu + std::exp(log_variance / 2) * e;
            // p(x|z) of a target of 0, p(z) and q(z|x); two constants cancel.
            log_weight += -(z * z + std::log(2 * M_PI)) / 2 - z * z / 2 + e * e / 2 + log_variance / 2;
          }
          weights += std::exp(log_weight);
        }
        loss -= std::log(weights / static_cast<double>(samples)) / 2;  // the mean over two rows
      }
      return loss;
    };
    for (std::size_t i = 0; i < 8; ++i) {
      std::vector<double> above(x.begin(), x.end()), below = above;
      above[i] += 1e-5;
      below[i] -= 1e-5;
      EXPECT_NEAR(gradient[i], (bound(above) - bound(below)) / 2e-5, 2e-6) << samples << " samples, " << i;
    }
  }
}

// A block that the gradient is to replace is read between value and gradient.
TEST(Rules, LeaveAGradientWhoseOldOneIsStillRead) {
  for (const bool fused : {true, false}) {
    Pieces p;
    const Value x = p.g.of(p.x), dx = p.g.of(p.dx);
    p.g.add(Axpy{x, x, 0.0f, dx});  // what was there
    const RowLoss loss = likelihood_loss(x, p.g.of(p.target), {.likelihood = Likelihood::gaussian});
    const Value seen = axpy(dx, dx, 0.0f);
    p.g.keep(seen);
    p.g.differentiate(mean(loss), {{x, dx}});
    if (fused) fuse(p.g);
    const Floats old = p.bench.get(p.x.memory);
    const Program program(std::move(p.graph), p.bench.device, "a test");
    program.run();
    EXPECT_EQ(p.bench.get(program.tensor(seen)), old);
    EXPECT_NE(p.bench.get(p.dx.memory), old);
  }
}

TEST(Rules, LeaveADrawBehindAStepOfTheState) {
  Pieces p;
  const Value stats = p.g.of(p.x), state = p.g.of(p.state);
  p.g.keep(latent_kl(stats, state, {}).partial);
  p.g.add(Advance{.state = state, .schedule = {}, .fault = p.g.of(p.fault)});
  p.g.keep(sample_latent(stats, state, 1, {}));
  fuse(p.g);
  EXPECT_EQ(p.g.calls().size(), 3u);
}

// ---- Memory --------------------------------------------------------------------------------------------------------

// A step of training or of evaluation, without memory.
struct Step {
  Spec spec;
  Vae vae;
  Optimizer optimizer;
  StepBlocks blocks;
  std::unique_ptr<Graph> graph;

  Step(const std::vector<std::string>& overrides, bool training)
      : spec(small_spec(overrides)),
        vae(spec, {9, 7, 1}),
        optimizer(spec, vae.parameters, 110),
        blocks(spec, vae, {110, 9, 7, 1}) {
    graph = training ? TrainingStep(spec, vae, optimizer, blocks, Indexing::shuffled, {}).graph
                     : evaluation_step(spec, vae, blocks, spec.train.batch_size, Indexing::sequential, {});
  }
};

TEST(MemoryPlan, WhatIsInUseAtOneTimeSharesNothing) {
  for (const bool training : {true, false})
    for (const char* kernels : {"fused", "unfused"})
      for (const char* objective :
           {R"("samples":1)", R"("samples":3)", R"("type":"iwae","samples":1)", R"("type":"iwae","samples":3)"}) {
        const Step step({cat("objective={", objective, R"(,"kernels":")", kernels, "\"}")}, training);
        const Graph& graph = *step.graph;
        const MemoryPlan plan(graph);
        std::vector<std::size_t> first(graph.storages().size(), graph.calls().size()), last(first.size(), 0);
        for (std::size_t i = 0; i < graph.calls().size(); ++i)
          graph.calls()[i].operation->each_tensor([&](const char*, Tensor& t, Access access) {
            if (!t || access == Access::unused) return;
            const std::size_t s = graph.location(t).storage;
            first[s] = std::min(first[s], i);
            last[s] = std::max(last[s], graph.storages()[s].kept ? graph.calls().size() : i);
          });
        std::size_t largest = 0, all = 0;
        for (std::size_t a = 0; a < first.size(); ++a) {
          if (plan.offsets[a] == MemoryPlan::elsewhere) continue;
          EXPECT_EQ(plan.offsets[a] % Arena::alignment, 0u);
          EXPECT_LE(plan.offsets[a] + graph.storages()[a].bytes, plan.bytes);
          largest = std::max(largest, graph.storages()[a].bytes);
          all += graph.storages()[a].bytes;
          for (std::size_t b = 0; b < a; ++b) {
            if (plan.offsets[b] == MemoryPlan::elsewhere || first[a] > last[b] || first[b] > last[a]) continue;
            EXPECT_TRUE(plan.offsets[a] >= plan.offsets[b] + graph.storages()[b].bytes ||
                        plan.offsets[b] >= plan.offsets[a] + graph.storages()[a].bytes)
                << a << " and " << b;
          }
        }
        EXPECT_GE(plan.bytes, largest);
        EXPECT_LT(plan.bytes, all);
      }
}

TEST(MemoryPlan, DecodingTakesAnOutputAndWhatItIsMadeOf) {
  const Spec spec =
      small_spec({R"(model.decoder=[{"type":"dense","units":500,"activation":"relu"}])", "model.latent=2"});
  const Vae vae(spec, {28, 28, 1});
  Graph graph("decode");
  const Value z = graph.input({64, 1, 2});
  graph.keep(vae.decode(z));
  EXPECT_LE(MemoryPlan(graph).bytes, 4u * 64 * (2 + 500 + 784));
}

// A learned variance doubles what the decoder says of an image, on the host, too.
TEST(MemoryPlan, DecodingALearnedVarianceTakesBothHalves) {
  const Spec spec = small_spec({"model.latent=2", "model.likelihood=gaussian", "model.variance=learned"});
  const Vae vae(spec, {28, 28, 1});
  const std::int64_t rows = 4;
  Graph graph("decode");
  EXPECT_EQ(vae.decode(graph.input({rows, 1, 2})).columns(), 2 * 784);
  EXPECT_EQ(vae.bytes_to_map(rows).host, 4u * rows * 2 * 784);
}

TEST(MemoryPlan, ATensorOf256TebibytesIsRefused) {
  Graph graph("large");
  EXPECT_NO_THROW(graph.make({1 << 20, 1 << 25}));
  EXPECT_THROW(graph.make({1 << 20, 1 << 26}), Error);
}

// ---- The list ------------------------------------------------------------------------------------------------------

TEST(Calls, OfATrainingStepAreFused) {
  std::vector<std::string> paths;
  const Step step({}, true);
  for (const Graph::Call& call : step.graph->calls()) paths.push_back(call.path());
  EXPECT_EQ(paths, (std::vector<std::string>{
                       "gather_batch", "encode/dense0/dense_forward", "encode/dense1/dense_forward", "sample_latent",
                       "decode/dense0/dense_forward", "decode/dense1/dense_forward", "likelihood",
                       "decode_backward/dense1/dense_backward", "decode_backward/dense0/dense_backward",
                       "sample_latent_backward", "encode_backward/dense1/dense_backward",
                       "encode_backward/dense0/dense_backward", "finish_step"}));
}

// The weight of a draw is known when all losses of its image are: the likelihood is two calls.
TEST(Calls, OfAnImportanceWeightedStepAreFused) {
  std::vector<std::string> paths;
  const Step step({"objective.type=iwae", "objective.samples=3"}, true);
  for (const Graph::Call& call : step.graph->calls()) paths.push_back(call.path());
  EXPECT_EQ(paths, (std::vector<std::string>{
                       "gather_batch", "encode/dense0/dense_forward", "encode/dense1/dense_forward", "sample_latent",
                       "decode/dense0/dense_forward", "decode/dense1/dense_forward", "likelihood", "importance_bound",
                       "likelihood", "decode_backward/dense1/dense_backward", "decode_backward/dense0/dense_backward",
                       "sample_latent_backward", "encode_backward/dense1/dense_backward",
                       "encode_backward/dense0/dense_backward", "finish_step"}));
}

TEST(Calls, SayWhichMayRunSideBySide) {
  Bench bench;
  Block x = bench.make("x", {2, 4}, normals(8, 1)), weight = bench.make("weight", {4, 4}, normals(16, 2)),
        bias = bench.make("bias", {4});
  auto graph = std::make_unique<Graph>("towers");
  const Value from = graph->of(x), w = graph->of(weight), b = graph->of(bias);
  const Value left = dense(from, w, b, Activation::relu), right = dense(from, w, b, Activation::tanh);
  graph->keep(left);
  graph->keep(right);
  graph->keep(axpy(left, right, 1.0f));
  graph->add(Axpy{from, from, 0.0f, from});  // overwrites what both have read
  const Program program(std::move(graph), bench.device, "a test");
  using Numbers = std::vector<std::size_t>;
  EXPECT_EQ(program.dependencies(), (std::vector<Numbers>{{}, {}, {0, 1}, {0, 1}}));
}

}  // namespace
}  // namespace elbo
