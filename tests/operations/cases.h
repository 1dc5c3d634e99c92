// The sizes that operations are tested at. Tails of 0, 1 and more are left by every vector width (4, 8, 16), tile (32
// rows), strip (1,024 pixels) and chunk (4,096 pixels) in use.
#pragma once
#include <cstdint>

namespace elbo::test {

struct DenseCase {
  std::int64_t rows, in, out;
};
inline constexpr DenseCase dense_cases[] = {{1, 1, 1},      {1, 3, 2},      {7, 5, 4},      {2, 3, 1001},
                                            {31, 20, 17},   {33, 17, 65},   {33, 40, 132},  {100, 784, 8},
                                            {100, 40, 500}, {16, 560, 200}, {100, 500, 784}};

struct LatentCase {
  std::int64_t rows, samples, latent;
};
inline constexpr LatentCase latent_cases[] = {{1, 1, 1},   {31, 1, 2},  {32, 2, 3}, {33, 1, 4},  {33, 3, 8},
                                              {64, 3, 5},  {5, 8, 5},   {3, 9, 8},  {1, 3, 20},  {100, 1, 20},
                                              {100, 2, 3}, {2, 17, 32}, {2, 1, 64}, {34, 3, 33}, {5, 2, 131}};
// Enough for threads of a GPU that take several rows, which is judged by all samples, or by the rows alone (backward).
inline constexpr LatentCase many_draws[] = {{1030, 1, 128}, {1003, 1, 132}, {1030, 9, 65}};
inline constexpr LatentCase many_rows[] = {{1030, 1, 128}, {1003, 1, 132}, {2050, 2, 65}};

struct PixelCase {
  std::int64_t rows, samples, pixels;
};
#if defined(__SANITIZE_THREAD__)  // to which a tail is no matter, and a run takes long
inline constexpr PixelCase pixel_cases[] = {{31, 1, 3}, {9, 3, 16}, {2, 2, 784}, {2, 1, 1025}};
inline constexpr PixelCase long_pixel_cases[] = {{1, 1, 2100}, {2, 2, 4097}};
#else
inline constexpr PixelCase pixel_cases[] = {{1, 1, 1},   {31, 1, 3},  {9, 3, 16},   {3, 2, 4},
                                            {2, 3, 5},   {3, 1, 17},  {1, 1, 511},  {1, 1, 512},
                                            {1, 1, 513}, {2, 2, 784}, {1, 1, 1024}, {2, 1, 1025}};
inline constexpr PixelCase long_pixel_cases[] = {{1, 1, 2100}, {1, 1, 4095}, {1, 1, 4096}, {2, 2, 4097}, {1, 1, 8200}};
#endif

// Tails of a vector and of a block, and elements that a loop over a grid and the CPU's pieces leave.
inline constexpr std::int64_t element_counts[] = {1, 3, 4, 5, 511, 512, 513, 2047, 9000};
inline constexpr std::int64_t parameter_counts[] = {1, 3, 4, 31, 32, 33, 1023, 1024, 1025, 2050, 7999, 13'001, 20'492};

}  // namespace elbo::test
