// What models to come will want of the graph, built out of operations of this file alone: neither differentiation nor
// the plan of memory knows of any of it. Results are compared with their own arithmetic in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "host/graph/dense.h"
#include "host/graph/fusion.h"
#include "host/graph/latent.h"
#include "host/graph/likelihood.h"
#include "tests/graph_bench.h"

namespace elbo {
namespace {

using namespace test;

// ---- Operations -----------------------------------------------------------------------------------------------------

// log w [R, S] = log p(x|z) + log p(z) - log q(z|x) up to constants: p(x|z) = N(output, 1), p(z) = N(0, 1), and
// q(z|x) = N(mu, sigma^2) with stats = (mu, log sigma^2).
struct LogWeight {
  static constexpr const char* name = "log_weight";
  Tensor output, x, z, stats;  // [R * S, D], [R, D], [R, S, L], [R, 2L]
  Tensor log_weight;           // [R, S]

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("output", op.output, Access::read);
    f("x", op.x, Access::read);
    f("z", op.z, Access::read);
    f("stats", op.stats, Access::read);
    f("log_weight", op.log_weight, Access::write);
  }
  std::string sizes() const { return log_weight.shape.str(); }
  void run(Backend&) const {
    const std::int64_t rows = x.rows(), d = x.columns(), samples = z.shape[1], latent = z.shape[2];
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t s = 0; s < samples; ++s) {
        double sum = 0;
        for (std::int64_t i = 0; i < d; ++i) {
          const double e = double{x.as<float>()[r * d + i]} - output.as<float>()[(r * samples + s) * d + i];
          sum -= e * e / 2;
        }
        for (std::int64_t l = 0; l < latent; ++l) {
          const double at_z = z.as<float>()[(r * samples + s) * latent + l], mu = stats.as<float>()[r * 2 * latent + l],
                       log_variance = stats.as<float>()[r * 2 * latent + latent + l];
          sum += -at_z * at_z / 2 + log_variance / 2 + (at_z - mu) * (at_z - mu) / std::exp(log_variance) / 2;
        }
        log_weight.as<float>()[r * samples + s] = static_cast<float>(sum);
      }
  }
};

struct LogWeightBackward {
  static constexpr const char* name = "log_weight_backward";
  LogWeight forward;
  Tensor dlog_weight;          // [R, S]
  Tensor doutput, dz, dstats;  // as those; dstats may be none

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("output", op.forward.output, Access::read);
    f("x", op.forward.x, Access::read);
    f("z", op.forward.z, Access::read);
    f("stats", op.forward.stats, Access::read);
    f("log_weight", op.forward.log_weight, Access::unused);
    f("dlog_weight", op.dlog_weight, Access::read);
    f("doutput", op.doutput, Access::write);
    f("dz", op.dz, Access::write);
    f("dstats", op.dstats, Access::write);
  }
  std::string sizes() const { return dlog_weight.shape.str(); }
  void run(Backend& device) const {
    const std::int64_t rows = forward.x.rows(), d = forward.x.columns(), samples = dz.shape[1], latent = dz.shape[2];
    if (dstats) device.fill(dstats, 0);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t s = 0; s < samples; ++s) {
        const float weight = dlog_weight.as<float>()[r * samples + s];
        for (std::int64_t i = 0; i < d; ++i) {
          const std::int64_t k = (r * samples + s) * d + i;
          doutput.as<float>()[k] = weight * (forward.x.as<float>()[r * d + i] - forward.output.as<float>()[k]);
        }
        for (std::int64_t l = 0; l < latent; ++l) {
          const std::int64_t k = (r * samples + s) * latent + l, m = r * 2 * latent + l;
          const float at_z = forward.z.as<float>()[k], away = at_z - forward.stats.as<float>()[m],
                      precision = std::exp(-forward.stats.as<float>()[m + latent]);
          dz.as<float>()[k] = weight * (-at_z + away * precision);
          if (!dstats) continue;
          dstats.as<float>()[m] -= weight * away * precision;
          dstats.as<float>()[m + latent] += weight * (1 - away * away * precision) / 2;
        }
      }
  }
};

Value log_weight(const Value& output, const Value& x, const Value& z, const Value& stats) {
  struct Operation final : OperationOf<LogWeight> {
    using OperationOf::OperationOf;
    void differentiate(Gradients& g) const override {
      g.graph().add(LogWeightBackward{op, g.of(op.log_weight), g.into(op.output), g.into(op.z), g.into(op.stats)});
    }
  };
  const Value w = z.graph().make({z.shape()[0], z.shape()[1]});
  z.graph().append(std::make_unique<Operation>(LogWeight{output, x, z, stats, w}));
  return w;
}

