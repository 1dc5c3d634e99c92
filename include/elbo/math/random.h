// Noise is a function, not a state: a draw is computed from what it is for. Forward and backward
// regenerate it, every device draws the same bits, and a run resumes anywhere.
#pragma once
#include <cstdint>

#include "elbo/math/elementary.h"
#include "elbo/types.h"

namespace elbo::math {

struct Words {
  std::uint32_t x, y, z, w;
};

// Philox4x32-10: J. Salmon et al., «Parallel random numbers: as easy as 1, 2, 3», SC11.
ELBO_HD Words philox(Words counter, std::uint64_t key) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  Words c = counter;
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * c.x, b = std::uint64_t{0xCD9E8D57u} * c.z;
    c = {static_cast<std::uint32_t>(b >> 32) ^ c.y ^ k0, static_cast<std::uint32_t>(b),
         static_cast<std::uint32_t>(a >> 32) ^ c.w ^ k1, static_cast<std::uint32_t>(a)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// What a draw is for. row: position in the batch (training) or in the data set (evaluation).
// sample < 2^24. One Draw names 4 words for each quad of dimensions.
struct Draw {
  std::uint64_t seed;
  Purpose purpose;
  std::uint32_t step, row, sample;
};

// The 4 words of dimensions 4*quad .. 4*quad+3.
ELBO_HD Words random_words(const Draw& d, std::uint32_t quad) {
  return philox({quad, d.row, d.step, static_cast<std::uint32_t>(d.purpose) << 24 | d.sample}, d.seed);
}

// Uniform in (0, 1): an odd multiple of 2^-24, exact in float.
ELBO_HD float uniform(std::uint32_t word) {
  return exact::mul(static_cast<float>((word >> 9) * 2u + 1u), 5.9604644775390625e-8f);
}

struct Normals {
  float x, y;
};

// Two standard normals from two words: Box and Muller's method (1958), made of exact operations only.
// The angle is (quadrant + a fraction in (-1/2, 1/2)) * pi/2, so one short polynomial pair will do.
ELBO_HD Normals box_muller(std::uint32_t a, std::uint32_t b) {
  const float r = exact::sqrt(exact::mul(-2.0f, exact::log(uniform(a))));
  const float t = exact::mul(exact::add(uniform(b << 2), -0.5f), 1.57079632679f), z = exact::mul(t, t);
  float s = -1.9515295891e-4f;  // sin and cos on (-pi/4, pi/4): Cephes' sinf, cosf
  s = exact::fma(s, z, 8.3321608736e-3f);
  s = exact::fma(s, z, -1.6666654611e-1f);
  s = exact::fma(exact::mul(s, z), t, t);
  float c = 2.443315711809948e-5f;
  c = exact::fma(c, z, -1.388731625493765e-3f);
  c = exact::fma(c, z, 4.166664568298827e-2f);
  c = exact::fma(exact::mul(c, z), z, exact::fma(-0.5f, z, 1.0f));
  const std::uint32_t quadrant = b >> 30;
  const float x = quadrant & 1u ? s : c, y = quadrant & 1u ? c : s;
  return {exact::mul(r, quadrant == 1u || quadrant == 2u ? -x : x), exact::mul(r, quadrant >= 2u ? -y : y)};
}

struct Normals4 {
  float v[4];
};

// Standard normals of dimensions 4*quad .. 4*quad+3.
ELBO_HD Normals4 normals(const Draw& d, std::uint32_t quad) {
  const Words w = random_words(d, quad);
  const Normals a = box_muller(w.x, w.y), b = box_muller(w.z, w.w);
  return {{a.x, a.y, b.x, b.y}};
}

// True with probability pixel / 255, exactly (up to the 2^-32 grain of a word).
ELBO_HD bool bernoulli_draw(std::uint32_t word, std::uint8_t pixel) {
  return std::uint64_t{word} * 255u < std::uint64_t{pixel} << 32;
}

// The image at `position` of epoch `epoch`: a bijection of [0, count), count <= 2^31. A balanced
// Feistel network over the next even number of bits, walked until it lands inside (expected < 4
// rounds of walking).
ELBO_HD std::uint32_t shuffled_index(std::uint64_t seed, std::uint32_t epoch, std::uint32_t count,
                                     std::uint32_t position) {
  std::uint32_t half = 1;
  while ((std::uint64_t{1} << (2 * half)) < count) ++half;
  const std::uint32_t mask = (1u << half) - 1u;
  const Draw d{seed, Purpose::shuffle, epoch, 0, 0};
  const Words k0 = random_words(d, 0), k1 = random_words(d, 1);
  const std::uint32_t keys[8] = {k0.x, k0.y, k0.z, k0.w, k1.x, k1.y, k1.z, k1.w};
  std::uint32_t v = position;
  do {
    std::uint32_t left = v >> half, right = v & mask;
    for (std::uint32_t key : keys) {
      std::uint32_t h = (right ^ key) * 0x85EBCA6Bu;  // the finaliser of MurmurHash3 (A. Appleby)
      h = (h ^ (h >> 13)) * 0xC2B2AE35u;
      h ^= h >> 16;
      const std::uint32_t next = left ^ (h & mask);
      left = right;
      right = next;
    }
    v = left << half | right;
  } while (v >= count);
  return v;
}

}  // namespace elbo::math
