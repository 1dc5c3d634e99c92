// -log p(x|z) of images, and its gradient.
#include "elbo/math/likelihood.h"

#include <cmath>
#include <map>
#include <tuple>
#include <type_traits>

#include "tests/operations/cases.h"
#include "tests/operations/lab.h"

namespace elbo::test {
namespace {

constexpr Likelihood likelihoods[] = {Likelihood::bernoulli, Likelihood::gaussian, Likelihood::gaussian_learned};

struct LikelihoodCase {
  Likelihood likelihood;
  LossVariant kernels;
  bool bytes, grad, in_place;
  bool halves = false;  // output and gradient are bf16
  bool value = true, weighed = false;
  PixelMean mean = PixelMean::identity;

  std::int64_t columns(const PixelCase& c) const { return outputs_of_pixel(likelihood) * c.pixels; }
};

// What decoders say: logits or means, and behind those of a row raw log variances on both sides of the least one.
Floats decoder_outputs(const PixelCase& c, Likelihood likelihood, float deviation) {
  const std::int64_t columns = outputs_of_pixel(likelihood) * c.pixels;
  Floats output = normals(c.rows * c.samples * columns, 1, deviation);
  for (std::size_t i = 0; i < output.size(); ++i)
    if (i % at(columns) >= at(c.pixels)) output[i] -= 7;
  return output;
}

// The gradient of the objective with respect to the loss of a chunk, beside a grad_scale of 0.125.
Floats loss_weights(const PixelCase& c) {
  return normals(c.rows * c.samples * ceil_div(c.pixels, pixel_chunk), 3, 0.5f);
}

LikelihoodLoss make_loss(Lab& d, const LikelihoodCase& k, const PixelCase& c, const Floats& output,
                         const Tensor& target) {
  LikelihoodLoss a;
  if (k.halves) {
    std::vector<math::Bf16> halves;
    for (const float o : output) halves.push_back(math::to_bf16(o));
    a.output = d.put({c.rows * c.samples, k.columns(c)}, halves);
  } else {
    a.output = d.put({c.rows * c.samples, k.columns(c)}, output);
  }
  a.target = target;
  a.likelihood = k.likelihood;
  a.variant = k.kernels;
  a.variance = 0.3f;
  a.mean = k.mean;
  a.grad_scale = 0.125f;
  const Shape partials{c.rows * c.samples, ceil_div(c.pixels, pixel_chunk)};
  if (k.value) a.nll_partial = d.make(partials);
  if (k.weighed) a.dnll_partial = d.put(partials, loss_weights(c));
  if (k.grad) a.grad = k.in_place ? a.output : d.make(a.output.shape, a.output.dtype);
  if (a.scratch_size() > 0) a.scratch = d.make({a.scratch_size()});
  return a;
}

// Of bytes, or of what they stand for.
LikelihoodLoss make_loss(Lab& d, const LikelihoodCase& k, const PixelCase& c, const Floats& output,
                         const Bytes& target) {
  const Shape shape{c.rows, c.pixels};
  if (k.bytes) return make_loss(d, k, c, output, d.put(shape, target));
  Floats values(target.size());
  for (std::size_t i = 0; i < target.size(); ++i) values[i] = math::pixel_value<float>(target[i]);
  return make_loss(d, k, c, output, d.put(shape, values));
}

std::vector<LikelihoodCase> likelihood_variants() {
  std::vector<LikelihoodCase> all;
  for (Likelihood likelihood : likelihoods) {
    for (LossVariant kernels : all_kernels) {
      for (const bool bytes : {true, false}) {
        for (const bool halves : {false, true}) {
          if (halves && kernels == LossVariant::unfused) continue;  // which takes floats only
          all.push_back({likelihood, kernels, bytes, true, false, halves});
          all.push_back({likelihood, kernels, bytes, true, true, halves});
          all.push_back({likelihood, kernels, bytes, false, false, halves});
          all.push_back({likelihood, kernels, bytes, true, true, halves, false, false});
          all.push_back({likelihood, kernels, bytes, true, false, halves, false, true});
          all.push_back({likelihood, kernels, bytes, true, true, halves, true, true});
          if (likelihood != Likelihood::gaussian_learned) continue;
          all.push_back({likelihood, kernels, bytes, true, false, halves, true, false, PixelMean::sigmoid});
          all.push_back({likelihood, kernels, bytes, true, true, halves, false, true, PixelMean::sigmoid});
        }
      }
    }
  }
  return all;
}

// The loss of a pixel and the gradient of what the decoder says of it, in float64; and how large the numbers are that
// they are made of.
struct PixelReference {
  double value, value_size;
  double grad[2], grad_size[2];
};

PixelReference reference_of(const LikelihoodCase& k, double o, double raw, double x) {
  constexpr double variance = 0.3f;
  switch (k.likelihood) {
    case Likelihood::bernoulli: {
      const auto v = math::bernoulli(o, x);
      return {v.value, std::abs(v.value) + 1, {v.grad}, {std::abs(v.grad) + 1}};  // 1 + e^-|l| is rounded beside 1
    }
    case Likelihood::gaussian: {
      const auto v = math::gaussian(o, x, 0.5 / variance, 0.5 * std::log(2 * M_PI * variance));
      return {v.value, std::abs(v.value) + 1, {v.grad}, {std::abs(v.grad) + std::abs(o) / variance}};
    }
    case Likelihood::gaussian_learned: {
      const bool squashed = k.mean == PixelMean::sigmoid;
      const auto v = squashed ? math::gaussian_learned<PixelMean::sigmoid>({o, raw}, x)
                              : math::gaussian_learned<PixelMean::identity>({o, raw}, x);
      const double m = squashed ? 1 / (1 + std::exp(-o)) : o, slope = squashed ? m * (1 - m) : 1;
      const double t = raw - math::least_log_variance, above = 1 / (1 + std::exp(-t));
      const double precision = math::largest_precision * (1 - above), d = std::abs(m - x);
      // t, which is rounded beside 16, is an exponent: the precision errs by 2e-6 of itself, five times the tolerance.
      // So does d, by half an ulp of m or of 1, in d^2 e^-v.
      const double square = precision * d * (5 * d + std::abs(m) + 1);
      return {v.value,
              square + std::abs(raw) + 12,
              {v.grad.first, v.grad.second},
              {slope * precision * (5 * d + std::abs(m) + 1), 5 * above * (1 + square)}};
    }
  }
  return {};
}

// Of the pixels of all outputs, in order.
std::vector<PixelReference> references_of(const LikelihoodCase& k, const PixelCase& c, const Floats& output,
                                          const std::vector<double>& target) {
  const std::int64_t columns = k.columns(c);
  std::vector<PixelReference> references;
  for (std::int64_t row = 0; row < c.rows * c.samples; ++row) {
    for (std::int64_t p = 0; p < c.pixels; ++p) {
      const std::int64_t i = row * columns + p;
      references.push_back(reference_of(k, output[at(i)], columns > c.pixels ? output[at(i + c.pixels)] : 0,
                                        target[at(row / c.samples * c.pixels + p)]));
    }
  }
  return references;
}

// What make_loss() asks for.
struct ExpectedLoss {
  Expected nll, grad;

