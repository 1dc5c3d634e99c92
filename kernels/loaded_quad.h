// A quad that is being loaded, in registers as it lies in memory. With it a thread starts all its loads before it uses
// the first: call load() on each, then all_under_way(), then read.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "elbo/math/bf16.h"
#include "elbo/math/likelihood.h"
#include "kernels/quad.h"

namespace elbo::kernels {

// All loads before it are issued before it. A barrier of the warp orders memory, so neither nvcc nor ptxas moves a load
// past it to save registers. All 32 lanes must call it.
__device__ __forceinline__ void all_under_way() { __syncwarp(); }

// aligned: p is a multiple of the quad's size, count a multiple of 4, and the quad is one access.
template <bool aligned, class T>
class LoadedQuad {
 public:
  // Loads p[0 .. count-1], as much of it as a quad holds. What lies beyond is not read; those elements are undefined.
  __device__ __forceinline__ void load(const T* p, int count) {
    if constexpr (aligned) {
      load_words(p, count > 0);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) load_element(p + j, j < count, words_[j]);
    }
  }

  // Element j as a float; of a byte, the pixel's value.
  __device__ __forceinline__ float operator[](int j) const {
    if constexpr (sizeof(T) == 4) {
      return math::bits_to_float(words_[j]);
    } else if constexpr (sizeof(T) == 2) {
      if constexpr (!aligned) return math::bits_to_float(words_[j] << 16);
      return math::bits_to_float(j % 2 == 0 ? words_[j / 2] << 16 : words_[j / 2] & 0xffff0000u);
    } else {
      return math::pixel_value_of_shifted(shifted(j));
    }
  }

 private:
  static constexpr int words = aligned ? static_cast<int>(sizeof(T)) : 4;
  std::uint32_t words_[words];

  // 2^23 + byte j: a byte in the lowest bits of that float.
  __device__ __forceinline__ float shifted(int j) const {
    if constexpr (!aligned) return math::bits_to_float(words_[j] | 0x4b000000u);
#if defined(__CUDA_ARCH__)
    return math::bits_to_float(__byte_perm(words_[0], 0x4b000000u, 0x7650u + static_cast<unsigned>(j)));
#else
    return math::bits_to_float((words_[0] >> 8 * j & 0xffu) | 0x4b000000u);
#endif
  }

  // Loads with a predicate, in the order of the source, without branches and without a first value in the registers.
#if defined(__CUDA_ARCH__)
  __device__ __forceinline__ void load_words(const T* p, bool there) {
    if constexpr (words == 4) {
      asm volatile("{ .reg .pred q; setp.ne.u32 q, %5, 0; @q ld.global.v4.u32 {%0, %1, %2, %3}, [%4]; }"
                   : "=r"(words_[0]), "=r"(words_[1]), "=r"(words_[2]), "=r"(words_[3])
                   : "l"(p), "r"(unsigned{there})
                   : "memory");
    } else if constexpr (words == 2) {
      asm volatile("{ .reg .pred q; setp.ne.u32 q, %3, 0; @q ld.global.v2.u32 {%0, %1}, [%2]; }"
                   : "=r"(words_[0]), "=r"(words_[1])
                   : "l"(p), "r"(unsigned{there})
                   : "memory");
    } else {
      asm volatile("{ .reg .pred q; setp.ne.u32 q, %2, 0; @q ld.global.u32 %0, [%1]; }"
                   : "=r"(words_[0])
                   : "l"(p), "r"(unsigned{there})
                   : "memory");
    }
  }
  __device__ __forceinline__ static void load_element(const T* p, bool there, std::uint32_t& word) {
    if constexpr (sizeof(T) == 4) {
      asm volatile("{ .reg .pred q; setp.ne.u32 q, %2, 0; @q ld.global.u32 %0, [%1]; }"
                   : "=r"(word)
                   : "l"(p), "r"(unsigned{there})
                   : "memory");
    } else if constexpr (sizeof(T) == 2) {
      asm volatile("{ .reg .pred q; setp.ne.u32 q, %2, 0; @q ld.global.u16 %0, [%1]; }"
                   : "=r"(word)
                   : "l"(p), "r"(unsigned{there})
                   : "memory");
    } else {
      asm volatile("{ .reg .pred q; setp.ne.u32 q, %2, 0; @q ld.global.u8 %0, [%1]; }"
                   : "=r"(word)
                   : "l"(p), "r"(unsigned{there})
                   : "memory");
    }
  }
#else
  static constexpr std::uint32_t unread = 0x7fffffffu;  // NaN, so that a use shows
  void load_words(const T* p, bool there) {
    struct Words {
      std::uint32_t w[words];
    };
    using Vector = typename VectorOf<T>::type;
    for (std::uint32_t& word : words_) word = unread;
    if (!there) return;
    const Vector v = *reinterpret_cast<const Vector*>(p);  // by itself: AddressSanitizer sees no load in a bit_cast
    const Words w = __builtin_bit_cast(Words, v);
    for (int i = 0; i < words; ++i) words_[i] = w.w[i];
  }
  static void load_element(const T* p, bool there, std::uint32_t& word) {
    word = unread;
    if (!there) return;
    if constexpr (sizeof(T) == 4) {
      word = math::float_to_bits(*p);
    } else if constexpr (sizeof(T) == 2) {
      word = p->bits;
    } else {
      word = *p;
    }
  }
#endif
};

}  // namespace elbo::kernels
