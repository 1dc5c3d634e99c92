// Made-up runs for the report's tests.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>

#include "host/report/report.h"

namespace elbo {

// A number in [0, 1) for each i, without pattern.
inline float scatter_number(std::int64_t i) {
  const double x = std::sin(static_cast<double>(i) * 12.9898) * 43758.5453;
  return static_cast<float>(x - std::floor(x));
}

inline ImageStrip made_up_images(std::int64_t count, std::int64_t channels = 1) {
  ImageStrip s{count, 6, 5, channels, {}};
  for (std::int64_t i = 0; i < count * 6 * 5 * channels; ++i) s.pixels.push_back(scatter_number(i));
  return s;
}

inline ReportData made_up_report(std::int64_t latent, std::int64_t epochs) {
  ReportData r;
  r.name = "made-up";
  r.spec_json = "{\n  \"name\": \"made-up\",\n  \"train\": { \"epochs\": 3, \"rate\": -1.5e-4, \"on\": true }\n}\n";
  r.command = "elbo run made-up.json";
  r.device = "cpu, 2 threads";
  r.machine = "a machine";
  r.version = "0.0.0";
  r.date = "2024-02-29 12:00 UTC";
  r.seconds = 61;
  r.parameters = 203412;
  r.train_images = 60000;
  r.test_images = 10000;
  for (std::int64_t e = 1; e <= epochs; ++e) {
    const double fall = 100.0 / static_cast<double>(e), kl = 7 - 2.0 / static_cast<double>(e);
    EpochMetrics m{e, 10 * e, {}, {}, 12345.6, static_cast<double>(e)};
    m.train = {-(151 + fall + kl), 151 + fall + kl, 151 + fall, kl, {}};
    m.test = {-(150 + fall / 2 + kl), 150 + fall / 2 + kl, 150 + fall / 2, kl, {}};
    for (std::int64_t k = 0; k < latent; ++k)
      m.test.unit_kl.push_back(k % 4 == 3 ? 0.001 : kl / static_cast<double>(k + 1));
    r.epochs.push_back(m);
  }
  r.originals = made_up_images(10);
  r.reconstructions = made_up_images(10);
  r.samples = made_up_images(100);
  r.latent = latent;
  if (latent == 2) {
    r.manifold = made_up_images(16);
    r.manifold_side = 4;
  }
  for (int label = 0; label < 10; ++label) {
    r.class_names.push_back("class " + std::to_string(label));
    r.original_names.push_back(r.class_names.back());
  }
  if (latent <= 3)
    for (std::int64_t i = 0; i < 200; ++i) {
      r.labels.push_back(static_cast<std::uint8_t>(i % 10));
      for (std::int64_t k = 0; k < latent; ++k)
        r.means.push_back(3 * scatter_number(i * latent + k) - 1.5f + static_cast<float>(i % 10 % (k + 3)));
    }
  return r;
}

}  // namespace elbo
