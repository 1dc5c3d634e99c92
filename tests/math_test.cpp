// The formulas of include/elbo/math against judges that share nothing with them: finite differences,
// identities, published vectors, the C library in double.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <set>
#include <vector>

#include "elbo/math/activation.h"
#include "elbo/math/arithmetic.h"
#include "elbo/math/bf16.h"
#include "elbo/math/latent.h"
#include "elbo/math/likelihood.h"
#include "elbo/math/normal.h"
#include "elbo/math/optimizer.h"
#include "elbo/math/random.h"
#include "elbo/step_state.h"

namespace elbo::math {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double points[] = {-30, -7.5, -2, -0.9, -0.3, -1e-3, 1e-3, 0.25, 0.7, 1.5, 4, 12, 30};
constexpr Activation activations[] = {Activation::identity, Activation::relu, Activation::tanh, Activation::softplus};
constexpr Posterior posteriors[] = {Posterior::log_variance, Posterior::sigma};

// The central difference of five points: an error of h^4, here 1e-12 or so, besides rounding of 1e-13 / h.
double slope(const std::function<double(double)>& f, double x) {
  const double h = 1e-3 * std::max(1e-2, std::min(1.0, std::abs(x)));
  return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h);
}

void expect_slope(double grad, const std::function<double(double)>& f, double x) {
  EXPECT_NEAR(grad, slope(f, x), 1e-8 * (1 + std::abs(grad) + std::abs(f(x)))) << "at " << x;
}

// The largest error of `f` in units in the last place of the float nearest to the truth.
double largest_ulps(float (*f)(float), double (*truth)(double), float from, float to, int steps = 400'000) {
  double worst = 0;
  for (int i = 0; i <= steps; ++i) {
    const float x = from + (to - from) * static_cast<float>(i) / static_cast<float>(steps);
    const double want = truth(x);
    const auto nearest = static_cast<float>(want);
    const double ulp = double{std::nextafter(std::abs(nearest), INFINITY)} - double{std::abs(nearest)};
    worst = std::max(worst, std::abs(double{f(x)} - want) / ulp);
  }
  return worst;
}

// ---- Elementary functions -------------------------------------------------------------------------------------

TEST(Elementary, ExpIsWithinTwoUlps) {
  EXPECT_LE(largest_ulps(exp, std::exp, -87.0f, 88.7f), 2);
  EXPECT_LE(largest_ulps(exp, std::exp, -1.0f, 1.0f), 2);
  EXPECT_EQ(exp(0.0f), 1.0f);
  EXPECT_GT(exp(-1000.0f), 0.0f);  // saturates: never a denormal, never 0
  EXPECT_LT(exp(-1000.0f), 1.2e-38f);
  EXPECT_GT(exp(1000.0f), 3.4e38f);
}

TEST(Elementary, LogIsWithinTwoUlps) {
  EXPECT_LE(largest_ulps(log, std::log, 0.3f, 3.0f), 2);
  EXPECT_LE(largest_ulps(log, std::log, 1e-30f, 1e-20f), 2);
  EXPECT_LE(largest_ulps(log, std::log, 1.0f, 1e30f), 2);
  EXPECT_EQ(log(1.0f), 0.0f);
  EXPECT_FALSE(std::isfinite(log(std::numeric_limits<float>::infinity())));
  EXPECT_FALSE(std::isfinite(log(-std::numeric_limits<float>::infinity())));
}

TEST(Elementary, TanhIsWithinTwoUlps) {
  EXPECT_LE(largest_ulps(tanh, std::tanh, -9.0f, 9.0f), 2);
  EXPECT_LE(largest_ulps(tanh, std::tanh, -0.7f, 0.7f), 2);
  EXPECT_EQ(tanh(50.0f), 1.0f);
  EXPECT_EQ(tanh(-50.0f), -1.0f);
  EXPECT_EQ(tanh(0.0f), 0.0f);
}

// The bfloat16 nearest to a finite double, from the definition alone: 8 significant bits, ties to even.
double nearest_bf16(double x) {
  if (x == 0) return x;
  const double ulp = std::ldexp(1.0, std::max(std::ilogb(x), -126) - 7);
  const double rounded = std::nearbyint(x / ulp) * ulp;  // the default mode takes the even one of two
  return std::abs(rounded) > 255 * std::ldexp(1.0, 120) ? std::copysign(INFINITY, x) : rounded;
}

TEST(Bf16, EveryValueComesBack) {
  for (std::uint32_t i = 0; i < 0x10000; ++i) {
    const Bf16 b{static_cast<std::uint16_t>(i)};
    const float f = to_float(b);
    if (std::isnan(f)) {
      EXPECT_EQ(to_bf16(f).bits, 0x7fff) << i;
      EXPECT_TRUE((i & 0x7f80) == 0x7f80 && (i & 0x7f) != 0) << i;
    } else {
      EXPECT_EQ(to_bf16(f).bits, i);
    }
  }
  EXPECT_EQ(to_float(Bf16{0x3f80}), 1.0f);
  EXPECT_EQ(to_float(Bf16{0xc2f7}), -123.5f);
  EXPECT_EQ(to_float(Bf16{0xff80}), -INFINITY);
}

TEST(Bf16, RoundsToTheNearestAndTiesToEven) {
  const auto rounded = [](float f) { return double{to_float(to_bf16(f))}; };
  for (std::uint32_t i = 0; i < 0x7f80; ++i) {
    // A value, what lies just beside it, and what lies halfway to the next and just beside that.
    for (const std::uint32_t low : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float f = bits_to_float(i << 16 | low);
      ASSERT_EQ(rounded(f), nearest_bf16(f)) << f;
      ASSERT_EQ(rounded(-f), -nearest_bf16(f)) << -f;
    }
  }
  EXPECT_EQ(rounded(std::numeric_limits<float>::max()), INFINITY);
  EXPECT_TRUE(std::signbit(rounded(-0.0f)));
  for (const std::uint32_t nan_bits : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffffffffu})
    EXPECT_EQ(to_bf16(bits_to_float(nan_bits)).bits, 0x7fff);
}

