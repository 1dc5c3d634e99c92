// Four neighbouring elements, the grain of memory access and of noise: one 16-byte access for f32, one
// of 4 bytes for u8.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "elbo/math/hd.h"

namespace elbo::kernels {

template <class T>
struct Quad {
  T v[4];
};

// p[0 .. count-1], count >= 1, as much of it as a quad holds; the rest is 0. With `aligned`, p is a
// multiple of the quad's size and a whole quad is one access.
template <bool aligned>
__device__ __forceinline__ Quad<float> load_quad(const float* p, std::int64_t count) {
  if (aligned && count >= 4) {
    const float4 q = *reinterpret_cast<const float4*>(p);
    return {{q.x, q.y, q.z, q.w}};
  }
  Quad<float> q{};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j < count) q.v[j] = p[j];
  }
  return q;
}

template <bool aligned>
__device__ __forceinline__ Quad<std::uint8_t> load_quad(const std::uint8_t* p, std::int64_t count) {
  if (aligned && count >= 4) {
    const uchar4 q = *reinterpret_cast<const uchar4*>(p);
    return {{q.x, q.y, q.z, q.w}};
  }
  Quad<std::uint8_t> q{};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j < count) q.v[j] = p[j];
  }
  return q;
}

// Writes as much of a quad as fits into p[0 .. count-1]. __stcg is a plain store to the L2 cache, where
// stores go anyway; nvcc may split an assignment into four stores, but not this.
template <bool aligned>
__device__ __forceinline__ void store_quad(float* p, const Quad<float>& q, std::int64_t count) {
  if (aligned && count >= 4) {
    __stcg(reinterpret_cast<float4*>(p), make_float4(q.v[0], q.v[1], q.v[2], q.v[3]));
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j < count) p[j] = q.v[j];
  }
}

template <bool aligned>
__device__ __forceinline__ void store_quad(std::uint8_t* p, const Quad<std::uint8_t>& q, std::int64_t count) {
  if (aligned && count >= 4) {
    __stcg(reinterpret_cast<uchar4*>(p), make_uchar4(q.v[0], q.v[1], q.v[2], q.v[3]));
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j < count) p[j] = q.v[j];
  }
}

}  // namespace elbo::kernels