// Self-normalised importance weights, squared: [R, S] of log weights [R, S]. It has no gradient.
struct SquaredWeights {
  static constexpr const char* name = "squared_weights";
  Tensor log_weight, squares;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("log_weight", op.log_weight, Access::read);
    f("squares", op.squares, Access::write);
  }
  std::string sizes() const { return squares.shape.str(); }
  void run(Backend&) const {
    const std::int64_t samples = squares.columns();
    for (std::int64_t r = 0; r < squares.rows(); ++r) {
      const float* const w = log_weight.as<float>() + r * samples;
      const float most = *std::max_element(w, w + samples);
      double sum = 0;
      for (std::int64_t s = 0; s < samples; ++s) sum += std::exp(double{w[s]} - most);
      for (std::int64_t s = 0; s < samples; ++s) {
        const double share = std::exp(double{w[s]} - most) / sum;
        squares.as<float>()[r * samples + s] = static_cast<float>(share * share);
      }
    }
  }
};

// total [1] = the sum of a * b, where b has no gradient.
struct Dot {
  static constexpr const char* name = "dot";
  Tensor a, b, total;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("a", op.a, Access::read);
    f("b", op.b, Access::read);
    f("total", op.total, Access::write);
  }
  std::string sizes() const { return a.shape.str(); }
  void run(Backend&) const {
    double sum = 0;
    for (std::int64_t i = 0; i < a.count(); ++i) sum += double{a.as<float>()[i]} * b.as<float>()[i];
    *total.as<float>() = static_cast<float>(sum);
  }
};

Value dot(const Value& a, const Value& b) {
  struct Operation final : OperationOf<Dot> {
    using OperationOf::OperationOf;
    void differentiate(Gradients& g) const override {
      g.graph().add(Axpy{.a = op.b, .b = op.b, .factor = g.weight_of(op.total) - 1, .out = g.into(op.a)});
    }
  };
  const Value total = a.graph().make({1});
  a.graph().append(std::make_unique<Operation>(Dot{a, b, total}));
  return total;
}

// -log N(z; mu, sigma^2) of each row up to a constant, [R, 1] of z [R, L] and stats [R, 2L]. Its gradient is stats's.
struct NormalLoss {
  static constexpr const char* name = "normal_loss";
  Tensor z, stats, loss;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("z", op.z, Access::read);
    f("stats", op.stats, Access::read);
    f("loss", op.loss, Access::write);
  }
  std::string sizes() const { return stats.shape.str(); }
  void run(Backend&) const {
    const std::int64_t latent = z.columns();
    for (std::int64_t r = 0; r < z.rows(); ++r) {
      double sum = 0;
      for (std::int64_t l = 0; l < latent; ++l) {
        const double away = double{z.as<float>()[r * latent + l]} - stats.as<float>()[r * 2 * latent + l],
                     log_variance = stats.as<float>()[r * 2 * latent + latent + l];
        sum += (away * away / std::exp(log_variance) + log_variance) / 2;
      }
      loss.as<float>()[r] = static_cast<float>(sum);
    }
  }
};

struct NormalLossBackward {
  static constexpr const char* name = "normal_loss_backward";
  Tensor z, stats;
  float weight;
  Tensor dstats;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("z", op.z, Access::read);
    f("stats", op.stats, Access::read);
    f("dstats", op.dstats, Access::write);
  }
  std::string sizes() const { return stats.shape.str(); }
  void run(Backend&) const {
    const std::int64_t latent = z.columns();
    for (std::int64_t r = 0; r < z.rows(); ++r)
      for (std::int64_t l = 0; l < latent; ++l) {
        const std::int64_t m = r * 2 * latent + l;
        const float away = z.as<float>()[r * latent + l] - stats.as<float>()[m],
                    precision = std::exp(-stats.as<float>()[m + latent]);
        dstats.as<float>()[m] = -weight * away * precision;
        dstats.as<float>()[m + latent] = weight * (1 - away * away * precision) / 2;
      }
  }
};

RowLoss normal_loss(const Value& z, const Value& stats) {
  struct Operation final : OperationOf<NormalLoss> {
    using OperationOf::OperationOf;
    void differentiate(Gradients& g) const override {
      g.graph().add(NormalLossBackward{op.z, op.stats, g.weight_of(op.loss), g.into(op.stats)});
    }
  };
  const Value loss = z.graph().make({z.rows(), 1});
  z.graph().append(std::make_unique<Operation>(NormalLoss{z, stats, loss}));
  return {loss, z.rows(), 1};
}

