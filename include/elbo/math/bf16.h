// bfloat16: the upper half of a float, so that it has a float's range and 8 significant bits. A type for storage:
// arithmetic is done in float.
#pragma once
#include <cstdint>
#include <type_traits>

#include "elbo/math/elementary.h"

namespace elbo::math {

struct Bf16 {
  std::uint16_t bits;
};

// Exact.
ELBO_HD float to_float(Bf16 b) { return bits_to_float(std::uint32_t{b.bits} << 16); }

// To the nearest, halfway to the even one; what is beyond the largest becomes infinite, and every NaN the NaN 0x7fff.
ELBO_HD Bf16 to_bf16(float f) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  Bf16 b;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(b.bits) : "f"(f));
  return b;
#else
  const std::uint32_t u = float_to_bits(f), nearest = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
  return {static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : nearest)};
#endif
}

// For code that stores floats as either.
ELBO_HD float to_float(float f) { return f; }
template <class Stored>
ELBO_HD Stored round_to(float f) {
  if constexpr (std::is_same_v<Stored, Bf16>) {
    return to_bf16(f);
  } else {
    return f;
  }
}

}  // namespace elbo::math
