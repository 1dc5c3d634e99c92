// Matrix products by cuBLASLt.
//
// cuBLASLt thinks in columns: a row-major [r, c] array is a column-major c x r one. So C = op(A) op(B) is
// asked for as C' = op(B)' op(A)', where the transposes cost nothing.
#include "cuda/gemm.h"

#include <cublasLt.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <utility>

#include "kernels/launcher.h"

namespace elbo::cuda {
namespace {

constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what cuBLAS advises for sm_90

std::string text_of(cublasStatus_t s) { return cat(cublasLtGetStatusName(s), " (", cublasLtGetStatusString(s), ")"); }

void check_cublas(cublasStatus_t s, const char* what) {
  if (s != CUBLAS_STATUS_SUCCESS) fail(what, ": ", text_of(s));
}

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

cublasLtEpilogue_t epilogue_of(Epilogue e) {
  switch (e) {
    case Epilogue::none: return CUBLASLT_EPILOGUE_DEFAULT;
    case Epilogue::bias: return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::relu_bias: return CUBLASLT_EPILOGUE_RELU_BIAS;
    case Epilogue::relu_aux_bias: return CUBLASLT_EPILOGUE_RELU_AUX_BIAS;
    case Epilogue::drelu: return CUBLASLT_EPILOGUE_DRELU;
    case Epilogue::bgradb: return CUBLASLT_EPILOGUE_BGRADB;  // our A is its B
  }
  fail("an epilogue of no name");
}

// The epilogue's vector, added or made; and its mask of bits.
const void* vector_of(const Product& p) { return p.row_sums ? p.row_sums : p.bias; }
const void* mask_of(const Product& p) { return p.mask ? p.mask : p.relu_mask; }

ProductShape shape_of(const Product& p) {
  const auto alignment = [](const void* at) {
    std::int64_t bytes = 16;
    while (!kernels::is_aligned(at, static_cast<std::size_t>(bytes))) bytes /= 2;
    return bytes;
  };
  const Epilogue epilogue = p.row_sums    ? Epilogue::bgradb
                            : p.mask      ? Epilogue::drelu
                            : p.relu_mask ? Epilogue::relu_aux_bias
                            : p.relu      ? Epilogue::relu_bias
                            : p.bias      ? Epilogue::bias
                                          : Epilogue::none;
  return {
      .m = p.m,
      .n = p.n,
      .k = p.k,
      .transpose_a = p.transpose_a,
      .transpose_b = p.transpose_b,
      .epilogue = epilogue,
      .alignment = {alignment(p.a), alignment(p.b), alignment(p.c), alignment(vector_of(p)), alignment(mask_of(p))}};
}

// ---- Algorithms --------------------------------------------------------------------------------------------

// Of algorithm_fields, in their order.
struct Attribute {
  cublasLtMatmulAlgoConfigAttributes_t name;
  std::size_t bytes;
};
constexpr std::array<Attribute, algorithm_fields.size()> algorithm_attributes{
    {{CUBLASLT_ALGO_CONFIG_ID, 4},
     {CUBLASLT_ALGO_CONFIG_TILE_ID, 4},
     {CUBLASLT_ALGO_CONFIG_STAGES_ID, 4},
     {CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 4},
     {CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, 4},
     {CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 4},
     {CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 4},
     {CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, 2},
     {CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, 2}}};

Algorithm read(const cublasLtMatmulAlgo_t& from) {
  Algorithm a;
  static_assert(sizeof a.data == sizeof from.data);
  std::memcpy(a.data.data(), from.data, sizeof from.data);
  for (std::size_t i = 0; i < algorithm_fields.size(); ++i) {
    std::uint32_t value = 0;  // little-endian: one of two bytes is its lower half
    std::size_t written = 0;
    // A number that an algorithm does not tell is 0: what it does, it does without.
    if (cublasLtMatmulAlgoConfigGetAttribute(&from, algorithm_attributes[i].name, &value, algorithm_attributes[i].bytes,
                                             &written) == CUBLAS_STATUS_SUCCESS)
      a.*algorithm_fields[i].second = value;
  }
  return a;
}

// What a product of one shape takes, and how it is done.
struct Plan {
  Description description;
  Layout first, second, result;  // in cuBLASLt's order: B, A, C
  cublasLtMatmulAlgo_t algorithm{};
  ProductChoice choice;
  bool asked = false;  // for a product

