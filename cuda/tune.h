// Which algorithm does each matrix product fastest.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <vector>

#include "cuda/gemm.h"

namespace elbo::cuda {

// Times the library's algorithms for every product that `gemm` was asked for and does not refuse, and leaves the
// fastest in use. A product takes about `seconds`, at least five timings of each algorithm. An algorithm that takes
// more than one launch, or that the library does not run after all, is passed over; where that leaves none, the product
// stays as it was. Products run as a step has them: replayed from a graph, one after the other, on operands that were
// as many bytes ago in the cache as a step has of them, or on cold ones where that is more than `cache_bytes` hold.
std::vector<Tuning::Product> tune_products(Gemm& gemm, cudaStream_t stream, std::size_t cache_bytes, double seconds,
                                           const std::function<void(const Tuning::Product&)>& each);

}  // namespace elbo::cuda