// The sequences by which a GPU takes roots and quotients, from whatever its approximations may give.
TEST(Elementary, RootsAreCorrectlyRoundedWhateverTheReciprocalsError) {
  const double bound = std::exp2(-22.9);  // of rsqrt.approx.ftz.f32, PTX ISA
  std::uint64_t wrong = 0, tried = 0;
  for (std::uint32_t u = float_to_bits(1.0f); u < float_to_bits(4.0f); ++u) {
    const float a = bits_to_float(u), root = std::sqrt(a);
    const double truth = 1 / std::sqrt(double{a});
    const std::uint32_t nearest = float_to_bits(static_cast<float>(truth));
    for (std::uint32_t k = 0; k < 7; ++k) {
      const float y = bits_to_float(nearest + k - 3);
      const bool may_be = std::abs(y - truth) <= bound * truth;
      tried += may_be;
      wrong += may_be && exact::root_from_reciprocal(a, y) != root;
    }
  }
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(tried, 3u << 24);
}

// What a GPU's rsqrt.approx.ftz.f32 may give, for a normal x: the float nearest to the truth, moved by as many.
float reciprocal_root(float x, int moved) {
  const double truth = 1 / std::sqrt(double{x});
  const float y = bits_to_float(float_to_bits(static_cast<float>(truth)) + static_cast<std::uint32_t>(moved));
  return std::abs(y - truth) <= std::exp2(-22.9) * truth ? y : static_cast<float>(truth);
}

// The one approximation that nearer_reciprocal leaves as it is, below what it should be.
bool stays(float b, float y) {
  return (float_to_bits(b) & 0x7fffffu) == 0x7fffffu && (float_to_bits(y) & 0x7fffffu) == 0;
}

// All of what a GPU does for a root, and for a quotient: the way into the range of the sequences, and back.
TEST(Elementary, RootsOfAllSizesAreCorrectlyRounded) {
  const auto check = [](float a) {
    for (int moved = -2; moved <= 2; ++moved) {
      const float got = exact::root_by(a, [moved](float x) { return reciprocal_root(x, moved); });
      ASSERT_EQ(float_to_bits(got), float_to_bits(std::sqrt(a))) << a << " moved by " << moved;
    }
  };
  for (const std::uint32_t sign : {0u, 0x80000000u}) check(bits_to_float(sign));
  for (std::uint32_t exponent = 0; exponent < 255; ++exponent) {
    for (const std::uint32_t last : {0u, 1u, 2u, 0x3fffffu, 0x400000u, 0x7ffffeu, 0x7fffffu})
      check(bits_to_float(exponent << 23 | last));
    for (std::uint32_t i = 0; i < 500; ++i)
      check(bits_to_float(exponent << 23 | philox({i, exponent, 0, 0}, 4).x >> 9));
  }
  const auto exactly = [](float x) { return reciprocal_root(x, 0); };
  for (const double a : {nan, -1.0, -1e-40, double{INFINITY}})
    EXPECT_TRUE(std::isnan(exact::root_by(static_cast<float>(a), exactly))) << a;
}

