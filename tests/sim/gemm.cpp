// Matrix products of the simulated device: plain loops, queued like a kernel, in the place of cuda/gemm.cpp.
#include "cuda/gemm.h"

#include <vector>

#include "kernels/launcher.h"

namespace elbo {
namespace {

// Row-major, each sum over k in order.
void product(const Product& p) {
  std::vector<float> b(static_cast<std::size_t>(p.k * p.n));  // op(B) [k, n]
  for (std::int64_t i = 0; i < p.k; ++i)
    for (std::int64_t j = 0; j < p.n; ++j) b[i * p.n + j] = p.transpose_b ? p.b[j * p.k + i] : p.b[i * p.n + j];
  std::vector<float> sum(static_cast<std::size_t>(p.n));
  for (std::int64_t row = 0; row < p.m; ++row) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (std::int64_t i = 0; i < p.k; ++i) {
      const float a = p.transpose_a ? p.a[i * p.m + row] : p.a[row * p.k + i];
      const float* const line = b.data() + i * p.n;
      for (std::int64_t j = 0; j < p.n; ++j) sum[j] += a * line[j];
    }
    for (std::int64_t j = 0; j < p.n; ++j) p.c[row * p.n + j] = p.bias ? sum[j] + p.bias[j] : sum[j];
  }
}

}  // namespace

struct Gemm::Library {
  cudaStream_t stream;
};

Gemm::Gemm(Precision precision, cudaStream_t stream) : library_(std::make_unique<Library>(Library{stream})) {
  require(precision == Precision::fp32 || precision == Precision::tf32,
          "the sim device multiplies in fp32, also where tf32 is asked for; set train.precision to one of them");
}
Gemm::~Gemm() = default;

void Gemm::multiply(const Product& p) {
  require(p.m > 0 && p.n > 0 && p.k > 0, "multiply: [", p.m, ", ", p.k, "] x [", p.k, ", ", p.n, "]");
  const kernels::Range range("multiply");
  check_cuda(cusim::enqueue(library_->stream, [p] { product(p); }), "multiply");
}

}  // namespace elbo
