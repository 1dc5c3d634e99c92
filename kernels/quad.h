// Four neighbouring elements, the grain of memory access and of noise: one access of 16 bytes for f32, 8 for bf16,
// 4 for u8.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "elbo/math/bf16.h"

namespace elbo::kernels {

template <class T>
struct Quad {
  T v[4];
};

// CUDA's vector of the same size: what one access moves.
template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = float4;
};
template <>
struct VectorOf<math::Bf16> {
  using type = ushort4;
};
template <>
struct VectorOf<std::uint8_t> {
  using type = uchar4;
};

// p[0 .. count-1], count >= 1, as much of it as a quad holds; the rest is 0. With `aligned`, p is a
// multiple of the quad's size and a whole quad is one access.
template <bool aligned, class T>
__device__ __forceinline__ Quad<T> load_quad(const T* p, std::int64_t count) {
  using Vector = typename VectorOf<T>::type;
  if (aligned && count >= 4) {
    const Vector q = *reinterpret_cast<const Vector*>(p);  // by itself: AddressSanitizer sees no load in a bit_cast
    return __builtin_bit_cast(Quad<T>, q);
  }
  Quad<T> q{};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j < count) q.v[j] = p[j];
  }
  return q;
}

// Writes as much of a quad as fits into p[0 .. count-1]. __stcg is a plain store to the L2 cache, where
// stores go anyway; nvcc may split an assignment into four stores, but not this.
template <bool aligned, class T>
__device__ __forceinline__ void store_quad(T* p, const Quad<T>& q, std::int64_t count) {
  using Vector = typename VectorOf<T>::type;
  if (aligned && count >= 4) {
    __stcg(reinterpret_cast<Vector*>(p), __builtin_bit_cast(Vector, q));
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j < count) p[j] = q.v[j];
  }
}

}  // namespace elbo::kernels
