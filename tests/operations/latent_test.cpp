// The latent variable: draws, their KL divergence in closed form and by the draw, and the gradients.
#include "elbo/math/latent.h"

#include <algorithm>
#include <cmath>

#include "elbo/math/random.h"
#include "tests/operations/cases.h"
#include "tests/operations/lab.h"

namespace elbo::test {
namespace {

constexpr Posterior posteriors[] = {Posterior::log_variance, Posterior::sigma};

struct Latent {
  LatentCase c;
  StepState state;
  Floats stats, dz, noise;

  explicit Latent(const LatentCase& size)
      : c(size),
        state(some_state()),
        stats(normals(size.rows * 2 * size.latent, 1, 1.5f)),
        dz(normals(size.rows * size.samples * size.latent, 2)),
        noise(dz.size()) {
    state.row0 = 1000;
    for (std::int64_t i = 0; i < c.rows * c.samples; ++i) {
      const math::Draw draw{state.seed, Purpose::latent, state.noise_step,
                            state.row0 + static_cast<std::uint32_t>(i / c.samples),
                            static_cast<std::uint32_t>(i % c.samples)};
      for (std::int64_t d = 0; d < c.latent; d += 4) {
        const math::Normals4 quad = math::normals(draw, static_cast<std::uint32_t>(d / 4));
        std::copy_n(quad.v, std::min<std::int64_t>(4, c.latent - d), noise.data() + i * c.latent + d);
      }
    }
  }
  double mu(std::int64_t r, std::int64_t d) const { return stats[at(r * 2 * c.latent + d)]; }
  double s(std::int64_t r, std::int64_t d) const { return stats[at(r * 2 * c.latent + c.latent + d)]; }
  std::int64_t z(std::int64_t r, std::int64_t sample, std::int64_t d) const {
    return (r * c.samples + sample) * c.latent + d;
  }
  double eps(std::int64_t r, std::int64_t sample, std::int64_t d) const { return noise[at(z(r, sample, d))]; }
  Shape z_shape() const { return {c.rows, c.samples, c.latent}; }
  Shape kl_shape() const { return {ceil_div(c.rows, latent_tile), c.latent}; }
};

// The cases, and the large ones where that is no second time.
template <std::size_t n>
std::vector<LatentCase> with_large(const LatentCase (&large)[n], const Place& place) {
  std::vector<LatentCase> all(std::begin(latent_cases), std::end(latent_cases));
  if (place.offset == 0) all.insert(all.end(), std::begin(large), std::end(large));
  return all;
}

template <class Op>
void add_scratch(Lab& d, Op& op) {
  if (op.scratch_size() > 0) op.scratch = d.make({op.scratch_size()});
}

// Once where it is long: the unfused kernels are Thrust's calls, in which the simulated device has no threads to order.
template <class Op>
void run(Lab& d, const Op& op) {
  if (op.variant == LossVariant::unfused && op.stats.rows() > 1000) {
    d->run(op);
  } else {
    d.run(op);
  }
}

// The operation and its gradient of these statistics, without scratch, and the first without outputs.
SampleLatent sample_of(Lab& d, const Latent& v, Posterior posterior, LossVariant kernels) {
  SampleLatent a;
  a.stats = d.put({v.c.rows, 2 * v.c.latent}, v.stats);
  a.state = d.put(v.state);
  a.posterior = posterior;
  a.variant = kernels;
  return a;
}
SampleLatentBackward gradient_of(Lab& d, const Latent& v, Posterior posterior, LossVariant kernels) {
  SampleLatentBackward a;
  a.stats = d.put({v.c.rows, 2 * v.c.latent}, v.stats);
  a.dz = d.put(v.z_shape(), v.dz);
  a.state = d.put(v.state);
  a.posterior = posterior;
  a.variant = kernels;
  a.dstats = d.make({v.c.rows, 2 * v.c.latent});
  return a;
}

std::string name_of(const LatentCase& c, Posterior posterior, LossVariant kernels) {
  return cat(c.rows, "x", c.samples, "x", c.latent, ", posterior ", static_cast<int>(posterior), ", kernels ",
             static_cast<int>(kernels));
}

TEST_P(Ops, SampleLatent) {
  for (const LatentCase& c : with_large(many_draws, GetParam())) {
    const Latent v(c);
    for (Posterior posterior : posteriors) {
      Expected z(c.rows * c.samples * c.latent), kl(v.kl_shape().count());
      for (std::int64_t r = 0; r < c.rows; ++r) {
        for (std::int64_t i = 0; i < c.latent; ++i) {
          // KL: the terms of its formula nearly cancel at times; each is rounded by itself.
          const std::int64_t sum = r / latent_tile * c.latent + i;
          const double sigma = math::posterior_sigma(posterior, v.s(r, i));
          kl.add(sum, math::gaussian_kl(posterior, v.mu(r, i), v.s(r, i)));
          kl.magnitude[at(sum)] += sigma * sigma + v.mu(r, i) * v.mu(r, i) + 1 + std::abs(std::log(sigma * sigma));
          for (std::int64_t sample = 0; sample < c.samples; ++sample) {
            z.add(v.z(r, sample, i), v.mu(r, i));
            z.add(v.z(r, sample, i), sigma * v.eps(r, sample, i));
          }
        }
      }
      Floats fused_z, fused_kl;
      for (LossVariant kernels : both_kernels) {
        Lab& d = next();
        SampleLatent a = sample_of(d, v, posterior, kernels);
        a.z = d.make(v.z_shape());
        a.kl_partial = d.make(v.kl_shape());
        add_scratch(d, a);
        run(d, a);
        const std::string which = name_of(c, posterior, kernels);
        // What arithmetic.h allows a GPU: sigma errs by 3e-7 + |s| 2^-24, |s| below 6 here; and a rounding. In the KL
        // it counts for a part of the magnitude; the rest is the sum over a tile's rows.
        const Floats got_z = d.get(a.z), got_kl = d.get(a.kl_partial);
        expect_close(got_z, z, 1e-6, "z, " + which);
        expect_close(got_kl, kl, 1e-6, "kl, " + which);
        if (kernels == LossVariant::fused) fused_z = got_z, fused_kl = got_kl;
        expect_same_bits(got_z, fused_z, "z, " + which);
        expect_same_bits(got_kl, fused_kl, "kl, " + which);
      }
    }
  }
}

// mu = 0 and sigma = 1 leave z = epsilon: the same draws on every device, to the last bit.
TEST_P(OpsAligned, NoiseIsTheSameBitsEverywhere) {
  constexpr std::int64_t rows = 300, samples = 3, latent = 21;
  Floats stats(rows * 2 * latent, 0.0f);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < latent; ++i) stats[at((2 * r + 1) * latent + i)] = 1.0f;
  const StepState state = some_state(77);
  Floats eps;
  for (std::uint32_t r = 0; r < rows; ++r)
    for (std::uint32_t sample = 0; sample < samples; ++sample)
      for (std::uint32_t i = 0; i < latent; ++i)
        eps.push_back(
            math::normals({state.seed, Purpose::latent, state.noise_step, state.row0 + r, sample}, i / 4).v[i % 4]);
  for (LossVariant kernels : both_kernels) {
    Lab& d = next();
    SampleLatent a;
    a.stats = d.put({rows, 2 * latent}, stats);
    a.state = d.put(state);
    a.posterior = Posterior::sigma;
    a.variant = kernels;
    a.z = d.make({rows, samples, latent});
    a.kl_partial = d.make({ceil_div(rows, latent_tile), latent});
    add_scratch(d, a);
    d->run(a);
    expect_same_bits(d.get(a.z), eps, cat("kernels ", static_cast<int>(kernels)));
  }
}

TEST_P(Ops, SampleLatentBackward) {
  for (const LatentCase& c : with_large(many_rows, GetParam())) {
    const Latent v(c);
    for (Posterior posterior : posteriors) {
      const double kl_scale = 0.25;
      Expected dstats(c.rows * 2 * c.latent);
      for (std::int64_t r = 0; r < c.rows; ++r) {
        for (std::int64_t i = 0; i < c.latent; ++i) {
          const std::int64_t mu = r * 2 * c.latent + i, s = mu + c.latent;
          for (std::int64_t sample = 0; sample < c.samples; ++sample) {
            const double dz = v.dz[at(v.z(r, sample, i))];
            dstats.add(mu, dz);
            dstats.add(s, dz * math::sample_slope(posterior, v.s(r, i), v.eps(r, sample, i)));
          }
          const auto kl = math::gaussian_kl_grad(posterior, v.mu(r, i), v.s(r, i));
          dstats.add(mu, kl_scale * kl.mu);
          dstats.add(s, kl_scale * kl.s);
          dstats.magnitude[at(s)] += 1 + std::abs(v.s(r, i));  // of the parts of kl.s that may cancel
        }
      }
      Floats fused;
      for (LossVariant kernels : both_kernels) {
        Lab& d = next();
        SampleLatentBackward a = gradient_of(d, v, posterior, kernels);
        a.kl_scale = static_cast<float>(kl_scale);
        add_scratch(d, a);
        run(d, a);
        const std::string which = name_of(c, posterior, kernels);
        const Floats got = d.get(a.dstats);
        // sigma as above, by 7e-7 at most; seven roundings of products and sums, of 6e-8 each.
        expect_close(got, dstats, 1.2e-6, which);
        if (kernels == LossVariant::fused) fused = got;
        expect_same_bits(got, fused, which);
      }
    }
  }
}

// Any outputs are the same bits as all of them together.
TEST_P(Ops, SampledKl) {
  for (const LatentCase& c : with_large({{1030, 1, 128}, {2050, 2, 65}}, GetParam())) {
    const Latent v(c);
    for (Posterior posterior : posteriors) {
      Expected kl(c.rows * c.samples), dstats(c.rows * 2 * c.latent);
      const float scale = -0.5f;
      const Floats dkl = normals(c.rows * c.samples, 3);
      for (std::int64_t r = 0; r < c.rows; ++r) {
        for (std::int64_t i = 0; i < c.latent; ++i) {
          const double m = v.mu(r, i), s = v.s(r, i), sigma = math::posterior_sigma(posterior, s);
          const std::int64_t mu = r * 2 * c.latent + i;
          for (std::int64_t sample = 0; sample < c.samples; ++sample) {
            const std::int64_t draw = r * c.samples + sample;
            const double eps = v.eps(r, sample, i), z = m + sigma * eps, dz = v.dz[at(v.z(r, sample, i))];
            kl.add(draw, 0.5 * z * z);
            kl.add(draw, -0.5 * eps * eps);
            kl.add(draw, -std::log(std::abs(sigma)));
            kl.magnitude[at(draw)] += m * m + sigma * sigma * eps * eps;  // whose sum may cancel in z
            const double weight = double{scale} + double{dkl[at(draw)]};
            const double slope = math::sample_slope(posterior, s, eps);
            const double of_s = posterior == Posterior::log_variance ? 0.5 : 1 / s;  // d log sigma / ds
            dstats.add(mu, dz);
            dstats.add(mu, weight * m);
            dstats.add(mu, weight * sigma * eps);
            dstats.add(mu + c.latent, dz * slope);
            dstats.add(mu + c.latent, weight * m * slope);
            dstats.add(mu + c.latent, weight * sigma * eps * slope);
            dstats.add(mu + c.latent, -weight * of_s);
          }
        }
      }
      Floats all_z, all_closed, fused_dstats;
      for (LossVariant kernels : both_kernels) {
        const std::string which = name_of(c, posterior, kernels);
        Floats all_sampled;
        struct Wanted {
          bool z, closed, sampled;
        };
        for (const Wanted wanted : {Wanted{true, true, true}, Wanted{true, true, false}, Wanted{true, false, true},
                                    Wanted{true, false, false}, Wanted{false, true, false}}) {
          Lab& d = next();
          SampleLatent a = sample_of(d, v, posterior, kernels);
          if (wanted.z) a.z = d.make(v.z_shape());
          if (wanted.closed) a.kl_partial = d.make(v.kl_shape());
          if (wanted.sampled) a.sampled_kl = d.make({c.rows, c.samples});
          add_scratch(d, a);
          run(d, a);
          const auto expect_as_of_all = [&](const Tensor& t, Floats& of_all, const char* name) {
            if (!t) return;
            const Floats got = d.get(t);
            if (of_all.empty()) of_all = got;
            expect_same_bits(got, of_all, name + which);
          };
          expect_as_of_all(a.z, all_z, "z, ");
          expect_as_of_all(a.kl_partial, all_closed, "kl, ");
          expect_as_of_all(a.sampled_kl, all_sampled, "sampled_kl, ");
        }
        // sigma's error, twice in its square; the sum over the dimensions.
        expect_close(all_sampled, kl, 2e-6, "sampled_kl, " + which);

        Lab& d = next();
        SampleLatentBackward b = gradient_of(d, v, posterior, kernels);
        b.kl_scale = 0.0f;
        b.sampled_kl_scale = scale;
        b.dsampled_kl = d.put({c.rows, c.samples}, dkl);
        add_scratch(d, b);
        run(d, b);
        const Floats got = d.get(b.dstats);
        expect_close(got, dstats, 2e-6, "dstats, " + which);
        if (kernels == LossVariant::fused) fused_dstats = got;
        expect_same_bits(got, fused_dstats, "dstats, " + which);
      }
    }
  }
}

// A weight of 0 leaves out what is infinite.
TEST_P(OpsAligned, NoGradientOfAKlThatDoesNotCount) {
  const Floats stats = {0.0f, 100.0f, 0.0f, 100.0f};  // [2, 2]: e^100 is no float, e^50 is one
  for (LossVariant kernels : both_kernels) {
    Lab& d = next();
    SampleLatentBackward a;
    a.stats = d.put({2, 2}, stats);
    a.dz = d.put({2, 1, 1}, Floats{1.0f, 2.0f});
    a.state = d.put(some_state());
    a.variant = kernels;
    a.kl_scale = 0.0f;
    a.dstats = d.make({2, 2});
    add_scratch(d, a);
    d->run(a);
    for (const float g : d.get(a.dstats)) EXPECT_TRUE(std::isfinite(g)) << g;
  }
}

TEST_P(OpsAligned, SampleLatentKeepsNan) {
  const LatentCase c{40, 2, 3};
  for (Posterior posterior : posteriors) {
    for (LossVariant kernels : both_kernels) {
      for (const std::int64_t planted : {std::int64_t{1}, c.latent + 1}) {  // mu or s of unit 1, in row 35
        Lab& d = next();
        Latent v(c);
        v.stats[at(35 * 2 * c.latent + planted)] = nan;
        SampleLatent a = sample_of(d, v, posterior, kernels);
        a.z = d.make(v.z_shape());
        a.kl_partial = d.make(v.kl_shape());
        add_scratch(d, a);
        d->run(a);
        SampleLatentBackward b = gradient_of(d, v, posterior, kernels);
        add_scratch(d, b);
        d->run(b);
        const Floats got_z = d.get(a.z), got_kl = d.get(a.kl_partial), got = d.get(b.dstats);
        for (std::int64_t i = 0; i < a.z.count(); ++i) {
          EXPECT_EQ(std::isnan(got_z[at(i)]), i / (c.samples * c.latent) == 35 && i % c.latent == 1) << i;
        }
        for (std::int64_t i = 0; i < 2 * c.latent; ++i) EXPECT_EQ(std::isnan(got_kl[at(i)]), i == c.latent + 1) << i;
        EXPECT_TRUE(std::isnan(got[at(35 * 2 * c.latent + planted)]));
        for (std::int64_t i = 0; i < 35 * 2 * c.latent; ++i) EXPECT_FALSE(std::isnan(got[at(i)])) << i;
      }
    }
  }
}

TEST_P(OpsAligned, LatentRefusesWrongShapes) {
  Lab& d = lab();
  // stats [2, 4], of 2 latent dimensions
  const Tensor t23 = d.make({2, 3}), t24 = d.make({2, 4}), z = d.make({2, 1, 2}), kl = d.make({1, 2});
  const Tensor state = d.put(some_state()), sampled = d.make({2, 1});
  const auto sample = [&](const char* says, const Tensor& to, const Tensor& kl_of_draws, LossVariant variant) {
    expect_refused(says, [&] {
      d->run(SampleLatent{.stats = t24,
                          .state = state,
                          .variant = variant,
                          .z = to,
                          .kl_partial = kl,
                          .sampled_kl = kl_of_draws,
                          .scratch = {}});
    });
  };
  sample("sample_latent: z", d.make({2, 1, 3}), {}, LossVariant::fused);
  sample("sample_latent: a KL divergence of draws without z", {}, sampled, LossVariant::fused);
  sample("sample_latent: sampled_kl", z, t23, LossVariant::fused);
  sample("sample_latent: the unfused kernels need 4", z, sampled, LossVariant::unfused);
  const auto backward = [&](const char* says, const Tensor& dz, const Tensor& dkl, const Tensor& dstats,
                            LossVariant variant) {
    expect_refused(says, [&] {
      d->run(SampleLatentBackward{.stats = t24,
                                  .dz = dz,
                                  .state = state,
                                  .variant = variant,
                                  .dsampled_kl = dkl,
                                  .dstats = dstats,
                                  .scratch = z});
    });
  };
  backward("sample_latent_backward: dstats", z, {}, t23, LossVariant::fused);
  backward("sample_latent_backward: the gradient of a sampled KL divergence without dz", {}, sampled, t24,
           LossVariant::fused);
  backward("sample_latent_backward: dsampled_kl", z, t23, t24, LossVariant::fused);
  backward("sample_latent_backward: the unfused kernels need 8", z, sampled, t24, LossVariant::unfused);
}

}  // namespace
}  // namespace elbo::test