  ExpectedLoss(const LikelihoodCase& k, const PixelCase& c, const std::vector<PixelReference>& references)
      : nll(c.rows * c.samples * ceil_div(c.pixels, pixel_chunk)), grad(c.rows * c.samples * k.columns(c)) {
    const std::int64_t chunks = ceil_div(c.pixels, pixel_chunk);
    const Floats weights = loss_weights(c);
    for (std::int64_t i = 0; i < std::ssize(references); ++i) {
      const PixelReference& v = references[at(i)];
      const std::int64_t row = i / c.pixels, p = i % c.pixels, chunk = row * chunks + p / pixel_chunk;
      nll.value[at(chunk)] += v.value;
      nll.magnitude[at(chunk)] += v.value_size;
      const double more = k.weighed ? weights[at(chunk)] : 0.0;
      for (std::int64_t j = 0; j < outputs_of_pixel(k.likelihood); ++j) {
        const std::size_t to = at(row * k.columns(c) + j * c.pixels + p);
        grad.value[to] = (0.125 + more) * v.grad[j];
        grad.magnitude[to] = (0.125 + std::abs(more)) * v.grad_size[j];
      }
    }
  }
};

// What arithmetic may err by; nll: and sums of up to 256 terms a lane or thread.
constexpr double nll_tolerance = 5e-7, grad_tolerance = 4e-7;

std::string name_of(const LikelihoodCase& k, const PixelCase& c) {
  return cat("likelihood ", static_cast<int>(k.likelihood), ", mean ", static_cast<int>(k.mean), ", kernels ",
             static_cast<int>(k.kernels), k.bytes ? ", bytes" : "", k.halves ? ", bf16" : "",
             k.value ? "" : ", gradient alone", k.weighed ? ", weighed" : "", ", pixels ", c.pixels);
}

// Besides, to the last bit: a loss is the same alone, beside a gradient of any weight, and of outputs and targets of
// the same numbers in other types; a gradient is the same alone, in place and by all kernels, and of bf16 the rounded
// one of f32.
TEST_P(Ops, LikelihoodValueAndGradient) {
  // On a GPU the unfused kernels take exponentials and quotients as the host does, the others take quick ones.
  const bool has_two_arithmetics = lab().is("cuda");
  std::vector<PixelCase> cases(std::begin(pixel_cases), std::end(pixel_cases));
  cases.insert(cases.end(), std::begin(long_pixel_cases), std::end(long_pixel_cases));
  for (const PixelCase& c : cases) {
    std::map<std::tuple<Likelihood, PixelMean, LossVariant>, Floats> losses;
    std::map<std::tuple<Likelihood, PixelMean, bool, bool>, Floats> gradients;
    const Bytes target = pixels(c.rows * c.pixels, 2);
    std::vector<double> grey_levels;
    for (const std::uint8_t x : target) grey_levels.push_back(x / 255.0);
    std::map<std::pair<Likelihood, PixelMean>, std::vector<PixelReference>> references;
    for (const LikelihoodCase& k : likelihood_variants()) {
      // How a long row is cut does not depend on types: floats of bytes, and bf16 of floats, each once.
      if (c.pixels > 1025 && k.bytes == k.halves) continue;
      Floats output = decoder_outputs(c, k.likelihood, 4.0f);
      for (float& o : output) o = math::to_float(math::to_bf16(o));  // so that one reference serves f32 and bf16
      std::vector<PixelReference>& of_pixels = references[{k.likelihood, k.mean}];
      if (of_pixels.empty()) of_pixels = references_of(k, c, output, grey_levels);
      const ExpectedLoss want(k, c, of_pixels);
      Lab& d = next();
      const LikelihoodLoss a = make_loss(d, k, c, output, target);
      d.run(a);
      const std::string which = name_of(k, c);
      if (k.value) {
        const Floats got = d.get(a.nll_partial);
        expect_close(got, want.nll, nll_tolerance, "nll, " + which);
        expect_same_bits(got, losses.try_emplace({k.likelihood, k.mean, k.kernels}, got).first->second,
                         "nll, " + which);
      }
      if (!k.grad) continue;
      const Floats got = d.floats(a.grad);
      Floats& first =
          gradients[{k.likelihood, k.mean, k.weighed, has_two_arithmetics && k.kernels == LossVariant::unfused}];
      if (first.empty()) first = got;  // f32: the first of all variants is
      if (!k.halves) {
        expect_close(got, want.grad, grad_tolerance, "grad, " + which);
        expect_same_bits(got, first, "grad, " + which);
        continue;
      }
      // To 8 bits: by 1/256 at most, besides what the float erred by (1e-4 / 256 = 4e-7).
      Expected rounded = want.grad;
      for (std::size_t i = 0; i < rounded.value.size(); ++i)
        rounded.magnitude[i] = std::abs(rounded.value[i]) + 1e-4 * rounded.magnitude[i];
      expect_close(got, rounded, 1.0 / 256, "grad, " + which);
      Floats halves;
      for (const float g : first) halves.push_back(math::to_float(math::to_bf16(g)));
      expect_same_bits(got, halves, "grad, " + which);
    }
  }
}

// Of f32 targets: for a normal distribution on both sides of [0, 1], for Bernoulli's between grey levels.
TEST_P(Ops, LikelihoodOfOtherTargetsThanGreyLevels) {
  for (const PixelCase c : {PixelCase{3, 2, 20}, PixelCase{2, 2, 1027}}) {
    const Floats anywhere = normals(c.rows * c.pixels, 2, 2.0f);
    Floats within;
    for (const float x : anywhere) within.push_back(1 / (1 + std::exp(-x)));
    for (const LikelihoodCase& k : likelihood_variants()) {
      if (k.bytes || k.halves) continue;
      const Floats& target = k.likelihood == Likelihood::bernoulli ? within : anywhere;
      const Floats output = decoder_outputs(c, k.likelihood, 4.0f);
      const ExpectedLoss want(k, c, references_of(k, c, output, {target.begin(), target.end()}));
      Lab& d = next();
      const LikelihoodLoss a = make_loss(d, k, c, output, d.put({c.rows, c.pixels}, target));
      d.run(a);
      if (k.value) expect_close(d.get(a.nll_partial), want.nll, nll_tolerance, "nll, " + name_of(k, c));
      if (k.grad) expect_close(d.get(a.grad), want.grad, grad_tolerance, "grad, " + name_of(k, c));
    }
  }
}

// A block takes one short row of few and four of many, the last block fewer: the same bits.
TEST_P(Ops, LikelihoodOfARowIsTheSameAmongMany) {
  const PixelCase c{2050, 3, 5};
  const Floats output = decoder_outputs(c, Likelihood::bernoulli, 4.0f);
  const Bytes target = pixels(c.rows * c.pixels, 12);
  const LikelihoodCase fused{Likelihood::bernoulli, LossVariant::fused, true, true, false};
  const LikelihoodLoss many = make_loss(next(), fused, c, output, target);
  lab().run(many);
  const Floats all = lab().get(many.nll_partial), all_grad = lab().get(many.grad);
  const auto part = [&](const auto& values, std::int64_t row, std::int64_t each) {
    const auto first = values.begin() + static_cast<std::ptrdiff_t>(row * each);
    return std::remove_cvref_t<decltype(values)>(first, first + static_cast<std::ptrdiff_t>(each));
  };
  for (const std::int64_t row : {std::int64_t{0}, std::int64_t{1000}, c.rows - 1}) {
    const LikelihoodLoss one = make_loss(next(), fused, {1, c.samples, c.pixels},
                                         part(output, row, c.samples * c.pixels), part(target, row, c.pixels));
    lab().run(one);
    expect_same_bits(lab().get(one.nll_partial), part(all, row, c.samples), cat("nll of row ", row));
    expect_same_bits(lab().get(one.grad), part(all_grad, row, c.samples * c.pixels), cat("grad of row ", row));
  }
}

// Behind a great raw log variance the loss is its half, and a squared distance is nothing; far below the least one the
// variance is that of a grey level, and an output moves it no more.
TEST_P(OpsAligned, LearnedVarianceAtTheEndsOfItsRange) {
  const PixelCase c{1, 1, 5};
  for (LossVariant kernels : all_kernels) {
    for (const float raw : {1e6f, -1e6f}) {
      Lab& d = next();
      Floats output(10, 0.5f);
      for (int p = 5; p < 10; ++p) output[at(p)] = raw;
      const LikelihoodLoss a =
          make_loss(d, {Likelihood::gaussian_learned, kernels, true, true, false}, c, output, Bytes(5, 0));
      d->run(a);
      const double log_2_pi = std::log(2 * M_PI), least = -2 * std::log(255.0);
      const double of_pixel = raw > 0 ? (raw + log_2_pi) / 2 : (0.25 * 65025 + least + log_2_pi) / 2;
      EXPECT_NEAR(d.get(a.nll_partial)[0], 5 * of_pixel, 1e-6 * 5 * of_pixel);
      const Floats grad = d.get(a.grad);
      for (int p = 0; p < 5; ++p) {
        EXPECT_NEAR(grad[at(p)], raw > 0 ? 0 : 0.125 * 0.5 * 65025, 1e-3);
        EXPECT_NEAR(grad[at(5 + p)], raw > 0 ? 0.125 * 0.5 : 0, 1e-8);
      }
    }
  }
}

// The product of factors must neither overflow (all 2, at logit 0) nor be lost (all 1).
TEST_P(OpsAligned, BernoulliAtTheEndsOfItsRange) {
  const PixelCase c{2, 1, 4097};
  for (LossVariant kernels : all_kernels) {
    for (const float logit : {0.0f, 90.0f, -90.0f, 1e6f, -1e6f}) {
      for (const std::uint8_t x : {0, 255}) {
        Lab& d = next();
        const LikelihoodLoss a = make_loss(d, {Likelihood::bernoulli, kernels, true, true, false}, c,
                                           Floats(at(2 * c.pixels), logit), Bytes(at(2 * c.pixels), x));
        d->run(a);
        const auto v = math::bernoulli(double{logit}, x / 255.0);
        const Floats nll = d.get(a.nll_partial), grad = d.get(a.grad);
        EXPECT_NEAR(nll[0], 4096 * v.value, 4096 * 5e-7 * v.value + 1e-30);
        EXPECT_NEAR(nll[1], v.value, 5e-7 * v.value + 1e-30);
        for (float g : grad) ASSERT_NEAR(g, 0.125 * v.grad, 1e-7);
      }
    }
  }
}

TEST_P(OpsAligned, BernoulliIsExactFarOut) {
  const Floats logits = {-200, -100, -20, 0, 20, 100, 200, 1e30f};
  const PixelCase c{8, 1, 1};
  for (LossVariant kernels : all_kernels) {
    Lab& d = next();
    const LikelihoodLoss a =
        make_loss(d, {Likelihood::bernoulli, kernels, true, true, false}, c, logits, Bytes(8, 255));
    d->run(a);
    const Floats nll = d.get(a.nll_partial), grad = d.get(a.grad);
    const double want_nll[] = {200, 100, 20, std::log(2.0), 0, 0, 0, 0}, want[] = {-1, -1, -1, -0.5, -2e-9, 0, 0, 0};
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_NEAR(nll[i], want_nll[i], 1e-6 * want_nll[i] + 1e-8) << logits[i];
      EXPECT_NEAR(grad[i], 0.125 * want[i], 0.125 * 1e-6) << logits[i];
    }
  }
}

TEST_P(OpsAligned, LikelihoodKeepsNanAndInfinity) {
  const PixelCase c{2, 2, 4100};
  constexpr std::int64_t row = 2;  // of the outputs, the first of the second target
  const Bytes bytes = pixels(c.rows * c.pixels, 2);
  for (const LikelihoodCase& k : likelihood_variants()) {
    const Floats finite = decoder_outputs(c, k.likelihood, 1.0f);
    for (const float planted : {nan, infinity, -infinity}) {
      for (std::int64_t column :
           {std::int64_t{0}, std::int64_t{777}, k.columns(c) - 1}) {  // the last may be a variance
        const std::int64_t p = column % c.pixels;
        Lab& d = next();
        Floats output = finite;
        Bytes target = bytes;
        output[at(row * k.columns(c) + column)] = planted;
        target[at(c.pixels + p)] = planted > 0 ? 0 : 255;  // the logit's opposite: an infinite loss
        const LikelihoodLoss a = make_loss(d, k, c, output, target);
        d->run(a);
        const Floats nll = k.value ? d.get(a.nll_partial) : Floats{};
        for (std::size_t i = 0; i < nll.size(); ++i) {
          EXPECT_EQ(!std::isfinite(nll[i]), i == at(2 * row + p / pixel_chunk)) << i << ", planted " << planted;
        }
        if (!k.grad) continue;
        const Floats grad = d.floats(a.grad);
        for (std::int64_t i = 0; i < a.grad.count(); ++i) {
          const bool of_pixel = i / k.columns(c) == row && i % k.columns(c) % c.pixels == p;
          ASSERT_TRUE(std::isfinite(grad[at(i)]) || of_pixel) << i;
          ASSERT_TRUE(!std::isnan(planted) || !of_pixel || std::isnan(grad[at(i)])) << i;
        }
      }
    }
  }
}

TEST_P(OpsAligned, LikelihoodRefusesWrongShapes) {
  Lab& d = lab();
  const Tensor t23 = d.make({2, 3}), bytes = d.make({2, 3}, DType::u8), halves = d.make({2, 3}, DType::bf16);
  const Tensor nll = d.make({2, 1}), scratch = d.make({6});
  const LikelihoodLoss loss{.output = t23, .target = bytes, .nll_partial = nll, .grad = {}, .scratch = {}};
  EXPECT_NO_THROW(d->run(loss));
  const auto refuse = [&](const auto& change, const char* says) {
    LikelihoodLoss a = loss;
    change(a);
    expect_refused(says, [&] { d->run(a); });
  };
  refuse([&](LikelihoodLoss& a) { a.output = d.make({5, 3}), a.nll_partial = d.make({5, 1}); }, "likelihood: target");
  refuse([&](LikelihoodLoss& a) { a.nll_partial = d.make({4, 2}); }, "likelihood: nll_partial");
  refuse([&](LikelihoodLoss& a) { a.likelihood = Likelihood::gaussian, a.variance = 0; },
         "likelihood: a variance of 0");
  refuse([&](LikelihoodLoss& a) { a.output = halves, a.grad = t23; }, "likelihood: grad");
  refuse([&](LikelihoodLoss& a) { a.output = a.grad = halves, a.variant = LossVariant::unfused, a.scratch = scratch; },
         "likelihood: the unfused kernels take an f32 output");
  refuse([](LikelihoodLoss& a) { a.variant = LossVariant::unfused; }, "likelihood: the unfused kernels need 6");
  refuse(
      [&](LikelihoodLoss& a) {
        a.output = d.make({2, 5}), a.likelihood = Likelihood::gaussian_learned;
      },
      "likelihood: output should be f32 [2, 4], not f32 [2, 5]");
  refuse([&](LikelihoodLoss& a) { a.nll_partial = {}; }, "likelihood: neither nll_partial nor grad");
  refuse([&](LikelihoodLoss& a) { a.dnll_partial = nll; },
         "likelihood: a dnll_partial, which weighs the gradient, without grad");
  refuse([&](LikelihoodLoss& a) { a.dnll_partial = t23, a.grad = t23; }, "likelihood: dnll_partial");
}

TEST(Cpu, ALikelihoodDoesNotDependOnTheNumberOfThreads) {
  const PixelCase c{33, 3, 4097};
  const Floats output = normals(c.rows * c.samples * c.pixels, 1);
  const Bytes target = pixels(c.rows * c.pixels, 2);
  std::vector<Floats> losses, gradients;
  for (const int threads : {1, 2, 3, 5}) {
    Lab d({"cpu"}, {.threads = threads});
    EXPECT_EQ(d->info().threads, threads);
    const LikelihoodLoss a =
        make_loss(d, {Likelihood::bernoulli, LossVariant::fused, true, true, false}, c, output, target);
    d->run(a);
    losses.push_back(d.get(a.nll_partial));
    gradients.push_back(d.get(a.grad));
    expect_same_bits(losses.front(), losses.back(), cat("nll, ", threads, " threads"));
    expect_same_bits(gradients.front(), gradients.back(), cat("grad, ", threads, " threads"));
  }
}

}  // namespace
}  // namespace elbo::test
