// exp, log and tanh for the formulas of this folder.
//
// float on the host: branch-free polynomials that a compiler can vectorise (libm's calls would stop
// it), within 2 ulp. float on a GPU: the CUDA math library. double: libm; the float64 references of
// the tests go that way. NaN in gives NaN out, everywhere: divergence must never be hidden.
//
// The functions of namespace `exact` use only IEEE operations that are correctly rounded, in a fixed
// order and never contracted, so that every device computes the same bits. Noise is made of them.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "elbo/math/hd.h"

namespace elbo::math {

ELBO_HD float bits_to_float(std::uint32_t u) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(u);
#else
  float f;
  std::memcpy(&f, &u, sizeof f);
  return f;
#endif
}

ELBO_HD std::uint32_t float_to_bits(float f) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(f);
#else
  std::uint32_t u;
  std::memcpy(&u, &f, sizeof u);
  return u;
#endif
}

namespace exact {

ELBO_HD float mul(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;  // the project compiles with -ffp-contract=off
#endif
}

ELBO_HD float add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

ELBO_HD float fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// sqrt(a) from an approximation y of 1 / sqrt(a) within 2^-22.9, correctly rounded: for every a in [2^-101, infinity),
// as tests/math_test.cpp tries all there are in [1, 4) with all such y, and a power of 4 changes no rounding.
ELBO_HD float root_from_reciprocal(float a, float y) {
  const float s = mul(a, y), h = mul(0.5f, y), e = fma(-s, h, 0.5f);
  const float nearer = fma(s, e, s);
  return fma(fma(-nearer, nearer, a), fma(h, e, h), nearer);
}

// 1 / b to half an ulp and 2^-46, from a y within an ulp of it. Correctly rounded, but where b's significand is all
// ones and y is the power of two below 1 / b: halfway between two floats to the last bit that is computed, it stays y.
// No such y comes from a GPU for which nvcc makes the correctly rounded __frcp_rn by these two steps (sm_90 in 13.0).
ELBO_HD float nearer_reciprocal(float b, float y) { return fma(fma(-b, y, 1.0f), y, y); }

// a / b from such a reciprocal of b, correctly rounded: P. Markstein, «Computation of elementary functions on the IBM
// RISC System/6000 processor», IBM J. R&D 34 (1990). For normal numbers whose quotient, and a's last place, are far
// from the range's ends. From the y that stays, a power of two a gives a y, an ulp too little.
ELBO_HD float quotient_from_reciprocal(float a, float b, float y) {
  float q = mul(a, y);
  q = fma(fma(-b, q, a), y, q);
  return fma(fma(-b, q, a), y, q);
}

// The square root without a branch, where reciprocal_root(x) is 1 / sqrt(x) within 2^-22.9. Infinity gives NaN.
template <class F>
ELBO_HD float root_by(float a, const F& reciprocal_root) {
  const bool tiny = a < 7.8886090522101181e-31f;              // 2^-100
  const float x = tiny ? mul(a, 7.9228162514264338e28f) : a;  // times 2^96
  // 2^-126: nothing beside such an x, and finite for x = 0
  const float root = root_from_reciprocal(x, reciprocal_root(add(x, 1.1754943508222875e-38f)));
  return tiny ? mul(root, 3.5527136788005009e-15f) : root;  // times 2^-48
}

// a / b without a branch, where reciprocal(b) is 1 / b within an ulp: for b in [2^-80, 2^80], with NaN for b = 0 and +0
// for a = -0, and a quotient below 2^-126 rounded twice. One that overflows gives infinity or NaN.
template <class F>
ELBO_HD float quotient_by(float a, float b, const F& reciprocal) {
  const bool tiny = ::fabsf(a) < 9.0949470177292824e-13f;     // 2^-40
  const float x = tiny ? mul(a, 1.2089258196146292e24f) : a;  // times 2^80
  const float q = quotient_from_reciprocal(x, b, nearer_reciprocal(b, reciprocal(b)));
  return tiny ? mul(q, 8.2718061255302767e-25f) : q;  // times 2^-80
}

// The square root. On a GPU root_by.
ELBO_HD float sqrt(float a) {
#if defined(__CUDA_ARCH__)
  return root_by(a, [](float x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  });
#else
  return __builtin_sqrtf(a);
#endif
}

// a / b. On a GPU quotient_by.
ELBO_HD float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return quotient_by(a, b, [](float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  });
#else
  return a / b;
#endif
}

// a / b where 1 / b is at hand, for |a| in [2^-76, 2^65], 0 or NaN, and b in [2^-20, 1].
ELBO_HD float divide(float a, float b, [[maybe_unused]] float inverse) {
#if defined(__CUDA_ARCH__)
  return quotient_from_reciprocal(a, b, inverse);
#else
  return a / b;
#endif
}