// mean [C] += rate * (the mean over the rows of x [R, C] - mean).
struct RunningMean {
  static constexpr const char* name = "running_mean";
  Tensor x, mean;
  float rate;

  template <class Self, class F>
  static void each_tensor(Self& op, const F& f) {
    f("x", op.x, Access::read);
    f("mean", op.mean, Access::update);
  }
  std::string sizes() const { return x.shape.str(); }
  void run(Backend&) const {
    for (std::int64_t c = 0; c < x.columns(); ++c) {
      double sum = 0;
      for (std::int64_t r = 0; r < x.rows(); ++r) sum += x.as<float>()[r * x.columns() + c];
      float& m = mean.as<float>()[c];
      m += rate * (static_cast<float>(sum / static_cast<double>(x.rows())) - m);
    }
  }
};

// ---- Models
// ----------------------------------------------------------------------------------------------------------

struct Layer {
  Block weight, bias, dweight, dbias;

  Layer(Bench& bench, std::int64_t in, std::int64_t out, std::uint32_t stream)
      : weight(bench.make("weight", {out, in}, normals(out * in, stream, 0.4f))),
        bias(bench.make("bias", {out}, normals(out, stream + 1, 0.1f))),
        dweight(bench.make("dweight", {out, in})),
        dbias(bench.make("dbias", {out})) {}

  Value operator()(const Value& x, Activation activation = Activation::identity) const {
    return dense(x, x.graph().of(weight), x.graph().of(bias), activation);
  }
  void want(Graph& g, std::vector<std::pair<Value, Value>>& wanted) const {
    wanted.emplace_back(g.of(weight), g.of(dweight));
    wanted.emplace_back(g.of(bias), g.of(dbias));
  }
};

// Doubly reparameterised gradients (arXiv 1810.04152): through z alone, each weighed by its squared importance weight,
// while log q's own dependence on the encoder is stopped.
TEST(LaterModels, DoublyReparameterisedGradients) {
  constexpr std::int64_t rows = 3, samples = 4, latent = 2, d = 5;
  Bench bench;
  const Block x = bench.make("x", {rows, d}, normals(rows * d, 1)), state = bench.make_state(7);
  const Block stats = bench.make("stats", {rows, 2 * latent}, normals(rows * 2 * latent, 2, 0.7f));
  const Block dstats = bench.make("dstats", {rows, 2 * latent});
  const Layer decoder(bench, latent, d, 10);
  auto graph = std::make_unique<Graph>("dreg");
  {
    Graph& g = *graph;
    const Value s = g.of(stats), z = sample_latent(s, g.of(state), samples, {});
    const Value output = decoder(z.reshaped({rows * samples, latent}));
    const Value w = log_weight(output, g.of(x), z, g.stop_gradient(s));
    const Value squares = g.make({rows, samples});
    g.add(SquaredWeights{w, squares});
    g.differentiate(-1.0 * sum(dot(w, g.stop_gradient(squares))), {{s, g.of(dstats)}});
    fuse(g);
  }
  Program(std::move(graph), bench.device, "a test").run();

  const Floats got = bench.get(dstats.memory), st = bench.get(stats.memory), xs = bench.get(x.memory),
               weight = bench.get(decoder.weight.memory), bias = bench.get(decoder.bias.memory);
  for (std::int64_t r = 0; r < rows; ++r) {
    double log_w[samples], slope[samples][latent], eps[samples][latent], sigma[latent], all = 0;
    for (std::int64_t l = 0; l < latent; ++l) sigma[l] = std::exp(0.5 * st[at(r * 2 * latent + latent + l)]);
    for (std::int64_t s = 0; s < samples; ++s) {
      double z[latent], e[d];
      log_w[s] = 0;
      for (std::int64_t l = 0; l < latent; ++l) {
        const math::Draw draw{3, Purpose::latent, 7, static_cast<std::uint32_t>(r), static_cast<std::uint32_t>(s)};
        eps[s][l] = math::normals(draw, 0).v[l];
        z[l] = st[at(r * 2 * latent + l)] + sigma[l] * eps[s][l];
        log_w[s] += -z[l] * z[l] / 2 + std::log(sigma[l]) + eps[s][l] * eps[s][l] / 2;
        slope[s][l] = -z[l] + eps[s][l] / sigma[l];
      }
      for (std::int64_t i = 0; i < d; ++i) {
        e[i] = xs[at(r * d + i)] - bias[at(i)];
        for (std::int64_t l = 0; l < latent; ++l) e[i] -= weight[at(i * latent + l)] * z[l];
        log_w[s] -= e[i] * e[i] / 2;
      }
      for (std::int64_t l = 0; l < latent; ++l)
        for (std::int64_t i = 0; i < d; ++i) slope[s][l] += e[i] * weight[at(i * latent + l)];
      all += std::exp(log_w[s]);
    }
    for (std::int64_t l = 0; l < latent; ++l) {
      double dmu = 0, ds = 0;
      for (std::int64_t s = 0; s < samples; ++s) {
        const double share = std::exp(log_w[s]) / all;
        dmu -= share * share * slope[s][l];
        ds -= share * share * slope[s][l] * 0.5 * sigma[l] * eps[s][l];
      }
      // log w is rounded to f32: its error is that of w, relatively.
      EXPECT_NEAR(got[at(r * 2 * latent + l)], dmu, 1e-5 * (1 + std::abs(dmu)));
      EXPECT_NEAR(got[at(r * 2 * latent + latent + l)], ds, 1e-5 * (1 + std::abs(ds)));
    }
  }
}

