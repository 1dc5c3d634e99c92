// The sizes that operations are tested and timed at. Tails of 0, 1 and more are left by every vector
// width (4, 8, 16), tile (32 rows) and chunk (4096 pixels) in use.
#pragma once
#include <cstdint>

namespace elbo::test {

struct DenseCase {
  std::int64_t rows, in, out;
};
inline constexpr DenseCase dense_cases[] = {{1, 1, 1},     {1, 3, 2},      {31, 20, 17},   {33, 17, 65},
                                            {100, 784, 8}, {100, 40, 500}, {16, 560, 200}, {100, 500, 784}};

struct LatentCase {
  std::int64_t rows, samples, latent;
};
inline constexpr LatentCase latent_cases[] = {{1, 1, 1},  {31, 1, 2},   {32, 1, 3},  {33, 3, 8}, {64, 3, 5},
                                              {1, 3, 20}, {100, 1, 20}, {100, 2, 3}, {5, 2, 131}};

struct PixelCase {
  std::int64_t rows, samples, pixels;
};
inline constexpr PixelCase pixel_cases[] = {{1, 1, 1},     {31, 1, 3},   {33, 3, 16},  {3, 1, 17},   {16, 1, 560},
                                            {100, 1, 784}, {2, 3, 1025}, {2, 1, 4096}, {3, 2, 4097}, {1, 1, 12'291}};

inline constexpr std::int64_t parameter_counts[] = {1, 3, 31, 32, 33, 1000, 20'001, 100'000};

}  // namespace elbo::test
