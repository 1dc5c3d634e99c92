// Made-up images and specs for tests that need no data set.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>

#include "elbo/math/random.h"
#include "host/data/dataset.h"
#include "host/spec/spec.h"

namespace elbo::test {

// Bright discs at random places, on a dark ground with some noise.
inline ImageSet discs(std::int64_t count, std::int64_t height, std::int64_t width, std::uint64_t seed = 1) {
  ImageSet set;
  set.count = count;
  set.height = height;
  set.width = width;
  set.pixels.resize(static_cast<std::size_t>(count * set.image_size()));
  std::uint8_t* pixel = set.pixels.data();
  for (std::int64_t i = 0; i < count; ++i) {
    const math::Draw draw{seed, Purpose::prior, 0, static_cast<std::uint32_t>(i), 0};
    const math::Words place = math::random_words(draw, 0);
    const double x = math::uniform(place.x) * static_cast<double>(width);
    const double y = math::uniform(place.y) * static_cast<double>(height);
    const double radius = (0.15 + 0.25 * math::uniform(place.z)) * static_cast<double>(height);
    for (std::int64_t p = 0; p < set.image_size(); ++p, ++pixel) {
      const double d = std::hypot(static_cast<double>(p % width) - x, static_cast<double>(p / width) - y);
      const std::uint32_t noise = math::random_words(draw, static_cast<std::uint32_t>(p + 1)).x >> 27;
      *pixel = static_cast<std::uint8_t>((d < radius ? 200 : 0) + noise);
    }
  }
  return set;
}

// A small spec that trains in no time; `overrides` are those of --set.
inline Spec small_spec(const std::vector<std::string>& overrides = {}) {
  return parse_spec(R"({
    "name": "small", "seed": 3,
    "data": { "dataset": "none" },
    "model": {
      "latent": 3,
      "encoder": [ { "type": "dense", "units": 37, "activation": "relu" } ],
      "decoder": [ { "type": "dense", "units": 29, "activation": "tanh" } ],
      "likelihood": "bernoulli"
    },
    "optimizer": { "type": "adam", "learning_rate": 1e-3 },
    "train": { "epochs": 3, "batch_size": 20 }
  })",
                    "small", overrides);
}

}  // namespace elbo::test