  // A plan serves products with other addresses, as aligned as the shape says.
  void point_to(const void* vector, const void* mask) const {
    if (has_vector(choice.product.epilogue)) set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
    if (has_mask(choice.product.epilogue)) set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, mask);
  }
  void take(const cublasLtMatmulHeuristicResult_t& found) {
    algorithm = found.algo;
    choice.algorithm = read(found.algo);
    choice.workspace_bytes = static_cast<std::int64_t>(found.workspaceSize);
    choice.waves = std::isfinite(found.wavesCount) ? found.wavesCount : 0;
  }
};

}  // namespace

struct Gemm::Library {
  Library(Precision p, cudaStream_t s) : precision(p), compute(compute_type(p)), stream(s) {
    check_cublas(cublasLtCreate(&lt.handle), "cublasLtCreate");
    check_cuda(cudaMalloc(&workspace, workspace_bytes), "memory for cuBLASLt");
  }
  ~Library() { cudaFree(workspace); }

  Plan& plan_for(const ProductShape& shape) {
    if (const auto found = plans.find(shape); found != plans.end()) return found->second;
    return plans.emplace(shape, own_plan(shape)).first->second;
  }

  // By the library's own choice.
  Plan own_plan(const ProductShape& shape) const {
    Plan plan = describe(shape);
    const std::vector<cublasLtMatmulHeuristicResult_t> best = ask(plan, 1);
    if (!best.empty()) plan.take(best[0]);
    return plan;
  }

  // What was asked for stays so.
  void replace(Plan plan) {
    Plan& kept = plans[plan.choice.product];
    plan.asked = kept.asked;
    kept = std::move(plan);
  }

  Plan describe(const ProductShape& s) const {
    Plan plan;
    plan.choice.product = s;
    check_cublas(cublasLtMatmulDescCreate(&plan.description.handle, compute, CUDA_R_32F), "cublasLtMatmulDescCreate");
    set(plan.description, CUBLASLT_MATMUL_DESC_TRANSA, s.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan.description, CUBLASLT_MATMUL_DESC_TRANSB, s.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan.description, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(s.epilogue));
    if (has_mask(s.epilogue)) set(plan.description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 8 * mask_bytes(s.n));
    // The choice of an algorithm reads no memory, but heeds these addresses' alignment.
    const auto address = [&](int i) { return reinterpret_cast<const void*>(s.alignment[static_cast<std::size_t>(i)]); };
    plan.point_to(address(3), address(4));
    plan.first = s.transpose_b ? layout(s.n, s.k) : layout(s.k, s.n);
    plan.second = s.transpose_a ? layout(s.k, s.m) : layout(s.m, s.k);
    plan.result = layout(s.m, s.n);
    return plan;
  }

  // Up to `most` algorithms, best first. Where the library has none, that is told once, and kept in the plan.
  std::vector<cublasLtMatmulHeuristicResult_t> ask(Plan& plan, int most) const {
    const auto alignment = [&](int i) {
      return static_cast<std::uint32_t>(plan.choice.product.alignment[static_cast<std::size_t>(i)]);
    };
    Preference preference;
    check_cublas(cublasLtMatmulPreferenceCreate(&preference.handle), "cublasLtMatmulPreferenceCreate");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(1));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(0));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(2));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(2));
    std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<std::size_t>(most));
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        lt.handle, plan.description.handle, plan.first.handle, plan.second.handle, plan.result.handle,
        plan.result.handle, preference.handle, most, found.data(), &count);
    if (status != CUBLAS_STATUS_SUCCESS) {
      refuse(plan, "cublasLtMatmulAlgoGetHeuristic", status);
      return {};
    }
    found.resize(static_cast<std::size_t>(count));
    const cublasStatus_t state = found.empty() ? CUBLAS_STATUS_NOT_SUPPORTED : found[0].state;
    std::erase_if(found, [](const auto& f) { return f.state != CUBLAS_STATUS_SUCCESS; });
    if (found.empty()) refuse(plan, "cublasLtMatmulAlgoGetHeuristic found nothing", state);
    return found;
  }

  // The library's no to this epilogue is taken for what it is, and told. Its no to a plain product or to a tuned one,
  // and whatever else it has to say, is an Error.
  void refuse(Plan& plan, const char* call, cublasStatus_t status) const {
    const ProductShape& s = plan.choice.product;
    const std::string what = cat(description_of(s), " in ", name_of(precision), ": ", call, ": ", text_of(status));
    require(status == CUBLAS_STATUS_NOT_SUPPORTED && !plan.choice.tuned, "the product ", what,
            s.epilogue != Epilogue::none ? "; --no-epilogues does without" : "");
    require(s.epilogue != Epilogue::none, "cuBLASLt has no algorithm for the product ", what);
    plan.choice.refusal = cat(call, ": ", text_of(status));
    std::fprintf(stderr, "note: cuBLASLt has no algorithm for the product %s; kernels do a part of it\n", what.c_str());
  }

  Precision precision;
  cublasComputeType_t compute;
  cudaStream_t stream;
  LtHandle lt;
  void* workspace = nullptr;
  std::map<ProductShape, Plan> plans;
};

