// Sizes that every device keeps to, so that a result never depends on how a device cuts its work.
#pragma once
#include <cstdint>

namespace elbo {

// How many parts of `size` it takes to hold n.
constexpr std::int64_t ceil_div(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// Sums over a long axis are taken in two stages with a fixed order: partial sums of this many rows or pixels, then the
// sum of the partials.
inline constexpr std::int64_t latent_tile = 32;    // rows
inline constexpr std::int64_t pixel_chunk = 4096;  // pixels

// Losses of a batch that have sums of their own.
inline constexpr int most_losses = 4;

// Elements that a GPU's kernels can count.
inline constexpr std::int64_t most_gpu_elements = 0x7fffffff;

// A mask has a bit for each element of a row: rows of 128 bits, as cuBLASLt wants them.
constexpr std::int64_t mask_bytes(std::int64_t columns) { return ceil_div(columns, 128) * 16; }

}  // namespace elbo