TEST(Elementary, QuotientsOfAllSizesAreCorrectlyRounded) {
  std::uint64_t tiny = 0, normal = 0;
  const auto check = [&](float a, float b) {
    const float want = a / b, size = std::abs(want);
    for (const std::uint32_t moved : {0u, 1u, 2u}) {
      const auto reciprocal = [moved](float x) {
        const double truth = 1 / double{x};
        const float nearest = static_cast<float>(truth), y = bits_to_float(float_to_bits(nearest) + moved - 1);
        const double ulp = double{nearest} - double{bits_to_float(float_to_bits(nearest) - 1)};
        const bool of_power = (float_to_bits(x) & 0x7fffffu) == 0;  // whose reciprocal has the wider ulp above it
        return std::abs(y - truth) <= (of_power ? 2 : 1) * ulp && !stays(x, y) ? y : nearest;
      };
      const float got = exact::quotient_by(a, b, reciprocal);
      if (a == 0) {
        ASSERT_EQ(float_to_bits(got), 0u) << a << " / " << b;
      } else if (size < std::ldexp(1.0f, -126)) {
        ASSERT_LE(std::abs(double{got} - double{want}), std::ldexp(1.0, -149)) << a << " / " << b;
        ++tiny;
      } else if (size <= std::numeric_limits<float>::max()) {
        ASSERT_EQ(float_to_bits(got), float_to_bits(want)) << a << " / " << b << " moved by " << moved;
        ++normal;
      } else {
        ASSERT_FALSE(std::isfinite(got)) << a << " / " << b;
      }
    }
  };
  constexpr std::uint32_t smallest = 127 - 80, largest = 127 + 80;  // exponents of a divisor
  for (std::uint32_t b = smallest; b <= largest; ++b) {
    for (std::uint32_t a = 0; a < 255; ++a) {
      const Words w = philox({a, b, 0, 0}, 5);
      const float divisor = bits_to_float(b << 23 | (b == largest ? 0 : w.x >> 9));
      check(bits_to_float(a << 23 | w.y >> 9), divisor);
      check(-bits_to_float(a << 23 | w.z >> 9), divisor);
      for (const std::uint32_t last : {0u, 1u, 0x7fffffu}) check(bits_to_float(a << 23 | last), divisor);
      if (b < largest) check(bits_to_float(a << 23 | w.w >> 9), bits_to_float(b << 23 | 0x7fffffu));
      if (b < largest) check(bits_to_float(a << 23), bits_to_float(b << 23 | 0x7fffffu));
    }
    check(-0.0f, bits_to_float(b << 23));
  }
  EXPECT_GT(tiny, 50'000u);
  EXPECT_GT(normal, 400'000u);
  const auto exactly = [](float x) { return 1 / x; };
  EXPECT_TRUE(std::isnan(exact::quotient_by(1.0f, 0.0f, exactly)));
  EXPECT_TRUE(std::isnan(exact::quotient_by(static_cast<float>(nan), 1.0f, exactly)));
  EXPECT_TRUE(std::isnan(exact::quotient_by(1.0f, static_cast<float>(nan), exactly)));
}

TEST(Elementary, QuotientsAreCorrectlyRoundedWhateverTheReciprocalsError) {
  std::uint64_t wrong = 0;
  const auto check = [&wrong](std::uint32_t a_bits, std::uint32_t b_bits) {
    const float a = bits_to_float(0x3f800000u | a_bits), b = bits_to_float(0x3f800000u | b_bits);
    const std::uint32_t nearest = float_to_bits(static_cast<float>(1 / double{b}));
    for (std::uint32_t k = 0; k < 3; ++k) {  // rcp.approx.ftz.f32 errs by an ulp
      const float y = bits_to_float(nearest + k - 1);
      if (std::abs(y - 1 / double{b}) > std::exp2(b == 1 ? -23 : -24) || stays(b, y)) continue;
      wrong += exact::quotient_from_reciprocal(a, b, exact::nearer_reciprocal(b, y)) != a / b;
    }
    wrong += exact::quotient_from_reciprocal(a, b, 1 / b) != a / b;
  };
  constexpr std::uint32_t last = 0x7fffffu;
  check(0, last);
  for (std::uint32_t i = 0; i < 200'000; ++i) {
    // Anything; divisors near 1 and 2, whose reciprocals are the hardest; and for a divisor, by Euclid's way, the a
    // whose quotient lies next to the middle between two floats: a 2^24 = 1 modulo b or so.
    const Words w = philox({i, 0, 0, 0}, 3);
    check(w.x & last, w.y & last);
    check(w.x & last, w.y & 15u);
    check(w.x & last, last - (w.y & 15u));
    check(0, w.y & last);
    const std::int64_t b = (w.z & last) | 0x800001u;  // odd, so that 2 has an inverse
    std::int64_t a = 1 + (w.w & 3u);
    for (int k = 0; k < 25; ++k) a = a % 2 != 0 ? (a + b) / 2 : a / 2;
    for (const std::int64_t hard : {a, b - a}) {
      for (std::int64_t scaled = hard; scaled > 0 && scaled < 1 << 24; scaled *= 2) {
        if (scaled >= 1 << 23) check(static_cast<std::uint32_t>(scaled) & last, static_cast<std::uint32_t>(b) & last);
      }
    }
  }
  EXPECT_EQ(wrong, 0u);
}

TEST(Elementary, OneReciprocalStaysAnUlpTooSmall) {
  for (const float b : {0x1.fffffep-1f, 0x1.fffffep0f, 0x1.fffffep-40f}) {
    const float power = std::exp2(-1.0f - static_cast<float>(std::ilogb(b))), above = std::nextafter(power, INFINITY);
    EXPECT_EQ(1 / b, above);
    EXPECT_EQ(exact::nearer_reciprocal(b, power), power);
    EXPECT_EQ(exact::quotient_from_reciprocal(1, b, power), power);
    EXPECT_EQ(exact::nearer_reciprocal(b, above), above);
    EXPECT_EQ(exact::quotient_from_reciprocal(1, b, above), above);
  }
}

TEST(Elementary, NanStaysNan) {
  const auto f = static_cast<float>(nan);
  EXPECT_TRUE(std::isnan(exp(f)) && std::isnan(log(f)) && std::isnan(tanh(f)) && std::isnan(sqrt(f)));
  EXPECT_TRUE(std::isnan(exp(nan)) && std::isnan(log(nan)) && std::isnan(tanh(nan)));
}

// ---- Activations --------------------------------------------------------------------------------------------

TEST(Activations, SlopesMatchFiniteDifferences) {
  for (Activation a : activations) {
    for (double x : points) {
      expect_slope(
          activation_slope(a, activate(a, x)), [a](double t) { return activate(a, t); }, x);
    }
  }
}

TEST(Activations, KnownValues) {
  EXPECT_EQ(activate(Activation::relu, -2.0), 0.0);
  EXPECT_EQ(activation_slope(Activation::relu, 0.0), 0.0);
  EXPECT_DOUBLE_EQ(activate(Activation::softplus, 0.0), std::log(2.0));
  EXPECT_DOUBLE_EQ(activate(Activation::softplus, 1000.0), 1000.0);
  EXPECT_NEAR(activate(Activation::softplus, -20.0f) / std::exp(-20.0f), 1.0f, 1e-6f);  // not lost beside 1
}

TEST(Activations, FloatAgreesWithDouble) {
  for (Activation a : activations) {
    for (double x = -40; x < 40; x += 0.01) {
      const auto f = static_cast<float>(x);
      const double want = activate(a, double{f});
      EXPECT_NEAR(activate(a, f), want, 4e-7 * std::abs(want) + 1e-37) << x;  // a few roundings of 6e-8
    }
  }
}

TEST(Activations, NanStaysNan) {
  for (Activation a : activations) {
    EXPECT_TRUE(std::isnan(activate(a, static_cast<float>(nan)))) << static_cast<int>(a);
    EXPECT_TRUE(std::isnan(activate(a, nan))) << static_cast<int>(a);
  }
}

// ---- Latent variable ------------------------------------------------------------------------------------------

TEST(Latent, KlIsZeroForTheStandardNormal) {
  EXPECT_EQ(gaussian_kl(Posterior::log_variance, 0.0, 0.0), 0.0);
  EXPECT_EQ(gaussian_kl(Posterior::sigma, 0.0, 1.0), 0.0);
  EXPECT_EQ(gaussian_kl(Posterior::sigma, 0.0, -1.0), 0.0);
  for (Posterior p : posteriors) {
    const auto g = gaussian_kl_grad(p, 0.0, p == Posterior::sigma ? 1.0 : 0.0);
    EXPECT_EQ(g.mu, 0.0);
    EXPECT_EQ(g.s, 0.0);
  }
}

TEST(Latent, KlOfAVanishingSigmaIsInfinite) {
  for (const float sigma : {0.0f, -0.0f}) EXPECT_EQ(gaussian_kl(Posterior::sigma, 1.0f, sigma), INFINITY);
  EXPECT_EQ(gaussian_kl(Posterior::sigma, 1.0, 0.0), INFINITY);
  EXPECT_EQ(math::log(0.0f), -INFINITY);
}

TEST(Latent, KlMatchesItsIntegral) {
  const double mu = 0.7, sigma = 0.4;
  double sum = 0;
  const double h = 1e-4;
  for (double z = mu - 12 * sigma; z < mu + 12 * sigma; z += h) {
    const double d = (z - mu) / sigma, density = std::exp(-0.5 * d * d) / (sigma * std::sqrt(2 * M_PI));
    sum += h * density * (0.5 * z * z - 0.5 * d * d - std::log(sigma));
  }
  EXPECT_NEAR(gaussian_kl(Posterior::sigma, mu, sigma), sum, 1e-9);
  EXPECT_NEAR(gaussian_kl(Posterior::log_variance, mu, 2 * std::log(sigma)), sum, 1e-9);
}

TEST(Latent, GradientsMatchFiniteDifferences) {
  for (Posterior p : posteriors) {
    for (double mu : {-2.0, 0.1, 3.0}) {
      for (double s : {-3.0, -0.8, 0.3, 2.0}) {
        const auto g = gaussian_kl_grad(p, mu, s);
        expect_slope(
            g.mu, [=](double t) { return gaussian_kl(p, t, s); }, mu);
        expect_slope(
            g.s, [=](double t) { return gaussian_kl(p, mu, t); }, s);
        for (double eps : {-1.7, 0.4}) {
          expect_slope(
              sample_slope(p, s, eps), [=](double t) { return mu + posterior_sigma(p, t) * eps; }, s);
        }
      }
    }
  }
}

// A GPU's quick functions at the ends of their bounds (arithmetic.h), all bent one way or the other.
struct BentPosterior {
  double by;  // 1 or -1

  float bent(double x, double bound) const { return static_cast<float>(x * (1 + by * bound)); }
  float exp(float x) const { return bent(std::exp(double{x}), 3.0e-7 + std::abs(x) * 0x1p-23); }
  float exp_of_half(float x) const { return bent(std::exp(0.5 * x), 3.0e-7 + std::abs(x) * 0x1p-24); }
  float inverse(float x) const { return bent(1 / double{x}, 0x1p-23); }
  float log_of_abs(float x) const {
    const double a = std::abs(double{x}), l = std::log(a);
    return static_cast<float>(l + by * 0x1p-22 * (a >= 0.5 && a <= 2 ? std::log(2.0) : std::abs(l)));
  }
  float multiply_add(float a, float b, float c) const { return std::fma(a, b, c); }
};

TEST(Latent, KeepsItsAccuracyWithQuickFunctions) {
  for (const Posterior p : posteriors) {
    for (float mu = -4; mu <= 4; mu += 0.37f) {
      for (float s = -12; s <= 8; s += 0.0613f) {
        for (const BentPosterior& quick : {BentPosterior{1}, BentPosterior{-1}}) {
          const double sigma = posterior_sigma(p, double{s});
          const float sigma_f = posterior_sigma(p, s, quick);
          EXPECT_NEAR(sigma_f, sigma, (4e-7 + std::abs(s) * 0x1p-24) * std::abs(sigma)) << s;
          // Twice what sigma errs by, and a few roundings of the terms.
          const double log_variance = 2 * std::log(std::abs(sigma));
          const double terms = sigma * sigma + mu * mu + 1 + std::abs(log_variance);
          EXPECT_NEAR(gaussian_kl(p, mu, s, sigma_f, quick), gaussian_kl(p, double{mu}, double{s}), 1e-6 * terms);
          const LatentGrad<double> grad = gaussian_kl_grad(p, double{mu}, double{s});
          const double sum = p == Posterior::sigma ? std::abs(s) + 1 / std::abs(s) : sigma * sigma + 1;
          EXPECT_NEAR(gaussian_kl_grad(p, mu, s, quick).s, grad.s, 1e-6 * sum);
          EXPECT_NEAR(sample(mu, sigma_f, 1.7f, quick), mu + 1.7 * sigma, 2e-6 * (std::abs(mu) + 2 * std::abs(sigma)));
          const double slope_size = p == Posterior::sigma ? 1.7 : 0.85 * sigma;
          EXPECT_NEAR(sample_slope(p, s, 1.7f, quick), sample_slope(p, double{s}, 1.7), 1.3e-6 * slope_size);
        }
      }
    }
  }
}

TEST(Latent, NanStaysNan) {
  for (Posterior p : posteriors) {
    EXPECT_TRUE(std::isnan(gaussian_kl(p, nan, 0.5)) && std::isnan(gaussian_kl(p, 0.5, nan)));
    EXPECT_TRUE(std::isnan(gaussian_kl_grad(p, nan, 0.5).mu) && std::isnan(gaussian_kl_grad(p, 0.5, nan).s));
    EXPECT_TRUE(std::isnan(posterior_sigma(p, static_cast<float>(nan))));
  }
}

// ---- Likelihoods ------------------------------------------------------------------------------------------

TEST(Likelihoods, GradientsMatchFiniteDifferences) {
  for (double x : {0.0, 0.3, 1.0}) {
    for (double l : points) {
      expect_slope(
          bernoulli(l, x).grad, [x](double t) { return bernoulli(t, x).value; }, l);
      expect_slope(
          bernoulli_parts(l, x).grad, [x](double t) { return bernoulli(t, x).value; }, l);
      expect_slope(
          gaussian(l, x, 0.8, 0.1).grad, [x](double t) { return gaussian(t, x, 0.8, 0.1).value; }, l);
    }
  }
}

template <PixelMean mean>
void expect_learned_slopes() {
  for (double x : {0.0, 0.3, 1.0}) {
    for (double o : {-2.0, -0.4, 0.0, 0.3, 1.7}) {
      for (double raw : {-20.0, -13.0, -11.1, -9.0, -4.0, 0.0, 3.0}) {
        const auto of_pixel = gaussian_learned<mean>({o, raw}, x);
        const auto parts = gaussian_learned_parts<mean>({o, raw}, x);
        EXPECT_NEAR(parts.linear + std::log(parts.factor) / 2, of_pixel.value, 1e-14 * (16 + std::abs(of_pixel.value)));
        EXPECT_TRUE(parts.factor >= 1 && parts.factor <= 2) << raw;
        for (const auto& grad : {of_pixel.grad, parts.grad}) {
          expect_slope(
              grad.first,
              [=](double t) {
                return gaussian_learned<mean>({t, raw}, x).value;
              },
              o);
          expect_slope(
              grad.second,
              [=](double t) {
                return gaussian_learned<mean>({o, t}, x).value;
              },
              raw);
        }
      }
    }
  }
}

TEST(Likelihoods, GradientsOfALearnedVarianceMatchFiniteDifferences) {
  expect_learned_slopes<PixelMean::identity>();
  expect_learned_slopes<PixelMean::sigmoid>();
}

// The density of a Gaussian whose deviation is a grey level and more, as the contract says.
TEST(Likelihoods, ALearnedVarianceIsAGreyLevelAtLeast) {
  for (const double raw : {-1e3, -30.0, -11.0, -2.0, 1.0}) {
    const double least = 1 / 255.0 / 255.0, variance = least * (1 + std::exp(raw - std::log(least))), d = 0.31 - 0.3;
    const double density = std::exp(-0.5 * d * d / variance) / std::sqrt(2 * M_PI * variance);
    EXPECT_NEAR(gaussian_learned<PixelMean::identity>({0.31, raw}, 0.3).value, -std::log(density), 1e-12) << raw;
    const double logit = std::log(0.31 / 0.69);
    EXPECT_NEAR(gaussian_learned<PixelMean::sigmoid>({logit, raw}, 0.3).value, -std::log(density), 1e-12) << raw;
  }
}

TEST(Likelihoods, AgreeWithTheirDensities) {
  for (double l : {-3.0, -0.2, 0.0, 2.5}) {
    const double p = 1 / (1 + std::exp(-l));
    for (double x : {0.0, 0.4, 1.0}) {
      EXPECT_NEAR(bernoulli(l, x).value, -x * std::log(p) - (1 - x) * std::log(1 - p), 1e-14);
      const auto parts = bernoulli_parts(l, x);
      EXPECT_NEAR(parts.linear + std::log(parts.factor), bernoulli(l, x).value, 1e-14);
      EXPECT_GE(parts.factor, 1.0);
      EXPECT_LE(parts.factor, 2.0);
    }
  }
  const double variance = 0.6, d = 0.7 - 0.2;
  const double density = std::exp(-0.5 * d * d / variance) / std::sqrt(2 * M_PI * variance);
  EXPECT_NEAR(gaussian(0.7, 0.2, 0.5 / variance, 0.5 * std::log(2 * M_PI * variance)).value, -std::log(density), 1e-14);
}

TEST(Likelihoods, FloatKeepsSmallLosses) {
  // A confident, right logit costs e^-|l|, which the sum 1 + e^-|l| would round away.
  for (float l : {-12.0f, -16.0f, -20.0f, -30.0f}) {
    EXPECT_NEAR(bernoulli(l, 0.0f).value / std::log1p(std::exp(double{l})), 1.0, 1e-6) << l;
  }
}

TEST(Likelihoods, NanAndInfinityDoNotVanish) {
  const auto f = static_cast<float>(nan), inf = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isnan(bernoulli(f, 0.5f).value) && std::isnan(bernoulli(f, 0.5f).grad));
  EXPECT_TRUE(std::isnan(bernoulli_parts(f, 0.5f).factor) && std::isnan(bernoulli_parts(f, 0.5f).grad));
  EXPECT_TRUE(std::isnan(gaussian(f, 0.5f, 1.0f, 0.0f).value) && std::isnan(gaussian(f, 0.5f, 1.0f, 0.0f).grad));
  for (float x : {0.0f, 0.5f, 1.0f}) {
    EXPECT_FALSE(std::isfinite(bernoulli(inf, x).value) && std::isfinite(bernoulli(-inf, x).value)) << x;
  }
}

template <PixelMean mean>
void expect_learned_nan_and_infinity() {
  const auto f = static_cast<float>(nan), inf = std::numeric_limits<float>::infinity();
  for (const PixelOutput<float, 2>& o : {PixelOutput<float, 2>{f, 0.5f}, {0.5f, f}}) {
    const auto v = gaussian_learned<mean>(o, 0.5f);
    EXPECT_TRUE(std::isnan(v.value) && std::isnan(v.grad.first) && std::isnan(v.grad.second));
    EXPECT_TRUE(std::isnan(gaussian_learned_parts<mean>(o, 0.5f).linear));
  }
  for (const float planted : {inf, -inf})
    for (const PixelOutput<float, 2>& o : {PixelOutput<float, 2>{planted, 0.5f}, {0.5f, planted}}) {
      EXPECT_FALSE(std::isfinite(gaussian_learned<mean>(o, 0.5f).value)) << planted;
      EXPECT_FALSE(std::isfinite(gaussian_learned_parts<mean>(o, 0.5f).linear)) << planted;
    }
}

TEST(Likelihoods, NanAndInfinityOfALearnedVarianceDoNotVanish) {
  expect_learned_nan_and_infinity<PixelMean::identity>();
  expect_learned_nan_and_infinity<PixelMean::sigmoid>();
}

TEST(Likelihoods, PixelValuesSpanZeroToOne) {
  EXPECT_EQ(pixel_value<float>(0), 0.0f);
  EXPECT_EQ(pixel_value<float>(255), 1.0f);
  for (int p = 0; p < 256; ++p) {
    EXPECT_NEAR(pixel_value<float>(static_cast<std::uint8_t>(p)), p / 255.0, 1e-7) << p;
  }
}

TEST(Likelihoods, PixelValuesOfShiftedBytesAreTheSame) {
  for (std::uint32_t p = 0; p < 256; ++p) {
    EXPECT_EQ(float_to_bits(pixel_value_of_shifted(bits_to_float(0x4b000000u | p))),
              float_to_bits(pixel_value<float>(static_cast<std::uint8_t>(p))))
        << p;
  }
}

// ---- What a GPU's approximations may cost -------------------------------------------------------------------

// Approximate as a GPU may compute it: each result off by this part, in [-1, 1], of what PTX allows (arithmetic.h).
struct Bent {
  double exp_part, reciprocal_part;

  float exp_of_minus_abs(float l) const {
    const double e = std::exp2(double{std::abs(l) * -1.44269504f}) * (1 + exp_part * 2.5 * std::ldexp(1, -23));
    return e < std::ldexp(1, -126) ? 0.0f : static_cast<float>(e);  // NaN stays
  }
  float reciprocal(float f) const {
    const auto r = static_cast<float>(1 / double{f} * (1 + reciprocal_part * std::ldexp(1, -22)));
    return std::fma(r, std::fma(-f, r, 1.0f), r);
  }
  float multiply_add(float a, float b, float c) const { return std::fma(a, b, c); }
  float log1p(float e, float, float) const { return log1p_polynomial(e); }
};

// Calls f with a Bent in every combination of the worst directions and none.
template <class F>
void with_every_bend(const F& f) {
  for (const double exp_part : {-1.0, 0.0, 1.0}) {
    for (const double reciprocal_part : {-1.0, 0.0, 1.0}) f(Bent{exp_part, reciprocal_part});
  }
}

constexpr double targets[] = {0.0, 1.0 / 255, 0.3, 0.5, 254.0 / 255, 1.0};

// Of e^-|l|: arithmetic.h's bound, and a rounding here of what is bent.
double exp_error(double l) { return 3.0e-7 + 6e-8 + std::abs(l) * std::ldexp(1, -23); }

TEST(Approximations, GradientKeepsItsAccuracy) {
  with_every_bend([&](const Bent& bent) {
    for (float l = -100; l <= 100; l += 0.00317f) {
      for (const double target : targets) {
        const auto x = static_cast<float>(target);
        const double want = bernoulli(double{l}, double{x}).grad;
        for (const float got : {bernoulli_parts(l, x, bent).grad, bernoulli(l, x, bent).grad}) {
          ASSERT_NEAR(got, want, 1.5e-7) << l << ", target " << x;
          // A small gradient keeps its digits: e errs, and the reciprocal, the product and 1 + e are rounded.
          if (x == 0 && l > -87) {
            ASSERT_NEAR(got / want, 1, exp_error(l) + 1.8e-7) << l;
          }
        }
      }
    }
  });
}

TEST(Approximations, ValueOfOnePixelKeepsItsAccuracy) {
  with_every_bend([&](const Bent& bent) {
    for (float l = -100; l <= 100; l += 0.00317f) {
      for (const double target : targets) {
        const auto x = static_cast<float>(target);
        const double softplus = std::log1p(std::exp(-std::abs(double{l}))),
                     want = bernoulli(double{l}, double{x}).value;
        // Two numbers that are not negative, each with its own error: e and the polynomial; a rounding of the product
        // and of the sum.
        const double allowed = (exp_error(l) + 2.2e-7) * softplus + 1.2e-7 * want + 1e-37;
        ASSERT_NEAR(bernoulli(l, x, bent).value, want, allowed) << l << ", target " << x;
      }
    }
  });
}

// The sum of a lane, with one logarithm: a factor 1 + e errs by what e does, and is rounded, and so is the product.
TEST(Approximations, ValueOfALaneKeepsItsAccuracy) {
  constexpr int pixels = 32;
  with_every_bend([&](const Bent& bent) {
    for (float l = -30; l <= 30; l += 0.0317f) {
      for (const double target : targets) {
        float linear = 0, product = 1;
        double want = 0, allowed = 0;
        for (int i = 0; i < pixels; ++i) {
          const float at = l + 0.37f * static_cast<float>(i % 7 - 3), x = static_cast<float>(target);
          const auto parts = bernoulli_parts(at, x, bent);
          linear += parts.linear;
          product *= parts.factor;
          const double value = bernoulli(double{at}, double{x}).value;
          want += value;
          // What tests/operations allows a GPU, too: a factor is rounded beside 1.
          allowed += 5e-7 * (value + 1);
        }
        ASSERT_NEAR(linear + std::log(product), want, allowed) << l << ", target " << target;
      }
    }
  });
}

TEST(Approximations, NanAndInfinityDoNotVanish) {
  const auto f = static_cast<float>(nan), inf = std::numeric_limits<float>::infinity();
  with_every_bend([&](const Bent& bent) {
    for (const float x : {0.0f, 0.5f, 1.0f}) {
      EXPECT_TRUE(std::isnan(bernoulli(f, x, bent).value) && std::isnan(bernoulli(f, x, bent).grad));
      EXPECT_TRUE(std::isnan(bernoulli_parts(f, x, bent).linear) && std::isnan(bernoulli_parts(f, x, bent).grad));
      for (const float l : {-inf, inf}) {
        EXPECT_FALSE(std::isfinite(bernoulli(l, x, bent).value) || std::isfinite(bernoulli_parts(l, x, bent).linear));
        EXPECT_FALSE(std::isnan(bernoulli(l, x, bent).grad)) << l;  // sigmoid is 0 or 1 there
      }
    }
    EXPECT_TRUE(std::isnan(bernoulli(1.0f, f, bent).value) && std::isnan(bernoulli(1.0f, f, bent).grad));
  });
}

template <PixelMean mean>
void expect_learned_accuracy(const Bent& bent) {
  for (float raw = -30; raw <= 5; raw += 0.0317f)
    for (const float o : {-1.3f, 0.2f, 0.9f})
      for (const double target : targets) {
        const auto x = static_cast<float>(target);
        const auto want = gaussian_learned<mean>({double{o}, double{raw}}, double{x});
        const auto got = gaussian_learned<mean>({o, raw}, x, bent);
        const double m = mean == PixelMean::sigmoid ? 1 / (1 + std::exp(-double{o})) : double{o};
        const double t = raw - least_log_variance, above = 1 / (1 + std::exp(-t)), d = std::abs(m - x);
        const double precision = largest_precision * (1 - above);
        // t is rounded beside 16, b beside 11: e^-|t| errs by 1e-6 besides exp_error, and by 2.5e-6 at most in all;
        // a mean errs by 2e-7 where it is a sigmoid.
        const double of_precision = 1e-6 + exp_error(t) + 3e-7, of_mean = 2e-7;
        const double square = precision * d * (of_precision * d + 2 * of_mean);
        ASSERT_NEAR(got.value, want.value, square + 1e-6 * (std::abs(raw) + 12)) << o << ", " << raw << ", " << x;
        ASSERT_NEAR(got.grad.first, want.grad.first, precision * (2 * of_precision * d + of_mean)) << o << ", " << raw;
        ASSERT_NEAR(got.grad.second, want.grad.second,
                    above * (of_precision * (1 + precision * d * d) + square) + 1e-37)
            << o << ", " << raw;
      }
}

TEST(Approximations, ALearnedVarianceKeepsItsAccuracy) {
  with_every_bend([](const Bent& bent) {
    expect_learned_accuracy<PixelMean::identity>(bent);
    expect_learned_accuracy<PixelMean::sigmoid>(bent);
  });
}

TEST(Approximations, LogarithmIsWithinTwoAndAHalfUlps) {
  const auto log1p = [](double e) { return std::log1p(e); };
  EXPECT_LE(largest_ulps(log1p_polynomial, log1p, 0.0f, 1.0f), 2.5);
  EXPECT_LE(largest_ulps(log1p_polynomial, log1p, 1e-30f, 1e-7f), 2.5);
  // In parts of the result it errs most near 1: 2.159e-7, at 0.96695894.
  double worst = 0;
  for (float e = 0.9f; e <= 1; e = std::nextafter(e, 2.0f))
    worst = std::max(worst, std::abs(log1p_polynomial(e) / log1p(double{e}) - 1));
  EXPECT_LE(worst, 2.2e-7);
}

// The CPU, and the simulated device with it, computes what it always did.
TEST(Approximations, HostHasNone) {
  for (float l = -40; l < 40; l += 0.173f) {
    for (const float x : {0.0f, 0.3f, 1.0f}) {
      const auto exact = bernoulli(l, x), approximate = bernoulli(l, x, Approximate{});
      EXPECT_EQ(exact.value, approximate.value);
      EXPECT_EQ(exact.grad, approximate.grad);
      const auto parts = bernoulli_parts(l, x), approximate_parts = bernoulli_parts(l, x, Approximate{});
      EXPECT_EQ(parts.linear, approximate_parts.linear);
      EXPECT_EQ(parts.factor, approximate_parts.factor);
      EXPECT_EQ(parts.grad, exact.grad);
    }
  }
}

// ---- Optimisers -------------------------------------------------------------------------------------------

TEST(Optimizers, FirstStepsHaveTheLengthOfTheLearningRate) {
  OptimizerSettings o;
  o.learning_rate = 0.01f;
  double p = 1, m = 0, v = 0;
  optimizer_update(p, -3.0, m, v, o, adam_correction(o.beta1, 1), adam_correction(o.beta2, 1));
  EXPECT_NEAR(p, 1 + double{o.learning_rate}, 1e-8);  // Adam: rate * sign(gradient)
  o.type = OptimizerType::adagrad;
  p = 1, m = 0;
  optimizer_update(p, -3.0, m, v, o, 1.0, 1.0);
  EXPECT_NEAR(p, 1 + double{o.learning_rate}, 1e-8);
  EXPECT_EQ(m, 9);
  o.type = OptimizerType::sgd;
  o.momentum = 0.5f;
  p = 1, m = 0;
  optimizer_update(p, -3.0, m, v, o, 1.0, 1.0);
  optimizer_update(p, -3.0, m, v, o, 1.0, 1.0);
  EXPECT_NEAR(p, 1 + double{o.learning_rate} * (3 + 4.5), 1e-12);
}

TEST(Optimizers, WeightDecayPullsTowardsZero) {
  for (OptimizerType type : {OptimizerType::adam, OptimizerType::adagrad, OptimizerType::sgd}) {
    OptimizerSettings o;
    o.type = type;
    o.weight_decay = 0.1f;
    double p = 2, m = 0, v = 0;
    optimizer_update(p, 0.0, m, v, o, 0.1, 0.001);
    EXPECT_LT(p, 2);
  }
}

TEST(Optimizers, AdamsCorrectionIsExactForSmallBeta) {
  for (double t : {1.0, 2.0, 10.0, 1e4}) EXPECT_NEAR(adam_correction(0.9, t), 1 - std::pow(0.9, t), 1e-15);
  EXPECT_NEAR(adam_correction(1 - 1e-12, 1) / 1e-12, 1, 1e-4);  // 1 - beta itself has lost digits by then
  EXPECT_EQ(adam_correction(0.0, 5), 1);
}

TEST(Optimizers, NanReachesTheWeight) {
  for (OptimizerType type : {OptimizerType::adam, OptimizerType::adagrad, OptimizerType::sgd}) {
    OptimizerSettings o;
    o.type = type;
    float p = 1, m = 0, v = 0;
    optimizer_update(p, static_cast<float>(nan), m, v, o, 0.1f, 0.001f);
    EXPECT_TRUE(std::isnan(p));
  }
}

TEST(StepState, IsAFunctionOfTheStep) {
  const Schedule training{7, 0, 0.9f, 0.999f};
  const auto s = state_at(5, 23, training);
  EXPECT_EQ(s.seed, 5u);
  EXPECT_EQ(s.step, 23u);
  EXPECT_EQ(s.epoch, 3u);
  EXPECT_EQ(s.batch, 2u);
  EXPECT_EQ(s.noise_step, 23u);
  EXPECT_EQ(s.row0, 0u);
  EXPECT_NEAR(s.correction1, 1 - std::pow(double{0.9f}, 24), 1e-7);
  EXPECT_EQ(s.bad_step, StepState::none);
  const auto e = state_at(5, 3, {10, 100, 0, 0});  // evaluation
  EXPECT_EQ(e.row0, 300u);
  EXPECT_EQ(e.noise_step, ~0u);
}

// ---- Noise --------------------------------------------------------------------------------------------------

// Known answers of Random123 1.14 (tests/kat_vectors, philox 4 32 10).
TEST(Random, PhiloxMatchesItsPublishedVectors) {
  const auto check = [](Words counter, std::uint64_t key, Words want) {
    const Words got = philox(counter, key);
    EXPECT_EQ(got.x, want.x);
    EXPECT_EQ(got.y, want.y);
    EXPECT_EQ(got.z, want.z);
    EXPECT_EQ(got.w, want.w);
  };
  check({0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  check({~0u, ~0u, ~0u, ~0u}, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  check({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822ull,
        {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST(Random, NoTwoDrawsShareTheirWords) {
  std::set<std::uint32_t> seen;
  std::size_t draws = 0;
  const auto add = [&](const Draw& d, std::uint32_t quad) {
    seen.insert(random_words(d, quad).x);
    ++draws;
  };
  for (std::uint32_t i = 0; i < 20; ++i) {
    for (Purpose p : {Purpose::initialise, Purpose::shuffle, Purpose::binarize, Purpose::latent, Purpose::prior}) {
      add({7 + i, p, 100, 200, 300}, 400);
      add({6, p, 100 + i, 200, 300}, 400);
      add({6, p, 50, 201 + i, 300}, 400);
      add({6, p, 50, 200, 301 + i}, 400);
      add({6, p, 50, 200, 300}, 401 + i);
    }
  }
  EXPECT_EQ(seen.size(), draws);  // 500 words of 32 bits: a collision by chance has odds of 3e-5
}

TEST(Random, UniformStaysInsideZeroAndOne) {
  EXPECT_EQ(uniform(0), std::ldexp(1.0f, -24));
  EXPECT_EQ(uniform(~0u), 1.0f - std::ldexp(1.0f, -24));
  EXPECT_LT(uniform(~0u), 1.0f);
}

TEST(Random, NormalsHaveTheirMomentsAndDistribution) {
  constexpr int n = 1 << 20;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, neighbours = 0;
  std::vector<int> histogram(64);
  for (std::uint32_t q = 0; q < n / 4; ++q) {
    const Normals4 four = normals({1, Purpose::latent, 3, q / 5, 0}, q % 5);
    for (int i = 0; i < 4; ++i) {
      const double x = four.v[i];
      ASSERT_TRUE(std::isfinite(x));
      m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x;
      neighbours += x * four.v[(i + 1) % 4];
      ++histogram[static_cast<std::size_t>(64 * normal_cdf(x))];
    }
  }
  // Five standard errors of each mean: sqrt(1, 2, 15, 96 and 1 / n).
  const double se = 5 / std::sqrt(double{n});
  EXPECT_NEAR(m1 / n, 0, se);
  EXPECT_NEAR(m2 / n, 1, se * std::sqrt(2.0));
  EXPECT_NEAR(m3 / n, 0, se * std::sqrt(15.0));
  EXPECT_NEAR(m4 / n, 3, se * std::sqrt(96.0));
  EXPECT_NEAR(neighbours / n, 0, se);
  double chi2 = 0;
  for (int count : histogram) chi2 += (count - n / 64.0) * (count - n / 64.0) / (n / 64.0);
  EXPECT_LT(chi2, 63 + 5 * std::sqrt(2 * 63.0));
}

TEST(Random, NormalsAreThoseOfBoxAndMuller) {
  for (std::uint32_t i = 0; i < 10'000; ++i) {
    const Words w = philox({i, 0, 0, 0}, 9);
    const auto got = box_muller(w.x, w.y);
    const double r = std::sqrt(-2 * std::log(double{uniform(w.x)}));
    const double angle = ((w.y >> 30) + double{uniform(w.y << 2)} - 0.5) * M_PI / 2;
    EXPECT_NEAR(got.x, r * std::cos(angle), 2e-6);  // r < 6, a few roundings of 6e-8 each
    EXPECT_NEAR(got.y, r * std::sin(angle), 2e-6);
  }
}

// The contract of the noise, step by step: each operation by itself, correctly rounded.
namespace plain {

float uniform(std::uint32_t word) { return static_cast<float>((word >> 9) * 2u + 1u) * 5.9604644775390625e-8f; }

float log(float x) {
  const std::uint32_t u = float_to_bits(x);
  const std::int32_t e = static_cast<std::int32_t>(u - 0x3f3504f3u) >> 23;
  const float m = bits_to_float(u - (static_cast<std::uint32_t>(e) << 23));
  const float f = m - 1.0f, k = static_cast<float>(e), z = f * f;
  float p = 7.0376836292e-2f;
  for (const float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                        2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f}) {
    p = std::fma(p, f, c);
  }
  p = std::fma(k, -2.12194440e-4f, p * f * z);
  p = std::fma(-0.5f, z, p);
  p = p + f;
  return std::fma(k, 0.693359375f, p);
}

Normals box_muller(std::uint32_t a, std::uint32_t b) {
  const float r = std::sqrt(-2.0f * plain::log(plain::uniform(a)));
  const float t = (plain::uniform(b << 2) - 0.5f) * 1.57079632679f, z = t * t;
  float s = -1.9515295891e-4f;
  s = std::fma(s, z, 8.3321608736e-3f);
  s = std::fma(s, z, -1.6666654611e-1f);
  s = std::fma(s * z, t, t);
  float c = 2.443315711809948e-5f;
  c = std::fma(c, z, -1.388731625493765e-3f);
  c = std::fma(c, z, 4.166664568298827e-2f);
  c = std::fma(c * z, z, std::fma(-0.5f, z, 1.0f));
  const Normals turned[] = {{c, s}, {-s, c}, {-c, -s}, {s, -c}};
  return {r * turned[b >> 30].x, r * turned[b >> 30].y};
}

}  // namespace plain

TEST(Random, NormalsHaveTheBitsOfTheirContract) {
  for (std::uint32_t i = 0; i < 1u << 23; ++i) {
    const std::uint32_t a = i << 9 | i >> 14, b = i * 0x9E3779B9u;  // each uniform, and all over the circle
    ASSERT_EQ(float_to_bits(uniform(a)), float_to_bits(plain::uniform(a))) << a;
    const Normals got = box_muller(a, b), want = plain::box_muller(a, b);
    ASSERT_EQ(float_to_bits(got.x), float_to_bits(want.x)) << a << " " << b;
    ASSERT_EQ(float_to_bits(got.y), float_to_bits(want.y)) << a << " " << b;
  }
}

// A GPU's rsqrt.approx errs by up to 2^-22.9. Whatever it gives within that, for each of the 2^23 radii there are, its
// root is the correctly rounded one.
TEST(Random, ARadiusIsCorrectlyRoundedWhateverTheReciprocalsError) {
  const double bound = std::exp2(-22.9);
  std::uint64_t tried = 0;
  for (std::uint32_t i = 0; i < 1u << 23; ++i) {
    const float r = radius(i << 9), a = exact::scaled_log<-2>(float_to_bits(uniform(i << 9)));
    ASSERT_EQ(r, std::sqrt(a));
    const double truth = 1 / std::sqrt(double{a});
    const auto nearest = static_cast<float>(truth);
    for (std::uint32_t k = 0; k < 7; ++k) {
      const float y = bits_to_float(float_to_bits(nearest) + k - 3);
      if (std::abs(y - truth) > bound * truth) continue;
      ASSERT_EQ(radius_from_reciprocal(a, y), r) << a << " from " << y;
      ++tried;
    }
  }
  EXPECT_GT(tried, 3u << 23);
}

TEST(Random, BernoulliDrawsHaveThePixelsProbability) {
  constexpr int n = 200'000;
  for (int pixel : {0, 1, 64, 128, 200, 254, 255}) {
    int ones = 0;
    for (std::uint32_t i = 0; i < n; ++i) {
      ones += bernoulli_draw(philox({i, 1, 2, 3}, 4).x, static_cast<std::uint8_t>(pixel));
    }
    const double p = pixel / 255.0;
    EXPECT_NEAR(ones / double{n}, p, 5 * std::sqrt(p * (1 - p) / n)) << pixel;  // 0 and 255: exactly
  }
  EXPECT_TRUE(bernoulli_draw(~0u, 255));
  EXPECT_FALSE(bernoulli_draw(0, 0));
}

TEST(Random, ShuffleIsABijection) {
  for (std::uint32_t count : {1u, 2u, 3u, 4u, 5u, 15u, 16u, 17u, 100u, 1000u, 1965u, 4095u, 4096u, 4097u, 60'000u}) {
    std::vector<char> hit(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t at = shuffled_index(42, 3, count, i);
      ASSERT_LT(at, count);
      ASSERT_FALSE(hit[at]) << at << " twice of " << count;
      hit[at] = 1;
    }
  }
}

TEST(Random, ShuffleMixes) {
  constexpr std::uint32_t count = 10'000;
  int fixed = 0, same_as_next_epoch = 0;
  double distance = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto at = shuffled_index(1, 0, count, i);
    fixed += at == i;
    same_as_next_epoch += at == shuffled_index(1, 1, count, i);
    distance += std::abs(double(at) - double(i)) / count;
  }
  EXPECT_LT(fixed, 8);  // Poisson of mean 1
  EXPECT_LT(same_as_next_epoch, 8);
  EXPECT_NEAR(distance / count, 1.0 / 3, 0.015);  // of two uniform points; standard error 0.0024
}

TEST(Normal, InverseUndoesTheDistributionFunction) {
  for (double p : {1e-9, 0.003, 0.2, 0.5, 0.7, 0.999}) EXPECT_NEAR(normal_cdf(inverse_normal_cdf(p)) / p, 1, 1e-12);
  EXPECT_NEAR(inverse_normal_cdf(0.975), 1.959963984540054, 1e-12);
}

}  // namespace
}  // namespace elbo::math