// Wake-sleep: the decoder learns from the encoder's samples, then the encoder from the decoder's dreams. Two losses,
// two groups of parameters, two updates in one list.
TEST(LaterModels, TwoUpdatesOfTheirOwnParameters) {
  constexpr std::int64_t rows = 6, latent = 2, d = 4;
  Bench bench;
  Block target{"target", {rows, d}, DType::u8};
  bench.allocate(target);
  const std::vector<std::uint8_t> pixels(rows * d, 200);
  bench.device.upload(target.memory, pixels.data());
  const Block x = bench.make("x", {rows, d}, Floats(rows * d, 200 / 255.0f)),
              dream_z = bench.make("dream", {rows, latent}, normals(rows * latent, 3)), state = bench.make_state(2);
  const Layer encoder(bench, d, 2 * latent, 10), decoder(bench, latent, d, 20);
  const Block moment = bench.make("moment", {2 * latent * d});
  const math::OptimizerSettings sgd{.type = OptimizerType::sgd, .learning_rate = 0.1f};

  auto graph = std::make_unique<Graph>("wake_sleep");
  Value losses[2];
  {
    Graph& g = *graph;
    std::vector<std::pair<Value, Value>> decoders, encoders;
    decoder.want(g, decoders);
    encoder.want(g, encoders);
    const auto update = [&](const Block& weight, const Block& gradient) {
      const Shape flat{weight.shape.count()};
      const Value m = g.of(moment).part(0, flat);
      g.add(OptimizerStep{.parameters = g.of(weight).reshaped(flat),
                          .gradients = g.of(gradient).reshaped(flat),
                          .first_moment = m,
                          .second_moment = m,
                          .state = g.of(state),
                          .settings = sgd});
    };
    const Value z = g.stop_gradient(sample_latent(encoder(g.of(x)), g.of(state), 1, {}));
    const RowLoss wake = likelihood_loss(decoder(z.reshaped({rows, latent})), g.of(target), {});
    g.differentiate(mean(wake), decoders);
    update(decoder.weight, decoder.dweight);
    const Value dream = g.stop_gradient(decoder(g.of(dream_z), Activation::tanh));  // by the decoder of now
    const RowLoss sleep = normal_loss(g.of(dream_z), encoder(dream));
    g.differentiate(mean(sleep), encoders);
    update(encoder.weight, encoder.dweight);
    g.keep(losses[0] = wake.partial);
    g.keep(losses[1] = sleep.partial);
    fuse(g);
  }
  const Program program(std::move(graph), bench.device, "a test");
  const auto loss = [&](int k) {
    double sum = 0;
    for (const float v : bench.get(program.tensor(losses[k]))) sum += v;
    return sum / rows;
  };
  const Floats before[] = {bench.get(decoder.weight.memory), bench.get(encoder.weight.memory)};
  program.run();
  const double first[] = {loss(0), loss(1)};
  const Floats after[] = {bench.get(decoder.weight.memory), bench.get(encoder.weight.memory)},
               gradients[] = {bench.get(decoder.dweight.memory), bench.get(encoder.dweight.memory)};
  for (int k = 0; k < 2; ++k)
    for (std::size_t i = 0; i < before[k].size(); ++i) {
      EXPECT_NE(gradients[k][i], 0);
      EXPECT_EQ(after[k][i], before[k][i] - 0.1f * gradients[k][i]) << k << ", " << i;
    }
  for (int i = 0; i < 200; ++i) program.run();
  EXPECT_LT(loss(0), first[0] - 0.1);
  EXPECT_LT(loss(1), first[1] - 0.1);
}

