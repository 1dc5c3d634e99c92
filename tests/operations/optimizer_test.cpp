// The end of a step: running sums, the update of the weights, the move to the next step, and all of it at once.
#include <cmath>

#include "tests/operations/cases.h"
#include "tests/operations/lab.h"

namespace elbo::test {
namespace {

// ---- Sums -------------------------------------------------------------------------------------------------------

struct LossCase {
  std::int64_t rows, columns, samples;
  bool by_column;
};
// A loss and the KL of latent units, as in every model; more losses, and others: fewer and more columns than a block
// has threads.
const std::vector<LossCase> loss_cases[] = {
    {{7, 1, 1, false}},
    {{1, 1, 1, false}, {1, 1, 1, true}},
    {{33, 1, 1, false}, {2, 2, 1, true}},
    {{100 * 5, 1, 5, false}, {4, 20, 1, true}},
    {{64, 29, 1, false}, {2, 300, 1, true}},
    {{33, 1, 1, false}, {2, 2, 1, true}, {33, 1, 1, false}},
    {{3, 257, 3, true}, {1000, 1, 1, false}, {1, 5, 1, true}, {3, 4, 4, false}}};

TEST_P(Ops, Accumulate) {
  for (const std::vector<LossCase>& cases : loss_cases) {
    Lab& d = next();
    Accumulate a{.losses = {}, .state = d.put(some_state()), .sums = {}, .rows = 33};
    std::vector<double> want{1033};
    for (std::size_t k = 0; k < cases.size(); ++k) {
      const auto [rows, columns, samples, by_column] = cases[k];
      const Floats partial = normals(rows * columns, 22 + static_cast<std::uint32_t>(k), 100, 300);
      a.losses[k] = {.partial = d.put({rows, columns}, partial), .samples = samples, .by_column = by_column};
      const std::size_t first = want.size(), sums = at(a.losses[k].sums());
      want.resize(first + sums, 1000.0);
      for (std::size_t i = 0; i < partial.size(); ++i)
        want[first + i % sums] += double{partial[i]} / static_cast<double>(samples);
    }
    a.sums = d.put({std::ssize(want)}, std::vector<double>(want.size(), 1000.0));
    d.run(a);
    const std::vector<double> sums = d.get<double>(a.sums);
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(sums[i], want[i], 1e-12 * want[i]) << i;  // sums of some thousand doubles, in another order
    }
    EXPECT_EQ(d.state(a.state).bad_step, StepState::none);
  }
}

TEST_P(Ops, AccumulateNotesTheFirstLossThatIsNotFinite) {
  for (const float planted : {nan, infinity, -infinity}) {
    for (std::size_t in = 0; in < 4; ++in) {
      Lab& d = next();
      Floats values[4] = {normals(300, 1), normals(10, 2), normals(150, 3), normals(300, 4)};
      values[in][in == 1 ? 7 : values[in].size() - 1] = planted;
      const Tensor state = d.put(some_state(5));
      const Accumulate a{.losses = {{{.partial = d.put({150, 2}, values[0])},
                                     {.partial = d.put({5, 2}, values[1]), .by_column = true},
                                     {.partial = d.put({150}, values[2])},
                                     {.partial = d.put({100, 3}, values[3]), .samples = 2, .by_column = true}}},
                         .state = state,
                         .sums = d.put({8}, std::vector<double>(8)),
                         .rows = 150};
      d.run(a);
      EXPECT_EQ(d.state(state).bad_step, 5u) << in;
      StepState earlier = some_state(5);
      earlier.bad_step = 1;
      d->upload(state, &earlier);
      d.run(a);
      EXPECT_EQ(d.state(state).bad_step, 1u) << in;
    }
  }
}

TEST_P(OpsAligned, AccumulateRefusesWrongShapes) {
  Lab& d = lab();
  const Tensor t4 = d.make({4}), halves = d.make({2, 3}, DType::bf16), nll = d.make({2, 1}), kl = d.make({1, 2});
  const Accumulate losses{.losses = {{{.partial = nll}, {.partial = kl, .by_column = true}}},
                          .state = d.put(some_state()),
                          .sums = d.make({4}, DType::f64),
                          .rows = 2};
  EXPECT_NO_THROW(d->run(losses));
  const auto refuse = [&](const auto& change, const char* says) {
    Accumulate a = losses;
    change(a);
    expect_refused(says, [&] { d->run(a); });
  };
  refuse([&](Accumulate& a) { a.sums = t4; }, "accumulate: sums");
  refuse([&](Accumulate& a) { a.losses[2] = {.partial = nll}; }, "accumulate: sums");
  refuse([&](Accumulate& a) { a.rows = 0; }, "accumulate: 0 rows");
  refuse([&](Accumulate& a) { a.losses[0] = {}; }, "accumulate: losses[0]");
  refuse([&](Accumulate& a) { a.losses[1] = {.partial = halves}; }, "accumulate: losses[1]");
  refuse([&](Accumulate& a) { a.losses[3] = {.partial = nll}; }, "accumulate: losses[3] comes behind");
  refuse([&](Accumulate& a) { a.losses[1].samples = 0; }, "accumulate: losses[1] of 0 samples");
}

// ---- The update -------------------------------------------------------------------------------------------------

math::OptimizerSettings settings_for(OptimizerType type, float weight_decay) {
  math::OptimizerSettings o;
  o.type = type;
  o.learning_rate = 0.01f;
  o.momentum = type == OptimizerType::sgd ? 0.9f : 0.0f;
  o.weight_decay = weight_decay;
  return o;
}

constexpr OptimizerType optimizers[] = {OptimizerType::adam, OptimizerType::adagrad, OptimizerType::sgd};

struct Weights {
  Floats parameters, gradients, first, second;