Gemm::Gemm(Precision precision, cudaStream_t stream) : library_(std::make_unique<Library>(precision, stream)) {}
Gemm::~Gemm() = default;

bool Gemm::multiply(const Product& p) {
  require(p.m > 0 && p.n > 0 && p.k > 0, "multiply: [", p.m, ", ", p.k, "] x [", p.k, ", ", p.n, "]");
  const kernels::Range range("multiply");
  Plan& plan = library_->plan_for(shape_of(p));
  plan.asked = true;
  if (!plan.choice.refusal.empty()) return false;
  plan.point_to(vector_of(p), mask_of(p));
  const float one = 1.0f, zero = 0.0f;
  const cublasStatus_t status =
      cublasLtMatmul(library_->lt.handle, plan.description.handle, &one, p.b, plan.first.handle, p.a,
                     plan.second.handle, &zero, p.c, plan.result.handle, p.c, plan.result.handle, &plan.algorithm,
                     library_->workspace, workspace_bytes, library_->stream);
  if (status == CUBLAS_STATUS_SUCCESS) return true;
  library_->refuse(plan, "cublasLtMatmul", status);
  return false;
}

std::string Gemm::library() {
  std::array<int, 3> version{};
  constexpr libraryPropertyType parts[] = {MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL};
  for (std::size_t i = 0; i < version.size(); ++i)
    check_cublas(cublasLtGetProperty(parts[i], &version[i]), "cublasLtGetProperty");
  return cat("cuBLASLt ", version[0], ".", version[1], ".", version[2]);
}

std::vector<ProductChoice> Gemm::choices() const {
  std::vector<ProductChoice> all;
  for (const auto& [shape, plan] : library_->plans)
    if (plan.asked) all.push_back(plan.choice);
  return all;
}

std::vector<ProductChoice> Gemm::candidates(const ProductShape& shape, int most) const {
  Plan plan = library_->describe(shape);
  std::vector<ProductChoice> all;
  for (const cublasLtMatmulHeuristicResult_t& found : library_->ask(plan, most)) {
    plan.take(found);
    all.push_back(plan.choice);
  }
  return all;
}

void Gemm::use(const ProductChoice& choice) {
  Plan plan = library_->describe(choice.product);
  // As cublasLtMatmulAlgo_t promises: it can be kept, and serves the same version of the library. To set one up by its
  // numbers instead may lose what has no number.
  cublasLtMatmulAlgo_t algorithm;
  std::memcpy(algorithm.data, choice.algorithm.data.data(), sizeof algorithm.data);
  const std::string what = description_of(choice.product);
  require(read(algorithm) == choice.algorithm, what, ": the algorithm's data are not those of its numbers");
  cublasLtMatmulHeuristicResult_t checked{};
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(library_->lt.handle, plan.description.handle, plan.first.handle, plan.second.handle,
                              plan.result.handle, plan.result.handle, &algorithm, &checked);
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(what, ": cuBLASLt does not take algorithm ", choice.algorithm.id, ": ", text_of(status));
  require(checked.workspaceSize <= workspace_bytes, what, ": algorithm ", choice.algorithm.id, " wants ",
          checked.workspaceSize, " bytes of workspace; there are ", workspace_bytes);
  checked.algo = algorithm;  // cublasLtMatmulAlgoCheck leaves it alone
  plan.take(checked);
  plan.choice.tuned = true;
  library_->replace(std::move(plan));
}

void Gemm::forget(const ProductShape& shape) { library_->replace(library_->own_plan(shape)); }

}  // namespace elbo::cuda
