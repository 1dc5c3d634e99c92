// Matrix products of the simulated device where there is no cublasLt.h, in the place of cuda/gemm.cpp over
// cublaslt.cpp: plain loops, queued like a kernel, with the same bits. Every epilogue is there, and does what cuBLASLt
// does: relu hides a NaN, and the mask is read bit by bit. There is no choice of algorithms.
#include "cuda/gemm.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "elbo/backend.h"
#include "kernels/launcher.h"

namespace elbo::cuda {
namespace {

// Whether $ELBO_SIM_REFUSES names the product's epilogue: then this library has no algorithm for it.
bool is_refused(const Product& p) {
  const char* const refused = std::getenv("ELBO_SIM_REFUSES");
  const char* const epilogue = p.row_sums    ? "row_sums"
                               : p.mask      ? "mask"
                               : p.relu_mask ? "relu_mask"
                               : p.relu      ? "relu"
                               : p.bias      ? "bias"
                                             : "nothing";
  return refused && std::string(refused) == epilogue;
}

std::uint8_t bit(std::int64_t column) { return static_cast<std::uint8_t>(1u << column % 8); }

// Row-major, each sum over k in order.
void product(const Product& p) {
  const auto a = [&](std::int64_t row, std::int64_t i) {
    return p.transpose_a ? p.a[i * p.m + row] : p.a[row * p.k + i];
  };
  std::vector<float> b(static_cast<std::size_t>(p.k * p.n));  // op(B) [k, n]
  for (std::int64_t i = 0; i < p.k; ++i)
    for (std::int64_t j = 0; j < p.n; ++j) b[i * p.n + j] = p.transpose_b ? p.b[j * p.k + i] : p.b[i * p.n + j];
  std::vector<float> sum(static_cast<std::size_t>(p.n));
  for (std::int64_t row = 0; row < p.m; ++row) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    float row_sum = 0;
    for (std::int64_t i = 0; i < p.k; ++i) {
      row_sum += a(row, i);
      const float* const line = b.data() + i * p.n;
      for (std::int64_t j = 0; j < p.n; ++j) sum[j] += a(row, i) * line[j];
    }
    if (p.row_sums) p.row_sums[row] = row_sum;
    for (std::int64_t j = 0; j < p.n; ++j) {
      const std::int64_t at = row * mask_bytes(p.n) + j / 8;
      float v = p.bias ? sum[j] + p.bias[j] : sum[j];
      if (p.relu && !(v > 0)) v = 0;
      if (p.relu_mask) {
        p.relu_mask[at] &= static_cast<std::uint8_t>(~bit(j));
        if (v > 0) p.relu_mask[at] |= bit(j);
      }
      if (p.mask && !(p.mask[at] & bit(j))) v = 0;
      p.c[row * p.n + j] = v;
    }
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

std::string Gemm::library() { return ""; }
std::vector<ProductChoice> Gemm::choices() const { return {}; }
std::vector<ProductChoice> Gemm::candidates(const ProductShape&, int) const { return {}; }
void Gemm::forget(const ProductShape&) { fail("the simulated device's products have no library"); }
void Gemm::use(const ProductChoice&) { fail("the simulated device's products have no library"); }

bool Gemm::multiply(const Product& p) {
  require(p.m > 0 && p.n > 0 && p.k > 0, "multiply: [", p.m, ", ", p.k, "] x [", p.k, ", ", p.n, "]");
  if (is_refused(p)) return false;
  const kernels::Range range("multiply");
  check_cuda(cusim::use("the product"), "multiply");
  check_cuda(cusim::enqueue(library_->stream, [p] { product(p); }, {cusim::Label::Kind::kernel, "product", 1, 1}),
             "multiply");
  return true;
}

}  // namespace elbo::cuda
