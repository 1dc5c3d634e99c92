// What the steps of a formula are made of where a GPU has a choice: correctly, or quickly and almost so. A formula
// takes one of these types as its last argument; that of the CPU, of the references and of what nobody said is Exact.
#pragma once
#include "elbo/math/elementary.h"

namespace elbo::math {

// elementary.h's functions and IEEE's operations, each rounded by itself.
struct Exact {
  // e^-|l|
  template <class T>
  ELBO_HD static T exp_of_minus_abs(T l) {
    return math::exp(-abs(l));
  }
  // 1 / f
  template <class T>
  ELBO_HD static T reciprocal(T f) {
    return T(1) / f;
  }
  // a b + c
  template <class T>
  ELBO_HD static T multiply_add(T a, T b, T c) {
    return a * b + c;
  }
  // log(1 + e) for e in [0, 1], factor = 1 + e as rounded, reciprocal = 1 / factor.
  template <class T>
  ELBO_HD static T log1p(T e, T factor, T reciprocal) {
    return (e - (factor - T(1))) * reciprocal + log(factor);  // what the rounding of factor lost, to first order
  }

  // e^x, e^(x/2), log |x|, 1 / x: of any x
  template <class T>
  ELBO_HD static T exp(T x) {
    return math::exp(x);
  }
  template <class T>
  ELBO_HD static T exp_of_half(T x) {
    return math::exp(T(0.5) * x);
  }
  template <class T>
  ELBO_HD static T log_of_abs(T x) {
    return math::log(abs(x));
  }
  template <class T>
  ELBO_HD static T inverse(T x) {
    return T(1) / x;
  }
};

// log(1 + e) for e in [0, 1], within 2.5 ulp: a minimax polynomial of log(1 + e) / e, by Lawson's method.
ELBO_HD float log1p_polynomial(float e) {
  float p = 5.232623778283596e-3f;
  p = exact::fma(p, e, -2.9504956677556038e-2f);
  p = exact::fma(p, e, 7.822549343109131e-2f);
  p = exact::fma(p, e, -1.366320699453354e-1f);
  p = exact::fma(p, e, 1.910598874092102e-1f);
  p = exact::fma(p, e, -2.484297752380371e-1f);
  p = exact::fma(p, e, 3.331909477710724e-1f);
  p = exact::fma(p, e, -4.999949336051941e-1f);
  p = exact::fma(p, e, 9.999999403953552e-1f);
  return exact::mul(p, e);
}

// The quick instructions of a GPU, which have no slow paths; on the host (and on the simulated device) Exact.
//
// What they may err by (PTX ISA, instructions ex2, lg2 and rcp):
//   ex2.approx.ftz.f32   2 ulp beside the correctly rounded result, so 2.5 x 2^-23 of it; below 2^-126 it gives 0
//   rcp.approx.ftz.f32   1 ulp; for f in [1, 2] at most 2^-22 of the result
// and what follows:
//   exp_of_minus_abs     3.0e-7 of the result, besides |l| 2^-23: as much as half an ulp of l, and the constant's own
//                        rounding, change it
//   reciprocal           a step of Newton's method squares the error: half an ulp and 2^-44
//   multiply_add         one rounding instead of two
//   log1p                2.5 ulp, 2.2e-7 of the result
//   exp, exp_of_half     3.0e-7 of the result and |x| 2^-23 (2^-24) of it, as above
//   log_of_abs           lg2.approx.ftz.f32: 2^-22 of the result, or 2^-22 where |x| is in [1/2, 2], besides 2^-24 of
//                        the result for the product; -infinity below 2^-126, as log is on the host
//   inverse              rcp's 1 ulp
// So the gradient of a Bernoulli loss errs by 1.5e-7 at most, and log(1 + e^-|l|) by 6e-7 + |l| 2^-23 of itself.
// tests/math_test.cpp bends each result by these bounds and holds the formulas to it.
//
// NaN and infinity: FMUL and FFMA keep NaN, and so do ex2 and rcp; ex2(-infinity) is 0, which is e^-|infinity|.
// f = 1 + e^-|l| lies in [1, 2] or is NaN, so that Newton's step never meets an infinity.
struct Approximate {
  ELBO_HD static float exp_of_minus_abs(float l) {
#if defined(__CUDA_ARCH__)
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(::fabsf(l) * -1.44269504f));
    return e;
#else
    return Exact::exp_of_minus_abs(l);
#endif
  }
  // f in [1, 2], or NaN.
  ELBO_HD static float reciprocal(float f) {
#if defined(__CUDA_ARCH__)
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(f));
    return __fmaf_rn(r, __fmaf_rn(-f, r, 1.0f), r);
#else
    return Exact::reciprocal(f);
#endif
  }
  ELBO_HD static float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#else
    return Exact::multiply_add(a, b, c);
#endif
  }
  ELBO_HD static float log1p(float e, [[maybe_unused]] float factor, [[maybe_unused]] float reciprocal) {
#if defined(__CUDA_ARCH__)
    return log1p_polynomial(e);
#else
    return Exact::log1p(e, factor, reciprocal);
#endif
  }

  // Of any x.
  ELBO_HD static float exp(float x) {
#if defined(__CUDA_ARCH__)
    return power_of_two(x * 1.44269504f);
#else
    return Exact::exp(x);
#endif
  }
  ELBO_HD static float exp_of_half(float x) {
#if defined(__CUDA_ARCH__)
    return power_of_two(x * 0.72134752f);
#else
    return Exact::exp_of_half(x);
#endif
  }
  ELBO_HD static float log_of_abs(float x) {
#if defined(__CUDA_ARCH__)
    float l;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(l) : "f"(::fabsf(x)));
    return l * 0.69314718f;
#else
    return Exact::log_of_abs(x);
#endif
  }
  ELBO_HD static float inverse(float x) {
#if defined(__CUDA_ARCH__)
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#else
    return Exact::inverse(x);
#endif
  }

#if defined(__CUDA_ARCH__)
 private:
  __device__ __forceinline__ static float power_of_two(float x) {
    float e;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x));
    return e;
  }
#endif
};

}  // namespace elbo::math
