// Matrix products by cuBLASLt.
//
// cuBLASLt thinks in columns: a row-major [r, c] array is a column-major c x r one. So C = op(A) op(B) is
// asked for as C' = op(B)' op(A)', where the transposes cost nothing.
#include "cuda/gemm.h"

#include <cublasLt.h>

#include <compare>
#include <map>
#include <optional>

#include "elbo/backend.h"
#include "kernels/launcher.h"

namespace elbo {
namespace {

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what cuBLAS advises for sm_90

void check_cublas(cublasStatus_t s, const char* what) {
  require(s == CUBLAS_STATUS_SUCCESS, what, ": ", cublasLtGetStatusName(s), " (", cublasLtGetStatusString(s), ")");
}

// What it says of a product that it has no algorithm for.
bool is_unknown(cublasStatus_t s) { return s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE; }

template <class Handle, cublasStatus_t (*destroy)(Handle)>
class LtOwner {
 public:
  LtOwner() = default;
  LtOwner(LtOwner&& other) noexcept : handle(std::exchange(other.handle, nullptr)) {}
  LtOwner& operator=(LtOwner&& other) noexcept {
    std::swap(handle, other.handle);
    return *this;
  }
  ~LtOwner() {
    if (handle) destroy(handle);
  }
  Handle handle = nullptr;
};
using LtHandle = LtOwner<cublasLtHandle_t, cublasLtDestroy>;
using Description = LtOwner<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = LtOwner<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = LtOwner<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <class T>
void set(const Description& d, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check_cublas(cublasLtMatmulDescSetAttribute(d.handle, attribute, &value, sizeof value),
               "cublasLtMatmulDescSetAttribute");
}

template <class T>
void set(const Preference& p, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check_cublas(cublasLtMatmulPreferenceSetAttribute(p.handle, attribute, &value, sizeof value),
               "cublasLtMatmulPreferenceSetAttribute");
}

// A row-major f32 array [rows, columns].
Layout layout(std::int64_t rows, std::int64_t columns) {
  Layout l;
  check_cublas(cublasLtMatrixLayoutCreate(&l.handle, CUDA_R_32F, static_cast<std::uint64_t>(columns),
                                          static_cast<std::uint64_t>(rows), columns),
               "cublasLtMatrixLayoutCreate");
  return l;
}

cublasComputeType_t compute_type(Precision p) {
  switch (p) {
    case Precision::fp32: return CUBLAS_COMPUTE_32F;  // every product in fp32, off the tensor cores
    case Precision::tf32: return CUBLAS_COMPUTE_32F_FAST_TF32;
    default: fail("the cuda device multiplies in fp32 or tf32; set train.precision to one of them");
  }
}

cublasLtEpilogue_t epilogue_of(const Product& p) {
  if (p.row_sums) return CUBLASLT_EPILOGUE_BGRADB;  // our A is its B
  if (p.mask) return CUBLASLT_EPILOGUE_DRELU;
  if (p.relu_mask) return CUBLASLT_EPILOGUE_RELU_AUX_BIAS;
  if (p.relu) return CUBLASLT_EPILOGUE_RELU_BIAS;
  return p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

// The epilogue's vector, added or made; and its matrix of bits.
const void* vector_of(const Product& p) { return p.row_sums ? p.row_sums : p.bias; }
const void* bits_of(const Product& p) { return p.mask ? p.mask : p.relu_mask; }

std::uint32_t alignment(const void* p) {
  std::uint32_t bytes = 16;
  while (!kernels::is_aligned(p, bytes)) bytes /= 2;
  return bytes;
}

// What an algorithm depends on: one is chosen once for each.
struct Key {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b;
  cublasLtEpilogue_t epilogue;
  std::uint32_t align_a, align_b, align_c, align_vector, align_bits;
  auto operator<=>(const Key&) const = default;
};

Key key_of(const Product& p) {
  return {p.m,
          p.n,
          p.k,
          p.transpose_a,
          p.transpose_b,
          epilogue_of(p),
          alignment(p.a),
          alignment(p.b),
          alignment(p.c),
          alignment(vector_of(p)),
          alignment(bits_of(p))};
}

struct Plan {
  Description description;
  Layout first, second, result;  // in cuBLASLt's order: B, A, C
  cublasLtMatmulAlgo_t algorithm{};

  // A plan serves products with other addresses, as aligned as the first one's.
  void point_to(const Product& p) const {
    if (vector_of(p)) set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector_of(p));
    if (bits_of(p)) set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, bits_of(p));
  }
};

}  // namespace

