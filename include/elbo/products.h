// Matrix products, where a library offers several algorithms for each.
#pragma once
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "elbo/types.h"

namespace elbo {

// What the library does on the way from a product to C, by cuBLASLt's names.
enum class Epilogue : std::uint8_t {
  none,
  bias,           // adds a vector to every row ...
  relu_bias,      // ... and then negative elements become 0 ...
  relu_aux_bias,  // ... and a mask of bits tells which did not
  drelu,          // elements become 0 where such a mask says so
  bgradb,         // the sums of op(A)'s rows are made, too
};
constexpr bool has_vector(Epilogue e) { return e != Epilogue::none && e != Epilogue::drelu; }
constexpr bool has_mask(Epilogue e) { return e == Epilogue::relu_aux_bias || e == Epilogue::drelu; }

// All that an algorithm may depend on: C [m, n] = op(A) op(B), row-major. op transposes where its flag is set.
struct ProductShape {
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  Epilogue epilogue = Epilogue::none;
  // Of A, B, C, the epilogue's vector and its mask: in bytes, 1 to 16; 16 for what is not there.
  std::array<std::int64_t, 5> alignment{16, 16, 16, 16, 16};

  auto operator<=>(const ProductShape&) const = default;
};
const char* name_of(Epilogue);                    // "relu_aux_bias"
const char* name_of(Precision);                   // "tf32"
std::string description_of(const ProductShape&);  // "[100, 784] x [500, 784]' relu_aux_bias"

// An algorithm, in the numbers that the library itself has for it: they mean something to one version of it alone.
struct Algorithm {
  std::int64_t id = 0, tile = 0, stages = 0, split_k = 0, reduction_scheme = 0, swizzle = 0, custom_option = 0,
               inner_shape = 0, cluster_shape = 0;
  std::array<std::uint64_t, 8> data{};  // all of it, the numbers above included

  bool operator==(const Algorithm&) const = default;
};
inline constexpr std::array<std::pair<const char*, std::int64_t Algorithm::*>, 9> algorithm_fields{
    {{"id", &Algorithm::id},
     {"tile", &Algorithm::tile},
     {"stages", &Algorithm::stages},
     {"split_k", &Algorithm::split_k},
     {"reduction_scheme", &Algorithm::reduction_scheme},
     {"swizzle", &Algorithm::swizzle},
     {"custom_option", &Algorithm::custom_option},
     {"inner_shape", &Algorithm::inner_shape},
     {"cluster_shape", &Algorithm::cluster_shape}}};

// How a product is done.
struct ProductChoice {
  ProductShape product;
  std::string refusal;  // why the library does not do it, so that kernels do a part of it; empty: it does, thus:
  Algorithm algorithm;
  std::int64_t workspace_bytes = 0;
  double waves = 0;    // of thread blocks, as the library reckons them
  bool tuned = false;  // by Backend::use(); else it is the library's own choice
};

// The choices that were found fastest, and where they hold.
struct Tuning {
  std::string where;  // "w1-h100.json", for messages
  std::string gpu, library;
  Precision precision = Precision::fp32;
  struct Product {
    ProductChoice choice;
    double microseconds = 0;      // the median of its timings ...
    double own_microseconds = 0;  // ... and that of the library's own choice
    std::int64_t candidates = 0;  // that were timed
  };
  std::vector<Product> products;
};

}  // namespace elbo
