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

// a b. nvcc makes two instructions and two additions of 0 of the plain product of 64 bits.
ELBO_HD std::uint64_t wide_product(std::uint32_t a, std::uint32_t b) {
#if defined(__CUDA_ARCH__)
  std::uint64_t product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
#else
  return std::uint64_t{a} * b;
#endif
}

// Philox4x32-10: J. Salmon et al., «Parallel random numbers: as easy as 1, 2, 3», SC11.
ELBO_HD Words philox(Words counter, std::uint64_t key) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  Words c = counter;
#if defined(__CUDACC__)
#pragma unroll
#endif
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = wide_product(0xD2511F53u, c.x), b = wide_product(0xCD9E8D57u, c.z);
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

// The first 23 bits of a word, then `last`: a bit of the next place and whatever it changes of those before. By itself:
// nvcc would take two instructions.
ELBO_HD std::uint32_t first_bits(std::uint32_t word, std::uint32_t last) {
#if defined(__CUDA_ARCH__)
  std::uint32_t bits;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(bits) : "r"(word), "r"(0xfffffe00u), "r"(last));  // (a & b) ^ c
  return bits;
#else
  return (word & 0xfffffe00u) ^ last;
#endif
}

// Whether a word has any bit of a mask: one instruction, where nvcc would take three for a mask of one bit.
ELBO_HD bool any_bit(std::uint32_t word, std::uint32_t mask) {
#if defined(__CUDA_ARCH__)
  std::uint32_t bits;
  asm("and.b32 %0, %1, %2;" : "=r"(bits) : "r"(word), "r"(mask));
  return bits != 0;
#else
  return (word & mask) != 0;
#endif
}

// 2^32 times the uniform number of a word, exact.
ELBO_HD float scaled_uniform(std::uint32_t word) { return static_cast<float>(first_bits(word, 0x100u)); }

// Uniform in (0, 1): an odd multiple of 2^-24, exact in float.
ELBO_HD float uniform(std::uint32_t word) { return exact::mul(scaled_uniform(word), 2.3283064365386963e-10f); }

// sqrt(a), correctly rounded, for the 2^23 a = -2 log(u) that a uniform u can give, from any y within 2^-22.9 of
// 1 / sqrt(a): what rsqrt.approx.ftz.f32 promises (PTX ISA). Newton's step, s + (a - s^2) y / 2, is how a GPU takes any
// root; here a is known to lie in [2^-23, 34], which leaves nothing for a slow path to do. Without the 2^-24 it rounds
// the wrong way for a = 0x1.dd26e4p-1 and a y at the end of its bounds; with it for none (tests/math_test.cpp tries
// each a with each y).
ELBO_HD float radius_from_reciprocal(float a, float y) {
  const float s = exact::fma(a, y, -5.9604644775390625e-8f), half_y = exact::mul(0.5f, y);
  return exact::fma(exact::fma(-s, s, a), half_y, s);
}

// sqrt(-2 log(u)), u = uniform(word); each step is correctly rounded.
ELBO_HD float radius(std::uint32_t word) {
  const float a = exact::scaled_log<-2>(float_to_bits(scaled_uniform(word)), 32u << 23);
#if defined(__CUDA_ARCH__)
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(a));
  return radius_from_reciprocal(a, y);
#else
  return exact::sqrt(a);
#endif
}

struct Normals {
  float x, y;
};

// Two standard normals from two words: Box and Muller's method (1958), made of exact operations only.
// The angle is (quadrant + a fraction in (-1/2, 1/2)) * pi/2, so one short polynomial pair will do. The quadrant is b's
// first two bits, the fraction what uniform() makes of the others, less 1/2.
ELBO_HD Normals box_muller(std::uint32_t a, std::uint32_t b) {
  const std::uint32_t fraction = first_bits(b << 2, 0x80000100u);  // times 2^32, and signed
  const float t =
      exact::mul(static_cast<float>(static_cast<std::int32_t>(fraction)), 1.57079632679f * 2.3283064365386963e-10f);
  const float z = exact::mul(t, t);
  float s = -1.9515295891e-4f;  // sin and cos on (-pi/4, pi/4): Cephes' sinf, cosf
  s = exact::fma(s, z, 8.3321608736e-3f);
  s = exact::fma(s, z, -1.6666654611e-1f);
  s = exact::fma(exact::mul(s, z), t, t);
  float c = 2.443315711809948e-5f;
  c = exact::fma(c, z, -1.388731625493765e-3f);
  c = exact::fma(c, z, 4.166664568298827e-2f);
  c = exact::fma(exact::mul(c, z), z, exact::fma(-0.5f, z, 1.0f));
  // Half a turn changes both signs, so it may as well change that of the radius.
  const float r = bits_to_float(float_to_bits(radius(a)) ^ (b & 0x80000000u));
  const bool quarter = any_bit(b, 0x40000000u);
  return {exact::mul(r, quarter ? -s : c), exact::mul(r, quarter ? c : s)};
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