struct Gemm::Library {
  Library(Precision p, cudaStream_t s) : compute(compute_type(p)), stream(s) {
    check_cublas(cublasLtCreate(&lt.handle), "cublasLtCreate");
    check_cuda(cudaMalloc(&workspace, workspace_bytes), "memory for cuBLASLt");
  }
  ~Library() { cudaFree(workspace); }

  // Null where cuBLASLt has no algorithm for it.
  const Plan* plan_for(const Product& p) {
    const Key key = key_of(p);
    auto found = plans.find(key);
    if (found == plans.end()) found = plans.emplace(key, make_plan(key, p)).first;
    return found->second ? &*found->second : nullptr;
  }

  std::optional<Plan> make_plan(const Key& key, const Product& p) const {
    Plan plan;
    check_cublas(cublasLtMatmulDescCreate(&plan.description.handle, compute, CUDA_R_32F), "cublasLtMatmulDescCreate");
    set(plan.description, CUBLASLT_MATMUL_DESC_TRANSA, key.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan.description, CUBLASLT_MATMUL_DESC_TRANSB, key.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan.description, CUBLASLT_MATMUL_DESC_EPILOGUE, key.epilogue);
    if (bits_of(p)) set(plan.description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 8 * mask_bytes(key.n));
    plan.point_to(p);  // the choice of an algorithm heeds their alignment
    plan.first = key.transpose_b ? layout(key.n, key.k) : layout(key.k, key.n);
    plan.second = key.transpose_a ? layout(key.k, key.m) : layout(key.m, key.k);
    plan.result = layout(key.m, key.n);

    Preference preference;
    check_cublas(cublasLtMatmulPreferenceCreate(&preference.handle), "cublasLtMatmulPreferenceCreate");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.align_b);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.align_a);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.align_c);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.align_c);
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(lt.handle, plan.description.handle, plan.first.handle, plan.second.handle,
                                       plan.result.handle, plan.result.handle, preference.handle, 1, &best, &count);
    if (is_unknown(status) || (status == CUBLAS_STATUS_SUCCESS && count == 0)) return std::nullopt;
    check_cublas(status, "cublasLtMatmulAlgoGetHeuristic");
    if (best.state != CUBLAS_STATUS_SUCCESS) return std::nullopt;
    plan.algorithm = best.algo;
    return plan;
  }

  cublasComputeType_t compute;
  cudaStream_t stream;
  LtHandle lt;
  void* workspace = nullptr;
  std::map<Key, std::optional<Plan>> plans;
};

Gemm::Gemm(Precision precision, cudaStream_t stream) : library_(std::make_unique<Library>(precision, stream)) {}
Gemm::~Gemm() = default;

bool Gemm::multiply(const Product& p) {
  require(p.m > 0 && p.n > 0 && p.k > 0, "multiply: [", p.m, ", ", p.k, "] x [", p.k, ", ", p.n, "]");
  const kernels::Range range("multiply");
  const Plan* const plan = library_->plan_for(p);
  const auto has_none = [&] {
    require(p.has_epilogue(), "cuBLASLt has no algorithm for [", p.m, ", ", p.k, "] x [", p.k, ", ", p.n, "]");
    return false;
  };
  if (!plan) return has_none();
  plan->point_to(p);
  const float one = 1.0f, zero = 0.0f;
  const cublasStatus_t status =
      cublasLtMatmul(library_->lt.handle, plan->description.handle, &one, p.b, plan->first.handle, p.a,
                     plan->second.handle, &zero, p.c, plan->result.handle, p.c, plan->result.handle, &plan->algorithm,
                     library_->workspace, workspace_bytes, library_->stream);
  if (is_unknown(status)) return has_none();
  check_cublas(status, "cublasLtMatmul");
  return true;
}

}  // namespace elbo