// S log(x), S a power of two with a sign, for the normal x > 0 whose bits are `bits` less `less` in the exponent. The
// range is reduced to [sqrt(1/2), sqrt(2)); the polynomial is that of Cephes' logf (S. Moshier). S rounds nothing, so
// it costs nothing in the coefficients.
template <int S = 1>
ELBO_HD float scaled_log(std::uint32_t bits, std::uint32_t less = 0) {
  constexpr float scale = S, step = scale * 1.1920928955078125e-7f;  // 2^-23: the exponent where it lies, as an integer
  const std::uint32_t e = (bits - less - 0x3f3504f3u) & 0xff800000u;
  const float f = add(bits_to_float(bits - less - e), -1.0f), z = mul(f, f);
  const float k = static_cast<float>(static_cast<std::int32_t>(e));
  float p = scale * 7.0376836292e-2f;
  p = fma(p, f, scale * -1.1514610310e-1f);
  p = fma(p, f, scale * 1.1676998740e-1f);
  p = fma(p, f, scale * -1.2420140846e-1f);
  p = fma(p, f, scale * 1.4249322787e-1f);
  p = fma(p, f, scale * -1.6668057665e-1f);
  p = fma(p, f, scale * 2.0000714765e-1f);
  p = fma(p, f, scale * -2.4999993993e-1f);
  p = fma(p, f, scale * 3.3333331174e-1f);
  p = mul(mul(p, f), z);
  p = fma(k, step * -2.12194440e-4f, p);
  p = fma(-0.5f * scale, z, p);
  p = fma(scale, f, p);
  return fma(k, step * 0.693359375f, p);
}

// log(x) for normal x > 0.
ELBO_HD float log(float x) {
  return add(scaled_log(float_to_bits(x)), add(x, -x));  // infinity and NaN: the bits hide them, x - x brings them back
}

}  // namespace exact

// x >= 0. On the host, numbers below the normal range count as 0, whose logarithm is -infinity.
ELBO_HD float log(float x) {
#if defined(__CUDA_ARCH__)
  return ::logf(x);
#else
  return x < 1.17549435e-38f ? -__builtin_inff() : exact::log(x);
#endif
}

// Saturates at 2^-126 and at the largest float instead of leaving the normal range.
ELBO_HD float exp(float x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);
#else
  x = x < -87.33654f ? -87.33654f : x;
  x = x > 88.72283f ? 88.72283f : x;
  const float shifted = __builtin_fmaf(x, 1.44269504f, 12582912.0f);  // rounds to an integer, in the low bits
  const float k = shifted - 12582912.0f;
  float f = __builtin_fmaf(k, -0.693359375f, x);
  f = __builtin_fmaf(k, 2.12194440e-4f, f);
  float p = 1.9875691500e-4f;
  p = __builtin_fmaf(p, f, 1.3981999507e-3f);
  p = __builtin_fmaf(p, f, 8.3334519073e-3f);
  p = __builtin_fmaf(p, f, 4.1665795894e-2f);
  p = __builtin_fmaf(p, f, 1.6666665459e-1f);
  p = __builtin_fmaf(p, f, 5.0000001201e-1f);
  p = __builtin_fmaf(p, f * f, f + 1.0f);
  // 2^k in two factors, since k = 128 has no float of its own
  const std::uint32_t n = float_to_bits(shifted) - 0x4b400000u;
  const std::uint32_t half = static_cast<std::uint32_t>(static_cast<std::int32_t>(n) >> 1);
  return p * bits_to_float((half + 127u) << 23) * bits_to_float((n - half + 127u) << 23);
#endif
}

ELBO_HD float tanh(float x) {
#if defined(__CUDA_ARCH__)
  return ::tanhf(x);
#else
  const float a = __builtin_fabsf(x), z = x * x;
  float p = -5.70498872745e-3f;  // Cephes' tanhf, |x| < 0.625
  p = __builtin_fmaf(p, z, 2.06390887954e-2f);
  p = __builtin_fmaf(p, z, -5.37397155531e-2f);
  p = __builtin_fmaf(p, z, 1.33314422036e-1f);
  p = __builtin_fmaf(p, z, -3.33332819422e-1f);
  const float small = __builtin_fmaf(p * z, x, x);
  const float large = __builtin_copysignf(1.0f - 2.0f / (exp(2.0f * a) + 1.0f), x);
  return a < 0.625f ? small : large;
#endif
}

ELBO_HD float sqrt(float x) { return exact::sqrt(x); }
ELBO_HD float divide(float a, float b) { return exact::divide(a, b); }
ELBO_HD float divide(float a, float b, float inverse) { return exact::divide(a, b, inverse); }
ELBO_HD float abs(float x) { return ::fabsf(x); }

ELBO_HD double log(double x) { return ::log(x); }
ELBO_HD double exp(double x) { return ::exp(x); }
ELBO_HD double tanh(double x) { return ::tanh(x); }
ELBO_HD double sqrt(double x) { return ::sqrt(x); }
ELBO_HD double divide(double a, double b) { return a / b; }
ELBO_HD double divide(double a, double b, double) { return a / b; }
ELBO_HD double abs(double x) { return ::fabs(x); }

}  // namespace elbo::math