  // Moments of 0.25, or other ones.
  explicit Weights(std::int64_t n, float moments = 0.25f)
      : parameters(normals(n, 1)), gradients(normals(n, 2, 0.1f)), first(at(n), moments), second(at(n), moments) {}

  OptimizerStep on(Lab& d, const StepState& state, const math::OptimizerSettings& settings) const {
    const Shape shape{std::ssize(parameters)};
    return {.parameters = d.put(shape, parameters),
            .gradients = d.put(shape, gradients),
            .first_moment = d.put(shape, first),
            .second_moment = d.put(shape, second),
            .state = d.put(state),
            .settings = settings};
  }
};

TEST_P(Ops, OptimizerStep) {
  for (const std::int64_t n : parameter_counts) {
    Weights w(n);
    w.first = normals(n, 3, 0.1f), w.second = normals(n, 4, 0.1f);
    for (float& x : w.second) x *= x;
    const Floats sums = w.second, moments = w.first;
    for (OptimizerType type : optimizers) {
      w.first = type == OptimizerType::adagrad ? sums : moments;  // of squares
      for (const float weight_decay : {0.0f, 0.1f}) {
        Lab& d = next();
        const OptimizerStep a = w.on(d, some_state(), settings_for(type, weight_decay));
        d.run(a);
        Expected want_p(n), want_m(n), want_v(n);
        for (std::int64_t i = 0; i < n; ++i) {
          double pi = w.parameters[at(i)], mi = w.first[at(i)], vi = w.second[at(i)];
          const double g = w.gradients[at(i)], before = pi, gradient = std::abs(g) + weight_decay * std::abs(pi);
          want_m.magnitude[at(i)] = std::abs(mi) + gradient * (type == OptimizerType::adagrad ? gradient : 1);
          math::optimizer_update(pi, g, mi, vi, a.settings, double{some_state().correction1},
                                 double{some_state().correction2});
          want_p.value[at(i)] = pi;
          want_m.value[at(i)] = mi;
          want_v.add(i, vi);
          want_v.magnitude[at(i)] += gradient * gradient;
          // Eight roundings of up to 6e-8 each; the update's terms may cancel (m and the new gradient), so it errs
          // by some 1e-6 of its usual length.
          want_p.magnitude[at(i)] = std::abs(before) + std::abs(pi - before) + 1;
        }
        const std::string which = cat("optimizer ", static_cast<int>(type), ", n ", n);
        expect_close(d.get(a.parameters), want_p, 3e-7, "parameters, " + which);
        expect_close(d.get(a.first_moment), want_m, 4e-7, "first, " + which);
        expect_close(d.get(a.second_moment), want_v, 4e-7, "second, " + which);
        EXPECT_EQ(d.state(a.state).bad_update, StepState::none);
      }
    }
  }
}

// Roots and quotients are correctly rounded everywhere: gradients of all sizes and states that are 0 give the bits of
// the CPU. Half of the weights are 0, so that their update is seen to its last bit.
TEST_P(OpsAligned, OptimizerGivesTheBitsOfTheCpu) {
  constexpr std::int64_t n = 20'001;
  Lab cpu({"cpu"});
  const auto expect_same = [&](const math::OptimizerSettings& settings, const Weights& w, const std::string& which) {
    std::vector<Floats> results;
    for (Lab* d : {&next(), &cpu}) {
      const OptimizerStep a = w.on(*d, some_state(), settings);
      (*d)->run(a);
      for (const Tensor& t : {a.parameters, a.first_moment, a.second_moment}) results.push_back(d->get(t));
      EXPECT_EQ(d->state(a.state).bad_update, StepState::none) << which;
      d->clear();
    }
    for (std::size_t i = 0; i < 3; ++i) {
      constexpr const char* names[] = {"parameters, ", "first, ", "second, "};
      expect_same_bits(results[i], results[3 + i], names[i] + which);
    }
  };
  Weights w(n, 0.0f);
  w.gradients = normals(n, 2);
  for (std::int64_t i = 0; i < n; ++i) {
    float& g = w.gradients[at(i)];
    g *= static_cast<float>(std::pow(10.0, -3 - 35.0 * static_cast<double>(i) / n));  // 1e-3 to 1e-38
    if (i % 2 == 0) w.parameters[at(i)] = 0;
    if (i % 4 < 2) continue;
    w.first[at(i)] = std::abs(g);
    w.second[at(i)] = g * g;
  }
  for (const OptimizerType type : optimizers) {
    for (const float weight_decay : {0.0f, 0.1f}) {
      expect_same(settings_for(type, weight_decay), w,
                  cat("optimizer ", static_cast<int>(type), ", weight decay ", weight_decay));
    }
  }
  // The divisor whose reciprocal an approximation may get stuck below: 1 - 2^-24, with powers of two above it.
  math::OptimizerSettings hardest = settings_for(OptimizerType::adagrad, 0.0f);
  hardest.learning_rate = 0x1p-7f;
  hardest.epsilon = 0;
  Weights hard(70, 0.0f);
  for (int i = 0; i < 70; ++i) {
    hard.parameters[at(i)] = 0;
    hard.gradients[at(i)] = std::exp2(-static_cast<float>(30 + i));
    hard.first[at(i)] = 0x1.fffffcp-1f;  // the square of 1 - 2^-24, as rounded
  }
  ASSERT_EQ(std::sqrt(hard.first[0]), 0x1.fffffep-1f);
  expect_same(hardest, hard, "1 / (1 - 2^-24)");
}

TEST_P(Ops, OptimizerDoesNothingAfterABadStep) {
  StepState s = some_state();
  s.bad_step = 4;
  for (const std::int64_t n : {1, 6, 100, 1024, 2050}) {
    const Weights w(n);
    for (OptimizerType type : optimizers) {
      Lab& d = next();
      const OptimizerStep a = w.on(d, s, settings_for(type, 0.0f));
      d.run(a);
      expect_same_bits(d.get(a.parameters), w.parameters, "parameters");
      expect_same_bits(d.get(a.first_moment), w.first, "first");
      expect_same_bits(d.get(a.second_moment), w.second, "second");
    }
  }
}

// Such a weight keeps its value and its state; all others move. The first bad update stays noted.
TEST_P(Ops, OptimizerNotesWhatIsNotFinite) {
  for (const std::int64_t n : {1, 6, 1025, 20'000}) {
    for (OptimizerType type : optimizers) {
      for (const float planted : {nan, infinity}) {
        for (const bool in_gradient : {true, false}) {
          for (const std::int64_t place : {std::int64_t{0}, n - 1}) {
            Lab& d = next();
            Weights w(n);
            w.gradients = normals(n, 2, 0.1f, 1.0f);
            (in_gradient ? w.gradients : w.parameters)[at(place)] = planted;
            const OptimizerStep a = w.on(d, some_state(5), settings_for(type, 0.0f));
            d.run(a);
            const std::string which = cat(n, " weights, optimizer ", static_cast<int>(type), ", ", planted, " at ",
                                          place, in_gradient ? " of the gradients" : "");
            StepState state = d.state(a.state);
            EXPECT_EQ(state.bad_update, 5u) << which;
            EXPECT_EQ(state.bad_step, StepState::none) << which;
            const Floats after = d.get(a.parameters);
            expect_same_bits({after[at(place)]}, Floats{w.parameters[at(place)]}, which);
            EXPECT_EQ(d.get(a.first_moment)[at(place)], 0.25f) << which;
            EXPECT_EQ(d.get(a.second_moment)[at(place)], 0.25f) << which;
            for (std::int64_t i = 0; i < n; ++i)
              ASSERT_TRUE(i == place || after[at(i)] != w.parameters[at(i)]) << which << ", " << i;
            state.bad_update = 1;
            d->upload(a.state, &state);
            d->run(a);
            EXPECT_EQ(d.state(a.state).bad_update, 1u) << which;
          }
        }
      }
    }
  }
}

// A finite gradient whose square is not: the weight could never move again.
TEST_P(Ops, OptimizerNotesAStateThatOverflows) {
  for (OptimizerType type : {OptimizerType::adam, OptimizerType::adagrad}) {
    Lab& d = next();
    Weights w(100, 0.0f);
    w.gradients[37] = 1e30f;
    const OptimizerStep a = w.on(d, some_state(5), settings_for(type, 0.0f));
    d.run(a);
    EXPECT_EQ(d.state(a.state).bad_update, 5u) << static_cast<int>(type);
    EXPECT_EQ(d.get(a.parameters)[37], w.parameters[37]);
    EXPECT_EQ(d.get(a.first_moment)[37], 0.0f);
    EXPECT_EQ(d.get(a.second_moment)[37], 0.0f);
  }
}

TEST_P(OpsAligned, OptimizerRefusesWrongShapes) {
  Lab& d = lab();
  const Tensor t4 = d.make({4});
  expect_refused("optimizer_step: first_moment", [&] {
    d->run(OptimizerStep{.parameters = t4,
                         .gradients = t4,
                         .first_moment = d.make({3}),
                         .second_moment = t4,
                         .state = d.put(some_state()),
                         .settings = {}});
  });
}

// ---- The next step ----------------------------------------------------------------------------------------------

void expect_same(const StepState& a, const StepState& b, const std::string& which) {
  EXPECT_EQ(a.seed, b.seed) << which;
  EXPECT_EQ(a.step, b.step) << which;
  EXPECT_EQ(a.epoch, b.epoch) << which;
  EXPECT_EQ(a.batch, b.batch) << which;
  EXPECT_EQ(a.noise_step, b.noise_step) << which;
  EXPECT_EQ(a.row0, b.row0) << which;
  EXPECT_EQ(a.correction1, b.correction1) << which;
  EXPECT_EQ(a.correction2, b.correction2) << which;
  EXPECT_EQ(a.bad_step, b.bad_step) << which;
  EXPECT_EQ(a.bad_update, b.bad_update) << which;
  EXPECT_EQ(a.blocks_done, b.blocks_done) << which;
}

TEST_P(OpsAligned, AdvanceMovesOnAndReportsTheFirstFault) {
  Lab& d = lab();
  const Tensor fault = d.make_pinned({1}, DType::u64);
  const auto advance_from = [&](const StepState& s, const Schedule& schedule) {
    *fault.as<std::uint64_t>() = 77;
    const Tensor state = d.put(s);
    d.run(Advance{.state = state, .schedule = schedule, .fault = fault});
    d->synchronize();
    return d.state(state);
  };
  const Schedule training{.batches_per_epoch = 4, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f};
  const Schedule evaluation{.batches_per_epoch = 3, .rows_per_batch = 10};
  for (const Schedule& schedule : {training, evaluation}) {
    for (std::uint32_t step = 0; step < 9; ++step) {
      const StepState got = advance_from(state_at(77, step, schedule), schedule);
      StepState want = state_at(77, step + 1, schedule);
      if (d.is("cuda")) {  // whose library has its own expm1 and log
        EXPECT_FLOAT_EQ(got.correction1, want.correction1);
        EXPECT_FLOAT_EQ(got.correction2, want.correction2);
        want.correction1 = got.correction1, want.correction2 = got.correction2;
      }
      expect_same(got, want, cat("after step ", step));
      EXPECT_EQ(*fault.as<std::uint64_t>(), 77u);
    }
  }
  struct Case {
    std::uint64_t step, update, first;
  };
  for (const auto [step, update, first] :
       {Case{4, StepState::none, 4}, Case{StepState::none, 6, 6}, Case{5, 6, 5}, Case{6, 5, 5}, Case{6, 7, 6}}) {
    StepState s = state_at(77, 6, training);
    s.bad_step = step;
    s.bad_update = update;
    const StepState got = advance_from(s, training);
    EXPECT_EQ(got.bad_step, first);
    EXPECT_EQ(got.bad_update, update);
    EXPECT_EQ(*fault.as<std::uint64_t>(), first);
  }
}

// ---- All at once ------------------------------------------------------------------------------------------------

// All at once gives the bits of one after the other, on sizes that leave blocks with tails and without, and more than
// the simulated device's blocks take in one round; the last has more losses than are looked through by every block.
TEST_P(Ops, FinishStepEqualsItsParts) {
  const Schedule schedule{.batches_per_epoch = 4, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f};
  enum class Plant { nothing, loss, kl, further, gradient, an_earlier_fault };
  struct Case {
    OptimizerType type;
    std::int64_t parameters, rows;
  };
  for (const auto [type, n, rows] : {Case{OptimizerType::adam, 1, 150}, Case{OptimizerType::adam, 1023, 150},
                                     Case{OptimizerType::adagrad, 1024, 150}, Case{OptimizerType::sgd, 5001, 150},
                                     Case{OptimizerType::adam, 40'000, 150}, Case{OptimizerType::adagrad, 30'001, 33},
                                     Case{OptimizerType::adam, 1500, 4500}}) {
    for (const Plant plant :
         {Plant::nothing, Plant::loss, Plant::kl, Plant::further, Plant::gradient, Plant::an_earlier_fault}) {
      struct Outcome {
        Floats parameters, first, second;
        std::vector<double> sums;
        StepState state;
        std::uint64_t fault;
      };
      const auto finish = [&](bool at_once) {
        Lab& d = next();
        const Tensor fault = d.make_pinned({1}, DType::u64);
        *fault.as<std::uint64_t>() = StepState::none;
        const std::int64_t kl_tiles = ceil_div(rows, latent_tile);
        Floats nll = normals(2 * rows, 1, 50.0f, 300.0f), kl = normals(kl_tiles * 6, 2), further = normals(rows, 5);
        Weights w(n);
        StepState before = some_state(5);
        if (plant == Plant::loss) nll.back() = infinity;
        if (plant == Plant::kl) kl[17 % kl.size()] = nan;
        if (plant == Plant::further) further[at(rows - 1)] = -infinity;
        if (plant == Plant::gradient) w.gradients[at(n - 1)] = nan;
        if (plant == Plant::an_earlier_fault) before.bad_update = before.bad_step = 2;
        const OptimizerStep update = w.on(d, before, settings_for(type, 0.0f));
        const FinishStep a{.losses = {.losses = {{{.partial = d.put({rows, 2}, nll)},
                                                  {.partial = d.put({kl_tiles, 6}, kl), .by_column = true},
                                                  {.partial = d.put({rows}, further)}}},
                                      .state = update.state,
                                      .sums = d.put({9}, std::vector<double>(9, 0.5)),
                                      .rows = rows},
                           .update = update,
                           .advance = {.state = update.state, .schedule = schedule, .fault = fault}};
        if (at_once) {
          d.run(a);
        } else {
          d->run(a.losses);
          d->run(a.update);
          d->run(a.advance);
        }
        d->synchronize();
        return Outcome{d.get(update.parameters),     d.get(update.first_moment), d.get(update.second_moment),
                       d.get<double>(a.losses.sums), d.state(update.state),      *fault.as<std::uint64_t>()};
      };
      const Outcome once = finish(true), parts = finish(false);
      const std::string which = cat(n, " parameters, planted ", static_cast<int>(plant));
      expect_same_bits(once.parameters, parts.parameters, "parameters, " + which);
      expect_same_bits(once.first, parts.first, "first, " + which);
      expect_same_bits(once.second, parts.second, "second, " + which);
      expect_same_bits(once.sums, parts.sums, "sums, " + which);
      expect_same(once.state, parts.state, which);
      EXPECT_EQ(once.state.step, 6u);
      EXPECT_EQ(once.state.blocks_done, 0u) << which;
      EXPECT_EQ(once.fault, parts.fault) << which;
      const std::uint64_t bad = plant == Plant::nothing ? StepState::none : plant == Plant::an_earlier_fault ? 2 : 5;
      EXPECT_EQ(once.fault, bad) << which;
      EXPECT_EQ(once.parameters == Weights(n).parameters,
                bad != StepState::none && (plant != Plant::gradient || n == 1))
          << which;
    }
  }
}

TEST_P(OpsAligned, FinishStepRefusesWrongShapes) {
  Lab& d = lab();
  const Tensor t4 = d.make({4}), state = d.put(some_state()), other_state = d.put(some_state());
  const Tensor fault = d.make_pinned({1}, DType::u64);
  const auto refuse = [&](const char* says, const Tensor& of_update, const Tensor& of_advance, const Tensor& faults) {
    const FinishStep op{.losses = {.losses = {{{.partial = d.make({2, 1})}}},
                                   .state = state,
                                   .sums = d.make({2}, DType::f64),
                                   .rows = 2},
                        .update = {.parameters = t4,
                                   .gradients = t4,
                                   .first_moment = t4,
                                   .second_moment = t4,
                                   .state = of_update,
                                   .settings = {}},
                        .advance = {.state = of_advance, .schedule = {}, .fault = faults}};
    expect_refused(says, [&] { d->run(op); });
  };
  refuse("advance: fault", state, state, t4);
  refuse("advance: state", state, t4, fault);
  refuse("finish_step: two states", other_state, state, fault);
}

}  // namespace
}  // namespace elbo::test