// A leapfrog move of Hamiltonian Monte Carlo in z: the gradient of -log p(x, z) with respect to z alone, twice. Its
// energy is kept up to the cube of its length.
TEST(LaterModels, AMoveAlongTheGradientOfTheLatentAlone) {
  constexpr std::int64_t rows = 4, latent = 3, d = 8;
  Bench bench;
  Block target{"target", {rows, d}, DType::u8};
  bench.allocate(target);
  std::vector<std::uint8_t> pixels;
  for (std::int64_t i = 0; i < rows * d; ++i) pixels.push_back(static_cast<std::uint8_t>(37 * i % 256));
  bench.device.upload(target.memory, pixels.data());
  const Layer hidden(bench, latent, 6, 10), output(bench, 6, d, 20);

  const auto error_of_energy = [&](float length) {
    auto graph = std::make_unique<Graph>("leapfrog");
    Graph& g = *graph;
    const Value z0 = g.input({rows, latent}), p0 = g.input({rows, latent});
    std::vector<Value> losses;
    const auto slope = [&](const Value& z) {  // of -log p(x, z)
      const RowLoss nll = likelihood_loss(output(hidden(z, Activation::tanh)), g.of(target), {});
      g.keep(nll.partial);
      losses.push_back(nll.partial);
      const Value dz = g.make(z.shape());
      g.differentiate(sum(nll.partial), {{z, dz}});
      return axpy(dz, z, 1.0f);
    };
    const Value half = axpy(p0, slope(z0), -0.5f * length), z1 = axpy(z0, half, length),
                p1 = axpy(half, slope(z1), -0.5f * length);
    for (const Value& v : {z0, p0, z1, p1}) g.keep(v);
    fuse(g);
    const Program program(std::move(graph), bench.device, "a test");
    for (const Graph::Call& call : program.calls()) {
      const auto* const back = call.operation->as<DenseBackward>();
      EXPECT_TRUE(!back || !back->dweight);
    }
    bench.device.upload(program.tensor(z0), normals(rows * latent, 5).data());
    bench.device.upload(program.tensor(p0), normals(rows * latent, 6).data());
    program.run();
    const auto energy = [&](const Value& loss, const Value& z, const Value& p) {
      double sum = 0;
      for (const float v : bench.get(program.tensor(loss))) sum += v;
      for (const Value& of : {z, p})
        for (const float v : bench.get(program.tensor(of))) sum += double{v} * v / 2;
      return sum;
    };
    return std::abs(energy(losses[1], z1, p1) - energy(losses[0], z0, p0));
  };
  const double large = error_of_energy(0.05f), small = error_of_energy(0.025f);
  EXPECT_GT(small, 1e-5);
  EXPECT_NEAR(large / small, 8, 1.5);
}

// State that is no weight: no gradient goes to it, and it stays from run to run.
TEST(LaterModels, ARunningStatistic) {
  Bench bench;
  const Block x = bench.make("x", {4, 3}, normals(12, 1)), running = bench.make("running", {3});
  const Layer layer(bench, 3, 3, 10), other(bench, 3, 6, 20);
  auto graph = std::make_unique<Graph>("statistic");
  Graph& g = *graph;
  const Value h = layer(g.of(x), Activation::tanh);
  g.keep(h);
  g.add(RunningMean{h, g.of(running), 0.25f});
  std::vector<std::pair<Value, Value>> wanted;
  layer.want(g, wanted);
  other.want(g, wanted);
  const RowLoss loss = normal_loss(g.of(running).reshaped({1, 3}), other(g.of(running).reshaped({1, 3})));
  g.differentiate(mean(loss), wanted);
  fuse(g);
  const Program program(std::move(graph), bench.device, "a test");
  double expected[3] = {};
  for (int step = 0; step < 3; ++step) {
    program.run();
    const Floats values = bench.get(program.tensor(h)), now = bench.get(running.memory);
    for (std::size_t c = 0; c < 3; ++c) {
      const double mean = (double{values[c]} + values[3 + c] + values[6 + c] + values[9 + c]) / 4;
      expected[c] += 0.25 * (mean - expected[c]);
      EXPECT_NEAR(now[c], expected[c], 1e-6);
    }
  }
  EXPECT_EQ(bench.get(layer.dweight.memory), Floats(9, 0.0f));  // the statistic hides it
  EXPECT_NE(bench.get(other.dweight.memory), Floats(18, 0.0f));
}

}  // namespace
}  // namespace elbo
