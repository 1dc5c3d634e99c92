// The importance-weighted bound and its gradient.
#include <algorithm>
#include <cmath>

#include "elbo/math/importance.h"
#include "tests/operations/lab.h"

namespace elbo::test {
namespace {

Tensor scratch_for(Lab& d, const ImportanceBound& op) {
  return op.scratch_size() > 0 ? d.make({op.scratch_size()}) : Tensor{};
}

TEST_P(Ops, ImportanceBound) {
  struct Case {
    std::int64_t rows, samples, chunks;
  };
  for (const Case c : {Case{1, 1, 1}, Case{3, 5, 1}, Case{33, 50, 2}, Case{5, 31, 29}, Case{4, 32, 1}, Case{9, 33, 3},
                       Case{2, 1000, 1}}) {
    const std::int64_t draws = c.rows * c.samples;
    // Losses of hundreds of nats that differ by some.
    const Floats nll = normals(draws * c.chunks, 1, 3.0f, 500.0f), kl = normals(draws, 2, 2.0f, 20.0f);
    const double scale = 0.01;
    Expected loss(c.rows), dkl(draws), dnll(draws * c.chunks);
    for (std::int64_t r = 0; r < c.rows; ++r) {
      std::vector<double> weights;
      double largest = -1e300, sum = 0;
      for (std::int64_t i = r * c.samples; i < (r + 1) * c.samples; ++i) {
        double w = -double{kl[at(i)]};
        for (std::int64_t k = 0; k < c.chunks; ++k) w -= double{nll[at(i * c.chunks + k)]};
        weights.push_back(w);
        largest = std::max(largest, w);
      }
      for (const double w : weights) sum += std::exp(w - largest);
      loss.add(r, -(largest + std::log(sum / static_cast<double>(c.samples))));
      for (std::int64_t s = 0; s < c.samples; ++s) {
        const std::int64_t draw = r * c.samples + s;
        const double share = scale * std::exp(weights[at(s)] - largest) / sum;
        dkl.add(draw, share);
        for (std::int64_t k = 0; k < c.chunks; ++k) dnll.add(draw * c.chunks + k, share);
      }
    }
    for (LossVariant kernels : both_kernels) {
      Lab& d = next();
      const std::string which = cat(c.rows, " rows, ", c.samples, " samples, kernels ", static_cast<int>(kernels));
      // The unfused kernels keep the logarithm of a weight as a float: it errs by half an ulp of its size.
      const double nats = kernels == LossVariant::unfused ? 500.0 * static_cast<double>(c.chunks) * 6e-8 : 0;
      ImportanceBound a;
      a.nll_partial = d.put({draws, c.chunks}, nll);
      a.sampled_kl = d.put({c.rows, c.samples}, kl);
      a.variant = kernels;
      a.grad_scale = static_cast<float>(scale);
      a.loss = d.make({c.rows});
      a.scratch = scratch_for(d, a);
      d.run(a);
      const Floats alone = d.get(a.loss);
      expect_close(alone, loss, 3e-7, "loss alone, " + which);
      a.loss = d.make({c.rows});
      a.dnll_partial = d.make({draws, c.chunks});
      a.dsampled_kl = d.make({c.rows, c.samples});
      d.run(a);
      expect_same_bits(d.get(a.loss), alone, "loss, " + which);
      // An exponential, a sum, a quotient, a product. What the exponential is of, up to 60 nats below the largest, is
      // a float, and errs by half an ulp of 2^-18. A weight below e^-87 is 0.
      expect_close(d.get(a.dsampled_kl), dkl, 3e-6 + 2 * nats, "dsampled_kl, " + which);
      expect_close(d.get(a.dnll_partial), dnll, 3e-6 + 2 * nats, "dnll_partial, " + which);
      const Floats kept = d.get(a.dsampled_kl);
      a.loss = a.dnll_partial = {};
      a.dsampled_kl = d.make({c.rows, c.samples});
      d.run(a);
      expect_same_bits(d.get(a.dsampled_kl), kept, "gradient alone, " + which);
    }
  }
}

TEST_P(OpsAligned, ImportanceBoundKeepsNan) {
  for (LossVariant kernels : both_kernels) {
    for (const std::int64_t planted : {0, 4, 39}) {
      Lab& d = next();
      Floats nll(4 * 40, 1.0f);
      nll[at(40 + planted)] = nan;
      nll[at(80 + planted)] = infinity;  // no weight beside the others
      ImportanceBound a;
      std::fill(nll.begin() + 120, nll.end(), infinity);
      a.nll_partial = d.put({4 * 40, 1}, nll);
      a.sampled_kl = d.put({4, 40}, Floats(4 * 40, 2.0f));
      a.variant = kernels;
      a.loss = d.make({4});
      a.dnll_partial = d.make({4 * 40, 1});
      a.dsampled_kl = d.make({4, 40});
      a.scratch = scratch_for(d, a);
      d->run(a);
      const Floats loss = d.get(a.loss), dkl = d.get(a.dsampled_kl), dnll = d.get(a.dnll_partial);
      EXPECT_FLOAT_EQ(loss[0], 3.0f);
      EXPECT_TRUE(std::isnan(loss[1]));
      EXPECT_FLOAT_EQ(loss[2], 3.0f - std::log(39.0f / 40));
      EXPECT_FALSE(std::isfinite(loss[3]));
      for (std::int64_t i = 0; i < 120; ++i) {
        EXPECT_EQ(std::isnan(dkl[at(i)]), i / 40 == 1) << i;
        EXPECT_EQ(std::isnan(dnll[at(i)]), i / 40 == 1) << i;
      }
      EXPECT_EQ(dkl[at(80 + planted)], 0.0f);
    }
  }
}

TEST_P(OpsAligned, ImportanceBoundRefusesWrongShapes) {
  Lab& d = lab();
  const Tensor t23 = d.make({2, 3}), t43 = d.make({4, 3}), t3 = d.make({3}), six = d.make({6, 2}), two = d.make({2});
  const auto weigh = [&](const Tensor& nll, const Tensor& loss, const Tensor& dnll, const Tensor& dkl,
                         LossVariant variant = LossVariant::fused) {
    d->run(ImportanceBound{.nll_partial = nll,
                           .sampled_kl = t23,
                           .variant = variant,
                           .loss = loss,
                           .dnll_partial = dnll,
                           .dsampled_kl = dkl,
                           .scratch = {}});
  };
  EXPECT_NO_THROW(weigh(six, two, six, t23));
  expect_refused("importance_bound: neither", [&] { weigh(six, {}, {}, {}); });
  expect_refused("importance_bound: nll_partial", [&] { weigh(t43, two, {}, {}); });
  expect_refused("importance_bound: loss", [&] { weigh(six, t3, {}, {}); });
  expect_refused("importance_bound: dnll_partial", [&] { weigh(six, two, t23, {}); });
  expect_refused("importance_bound: dsampled_kl", [&] { weigh(six, two, {}, six); });
  expect_refused("importance_bound: the unfused kernels need 10",
                 [&] { weigh(six, two, {}, {}, LossVariant::unfused); });
}

}  // namespace
}  // namespace elbo::test
