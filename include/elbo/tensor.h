// A tensor is a view: it knows its shape and type, and owns nothing. Elements are contiguous, the last
// index fastest; images are N, H, W, C.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <span>
#include <string>

#include "elbo/error.h"
#include "elbo/math/bf16.h"

namespace elbo {

enum class DType : std::uint8_t { u8, bf16, f16, f32, f64, u64 };

constexpr std::size_t size_of(DType t) {
  switch (t) {
    case DType::u8: return 1;
    case DType::bf16:
    case DType::f16: return 2;
    case DType::f32: return 4;
    case DType::f64:
    case DType::u64: return 8;
  }
  return 0;
}

constexpr const char* name_of(DType t) {
  switch (t) {
    case DType::u8: return "u8";
    case DType::bf16: return "bf16";
    case DType::f16: return "f16";
    case DType::f32: return "f32";
    case DType::f64: return "f64";
    case DType::u64: return "u64";
  }
  return "";
}

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct DTypeOf<math::Bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<std::uint64_t> {
  static constexpr DType value = DType::u64;
};

class Shape {
 public:
  static constexpr int max_rank = 5;
  static constexpr std::int64_t most_elements = std::int64_t{1} << 62;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const std::int64_t> sizes) {
    require(sizes.size() <= max_rank, "a tensor has at most ", max_rank, " dimensions, not ", sizes.size());
    for (std::int64_t n : sizes) {
      require(n >= 0, "a dimension of ", n);
      sizes_[static_cast<std::size_t>(rank_++)] = n;
    }
    // Those behind a dimension of 0 count, too: count() multiplies them all.
    std::int64_t left = most_elements;
    for (std::int64_t n : sizes) {
      if (n > left) fail("a tensor ", *this, " of more than 2^62 elements");
      left /= n > 0 ? n : 1;
    }
  }

  int rank() const { return rank_; }
  // Dimension i; counted from the end where i < 0.
  std::int64_t operator[](int i) const {
    const int at = i < 0 ? i + rank_ : i;
    require(at >= 0 && at < rank_, "no dimension ", i, " in ", *this);
    return sizes_[static_cast<std::size_t>(at)];
  }
  std::int64_t count() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= sizes_[static_cast<std::size_t>(i)];
    return n;
  }
  std::string str() const {
    std::string s = "[";
    for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(sizes_[static_cast<std::size_t>(i)]);
    return s + "]";
  }
  friend bool operator==(const Shape&, const Shape&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Shape& s) { return out << s.str(); }

 private:
  std::array<std::int64_t, max_rank> sizes_{};
  int rank_ = 0;
};

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  explicit operator bool() const { return data != nullptr; }
  friend bool operator==(const Tensor&, const Tensor&) = default;
  std::int64_t count() const { return shape.count(); }
  std::size_t bytes() const { return static_cast<std::size_t>(count()) * size_of(dtype); }
  std::int64_t rows() const { return shape[0]; }
  std::int64_t columns() const { return shape.rank() < 2 ? 1 : count() / (rows() ? rows() : 1); }

  // The address, after a check of the element type.
  template <class T>
  T* as() const {
    require(DTypeOf<T>::value == dtype, "a ", name_of(dtype), " tensor ", shape, " was used as ",
            name_of(DTypeOf<T>::value));
    return static_cast<T*>(data);
  }
  // The first n rows.
  Tensor first(std::int64_t n) const {
    require(n <= rows(), "the first ", n, " rows of ", shape);
    Tensor t = *this;
    switch (shape.rank()) {
      case 1: t.shape = {n}; break;
      case 2: t.shape = {n, shape[1]}; break;
      case 3: t.shape = {n, shape[1], shape[2]}; break;
      case 4: t.shape = {n, shape[1], shape[2], shape[3]}; break;
      default: t.shape = {n, shape[1], shape[2], shape[3], shape[4]}; break;
    }
    return t;
  }
  // The same elements, in another shape.
  Tensor reshaped(Shape s) const {
    require(s.count() == count(), shape, " cannot be seen as ", s);
    Tensor t = *this;
    t.shape = s;
    return t;
  }
};

}  // namespace elbo
