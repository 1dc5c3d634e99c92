// What nvcc's <cuda_runtime.h> is to kernels/ and cuda/ when a C++ compiler builds them for the simulated
// device: the keywords and names of CUDA C++ that this project uses. One that is missing does not compile.
#pragma once
#include <math.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

#include "tests/sim/executor.h"
#include "tests/sim/runtime.h"
#include "tests/sim/vectors.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __grid_constant__

// Of the device's sources kernel_source.py makes this of __launch_bounds__, which is no name here.
#define CUSIM_LAUNCH_BOUNDS(kernel, bounds) ::cusim::keep(::cusim::Promise<kernel, ::cusim::Bounds bounds>::made)

// Storage of the block, filled with 0xFF. There is no `__shared__` here: kernels say ELBO_SHARED.
#define ELBO_SHARED(T, name, n)                \
  static ::cusim::SharedArray name##_declared; \
  T(&name)[n] = *static_cast<T(*)[n]>(::cusim::shared(name##_declared, sizeof(T[n]), 16))

#define threadIdx (*::cusim::here.thread)
#define blockIdx (::cusim::here.block)
#define blockDim (::cusim::here.block_size)
#define gridDim (::cusim::here.grid_size)
inline constexpr int warpSize = 32;

// ---- Barriers and warp operations; the last parameter is where the call stands -------------------------

inline void __syncthreads(::cusim::Place place = ::cusim::Place::current()) { ::cusim::block_barrier(place); }

inline void __syncwarp(unsigned mask = ~0u, ::cusim::Place place = ::cusim::Place::current()) {
  ::cusim::warp_operation(::cusim::WarpOp::sync, mask, 0, 0, place);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, ::cusim::Place place = ::cusim::Place::current()) {
  return static_cast<unsigned>(::cusim::warp_operation(::cusim::WarpOp::vote, mask, predicate != 0, 0, place));
}
inline int __any_sync(unsigned mask, int predicate, ::cusim::Place place = ::cusim::Place::current()) {
  return __ballot_sync(mask, predicate, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, ::cusim::Place place = ::cusim::Place::current()) {
  return __ballot_sync(mask, predicate, place) == mask;
}

template <class T>
T __shfl_sync(unsigned mask, T v, int lane, ::cusim::Place place = ::cusim::Place::current()) {
  return ::cusim::shuffle(mask, v, static_cast<unsigned>(lane) % 32u, place);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, ::cusim::Place place = ::cusim::Place::current()) {
  return ::cusim::shuffle(mask, v, (::cusim::lane_id() ^ static_cast<unsigned>(bits)) % 32u, place);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned distance, ::cusim::Place place = ::cusim::Place::current()) {
  const unsigned self = ::cusim::lane_id();
  return ::cusim::shuffle(mask, v, self + distance < 32u ? self + distance : self, place);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned distance, ::cusim::Place place = ::cusim::Place::current()) {
  const unsigned self = ::cusim::lane_id();
  return ::cusim::shuffle(mask, v, self >= distance ? self - distance : self, place);
}

// ---- Atomics ---------------------------------------------------------------------------------------------

namespace cusim {

// *p = next(*p), in one; returns what it was.
template <class T, class Next>
T atomically(T* p, const Place& place, const Next& next) {
  if (!begin_atomic(p, sizeof(T), place)) {
    const T old = *p;
    *p = next(old);
    return old;
  }
  std::atomic_ref<T> at(*p);
  T old = at.load(std::memory_order_relaxed);
  while (!at.compare_exchange_weak(old, next(old), std::memory_order_relaxed)) {
  }
  end_atomic(p, sizeof(T), !(next(old) == old));
  return old;
}

}  // namespace cusim

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v, ::cusim::Place place = ::cusim::Place::current()) {
  return ::cusim::atomically(p, place, [v](T old) { return static_cast<T>(old + v); });
}
inline unsigned atomicInc(unsigned* p, unsigned largest, ::cusim::Place place = ::cusim::Place::current()) {
  return ::cusim::atomically(p, place, [largest](unsigned old) { return old >= largest ? 0 : old + 1; });
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v, ::cusim::Place place = ::cusim::Place::current()) {
  return ::cusim::atomically(p, place, [v](T) { return v; });
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v,
            ::cusim::Place place = ::cusim::Place::current()) {
  return ::cusim::atomically(p, place, [expected, v](T old) { return old == expected ? v : old; });
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> v, ::cusim::Place place = ::cusim::Place::current()) {
  return ::cusim::atomically(p, place, [v](T old) { return v < old ? v : old; });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v, ::cusim::Place place = ::cusim::Place::current()) {
  return ::cusim::atomically(p, place, [v](T old) { return old < v ? v : old; });
}
// A fence is a turn at one variable that all of them share, since ThreadSanitizer knows no other: who comes later sees
// what was written before. That is a little more than CUDA promises.
inline void __threadfence(::cusim::Place place = ::cusim::Place::current()) {
  if (!::cusim::begin_fence(place)) return;
  static std::atomic<unsigned> turns;
  turns.fetch_add(1, std::memory_order_acq_rel);
  ::cusim::end_fence();
}
inline void __threadfence_system(::cusim::Place place = ::cusim::Place::current()) { __threadfence(place); }

// ---- Loads, stores and functions ---------------------------------------------------------------------------

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, std::type_identity_t<T> v) {
  *p = v;
}
template <class T>
void __stcg(T* p, std::type_identity_t<T> v) {
  *p = v;
}

using std::max;
using std::min;
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline std::uint32_t __umulhi(std::uint32_t a, std::uint32_t b) { return std::uint64_t{a} * b >> 32; }
inline unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
inline float __uint_as_float(unsigned u) { return std::bit_cast<float>(u); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __popc(unsigned x) { return std::popcount(x); }
