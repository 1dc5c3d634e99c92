// A stand-in for cuBLASLt behind its own header: the calls that cuda/gemm.cpp makes, as NVIDIA documents them, on the
// simulated device's memory and in its streams. What the calls demand is checked, and cublasLtGetStatusString tells the
// last demand that was not met.
//
// There are three algorithms, which sum in different orders, so that a run's bits tell which it had:
//   21  in the order of k; takes any alignment; in two tiles
//   66  in 4 or 8 interleaved sums; A and B must be aligned to 16 bytes, and so must their columns. How many sums
//       there are is told by no attribute: it is the algorithm's own affair, as a real one may have them.
//    7  in two halves of k, which a second launch adds up; takes workspace
//
// $ELBO_SIM_REFUSES is an epilogue that there is no algorithm for (as in gemm.cpp beside this), `all` of them, or
// `plain`: none at all. $ELBO_SIM_CUBLASLT is how the library behaves:
//   nothing        it finds no algorithm for a product with an epilogue, and says so by none
//   invalid_value  it objects to a product with an epilogue
//   unlaunched     it has an algorithm, but does not launch it for a product with an epilogue
//   split          it likes algorithm 7 best
//   split_alone    it offers no other
//   slow           algorithm 21 takes half a millisecond longer
#include <cublasLt.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tests/sim/state.h"

namespace {

thread_local std::string reason;

cublasStatus_t refuse(cublasStatus_t status, std::string why) {
  reason = std::move(why);
  return status;
}
cublasStatus_t invalid(std::string why) { return refuse(CUBLAS_STATUS_INVALID_VALUE, std::move(why)); }

bool is_set(const char* variable, const std::string& value) {
  const char* const is = std::getenv(variable);
  return is && is == value;
}
bool behaves(const char* how) { return is_set("ELBO_SIM_CUBLASLT", how); }

// ---- Descriptors -------------------------------------------------------------------------------------------

struct Description {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void *vector = nullptr, *mask = nullptr;
  std::int64_t mask_ld = 0;  // in bits
};

struct Layout {
  cudaDataType type;
  std::uint64_t rows, columns;
  std::int64_t ld;
};

struct Preference {
  std::uint64_t workspace = 0;
  std::uint32_t a = 256, b = 256, c = 256, d = 256;  // the least alignment
};

const Description& of(cublasLtMatmulDesc_t d) { return *reinterpret_cast<Description*>(d); }
const Layout& of(cublasLtMatrixLayout_t l) { return *reinterpret_cast<Layout*>(l); }

template <class T>
cublasStatus_t assign(T& to, const void* from, std::size_t bytes) {
  if (!from || bytes != sizeof to) return invalid("an attribute of " + std::to_string(bytes) + " bytes");
  std::memcpy(&to, from, sizeof to);
  return CUBLAS_STATUS_SUCCESS;
}

// ---- Products ----------------------------------------------------------------------------------------------

// D [m, n] = op(A) op(B), all of them in columns.
struct Problem {
  Description how;
  Layout a, b, d;
  std::uint64_t m, n, k;

  bool has_bias() const { return how.epilogue & CUBLASLT_EPILOGUE_BIAS; }
  bool has_vector() const { return has_bias() || how.epilogue == CUBLASLT_EPILOGUE_BGRADB; }
  bool has_relu() const { return how.epilogue & CUBLASLT_EPILOGUE_RELU; }
  bool has_drelu() const { return how.epilogue == CUBLASLT_EPILOGUE_DRELU; }
  bool has_mask() const { return how.epilogue & 128; }
};

std::string name_of(const Problem& p) {
  std::string name;
  for (const std::uint64_t n :
       {p.m, p.n, p.k, std::uint64_t{p.how.a}, std::uint64_t{p.how.b}, std::uint64_t{p.how.epilogue}})
    name += (name.empty() ? "" : " ") + std::to_string(n);
  return name;
}

// False, with the reason, in a strict device's capture that uses it for the first time.
bool is_used(const std::string& what) {
  reason.clear();
  const cudaError_t e = cusim::use(what);
  if (e != cudaSuccess) reason = cudaGetErrorString(e);
  return e == cudaSuccess;
}

bool is_refused(const Problem& p) {
  const char* const word = p.how.epilogue == CUBLASLT_EPILOGUE_BGRADB ? "row_sums"
                           : p.has_drelu()                            ? "mask"
                           : p.has_mask()                             ? "relu_mask"
                           : p.has_relu()                             ? "relu"
                           : p.has_bias()                             ? "bias"
                                                                      : "plain";
  const bool plain = p.how.epilogue == CUBLASLT_EPILOGUE_DEFAULT;
  return is_set("ELBO_SIM_REFUSES", word) || (!plain && is_set("ELBO_SIM_REFUSES", "all"));
}

cublasStatus_t understand(cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                          cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t to, Problem& p) {
  p = {of(d), of(a), of(b), of(to), 0, 0, 0};
  const bool ta = p.how.a == CUBLAS_OP_T, tb = p.how.b == CUBLAS_OP_T;
  p.m = ta ? p.a.columns : p.a.rows;
  p.k = ta ? p.a.rows : p.a.columns;
  p.n = tb ? p.b.rows : p.b.columns;
  if ((tb ? p.b.columns : p.b.rows) != p.k) return invalid("A and B have different k");
  if (p.d.rows != p.m || p.d.columns != p.n) return invalid("D is not m x n");
  if (of(c).rows != p.m || of(c).columns != p.n || of(c).ld != p.d.ld) return invalid("C is not like D");
  for (const Layout& l : {p.a, p.b, p.d})
    if (l.type != CUDA_R_32F) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "a type that is not f32");
  if ((p.how.compute != CUBLAS_COMPUTE_32F && p.how.compute != CUBLAS_COMPUTE_32F_FAST_TF32) ||
      p.how.scale != CUDA_R_32F)
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "products are computed in f32 or TF32, and scaled in f32");
  switch (p.how.epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_RELU_BIAS:
    case CUBLASLT_EPILOGUE_RELU_AUX_BIAS:
    case CUBLASLT_EPILOGUE_DRELU:
    case CUBLASLT_EPILOGUE_BGRADB: break;
    default: return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "an epilogue that the stand-in has not");
  }
  if (p.has_vector() && !p.how.vector) return invalid("the epilogue's vector is nowhere");
  if (p.has_mask() && !p.how.mask) return invalid("the epilogue's mask is nowhere");
  if (p.has_mask() && (p.how.mask_ld % 128 != 0 || p.how.mask_ld < static_cast<std::int64_t>(p.m)))
    return invalid("a mask's leading dimension is a multiple of 128, and m at least");
  return CUBLAS_STATUS_SUCCESS;
}

// ---- Algorithms --------------------------------------------------------------------------------------------

// What cublasLtMatmulAlgo_t holds.
struct Config {
  std::uint32_t magic = 0xe1b0;
  std::int32_t id = 0;
  std::uint32_t tile = 0, stages = 0;
  std::int32_t split_k = 1;
  std::uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE, swizzle = 0, custom = 0;
  std::uint16_t inner = 0, cluster = 0;
  std::uint32_t sums = 1, slow = 0;  // told by no attribute
};
static_assert(sizeof(Config) <= sizeof(cublasLtMatmulAlgo_t));

Config config_of(const cublasLtMatmulAlgo_t& a) {
  Config c;
  std::memcpy(static_cast<void*>(&c), &a, sizeof c);
  return c;
}

std::size_t workspace_of(const Problem& p, const Config& c) {
  return c.split_k > 1 ? static_cast<std::size_t>(c.split_k) * p.m * p.n * sizeof(float) : 0;
}

bool takes_columns(const Problem& p, const Config& c) { return c.id != 66 || (p.a.ld % 4 == 0 && p.b.ld % 4 == 0); }

std::vector<Config> algorithms() {
  std::vector<Config> all(5);
  all[0] = {.id = 21, .tile = CUBLASLT_MATMUL_TILE_64x64, .stages = CUBLASLT_MATMUL_STAGES_8x5};
  all[1] = {.id = 66, .tile = CUBLASLT_MATMUL_TILE_128x64, .custom = 1, .inner = 2, .cluster = 3, .sums = 4};
  all[2] = {.id = 66, .tile = CUBLASLT_MATMUL_TILE_128x64, .custom = 1, .inner = 2, .cluster = 3, .sums = 8};
  all[3] = {.id = 21, .tile = CUBLASLT_MATMUL_TILE_32x32, .stages = CUBLASLT_MATMUL_STAGES_8x4, .swizzle = 1};
  all[4] = {
      .id = 7, .tile = CUBLASLT_MATMUL_TILE_64x32, .split_k = 2, .scheme = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE};
  for (Config& c : all) c.slow = c.id == 21 && behaves("slow") ? 500 : 0;
  if (behaves("split")) std::rotate(all.begin(), all.end() - 1, all.end());
  if (behaves("split_alone")) all.erase(all.begin(), all.end() - 1);
  return all;
}

cublasLtMatmulHeuristicResult_t result(const Problem& p, const Config& c) {
  cublasLtMatmulHeuristicResult_t r{};
  std::memcpy(&r.algo, &c, sizeof c);
  r.workspaceSize = workspace_of(p, c);
  r.state = CUBLAS_STATUS_SUCCESS;
  r.wavesCount = static_cast<float>((p.m + 63) / 64 * ((p.n + 63) / 64)) / 4;  // of four multiprocessors
  return r;
}

// ---- What a kernel does ------------------------------------------------------------------------------------

// op(A) op(B) over k in [from, to), into d, column by column; `sums` of them interleaved, added up in the end.
void product(const Problem& p, const float* a, const float* b, float* d, std::int64_t ld, std::uint64_t from,
             std::uint64_t to, std::uint32_t sums) {
  std::vector<float> rows((to - from) * p.m);  // op(A)', dense
  for (std::uint64_t l = from; l < to; ++l)
    for (std::uint64_t i = 0; i < p.m; ++i)
      rows[(l - from) * p.m + i] = p.how.a == CUBLAS_OP_T ? a[l + i * p.a.ld] : a[i + l * p.a.ld];
  std::vector<float> sum(sums * p.m);
  for (std::uint64_t j = 0; j < p.n; ++j) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (std::uint64_t l = from; l < to; ++l) {
      const float factor = p.how.b == CUBLAS_OP_T ? b[j + l * p.b.ld] : b[l + j * p.b.ld];
      float* const s = sum.data() + l % sums * p.m;
      const float* const row = rows.data() + (l - from) * p.m;
      for (std::uint64_t i = 0; i < p.m; ++i) s[i] += factor * row[i];
    }
    for (std::uint64_t i = 0; i < p.m; ++i) {
      float total = sum[i];
      for (std::uint32_t s = 1; s < sums; ++s) total += sum[s * p.m + i];
      d[i + j * ld] = total;
    }
  }
}

void finish(const Problem& p, const float* b, float* d) {
  auto* const vector = static_cast<float*>(p.how.vector);
  auto* const mask = static_cast<unsigned char*>(p.how.mask);
  for (std::uint64_t j = 0; j < p.n; ++j) {
    if (p.how.epilogue == CUBLASLT_EPILOGUE_BGRADB) {
      vector[j] = 0;
      for (std::uint64_t l = 0; l < p.k; ++l)
        vector[j] += p.how.b == CUBLAS_OP_T ? b[j + l * p.b.ld] : b[l + j * p.b.ld];
    }
    for (std::uint64_t i = 0; i < p.m; ++i) {
      const std::uint64_t at = i + j * p.how.mask_ld;
      const auto bit = static_cast<unsigned char>(1u << at % 8);
      float& v = d[i + j * p.d.ld];
      if (p.has_bias()) v += vector[i];
      if (p.has_relu() && !(v > 0)) v = 0;  // NaN too
      if (p.has_relu() && p.has_mask()) {
        mask[at / 8] &= static_cast<unsigned char>(~bit);
        if (v > 0) mask[at / 8] |= bit;
      }
      if (p.has_drelu() && !(mask[at / 8] & bit)) v = 0;
    }
  }
}

void dawdle(std::uint32_t microseconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
  while (microseconds > 0 && std::chrono::steady_clock::now() < end) {
  }
}

bool is_reachable(const void* p, std::uint64_t bytes) {
  const std::lock_guard lock(cusim::state().mutex);
  const cusim::Kind kind = cusim::kind_of(p, bytes);
  return kind == cusim::Kind::device || kind == cusim::Kind::pinned;
}
bool is_aligned(const void* p, std::uintptr_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }
std::uint64_t bytes_of(const Layout& l) { return ((l.columns - 1) * l.ld + l.rows) * sizeof(float); }

}  // namespace

extern "C" {

const char* cublasLtGetStatusName(cublasStatus_t s) {
  switch (s) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    default: return "CUBLAS_STATUS of another name";
  }
}
const char* cublasLtGetStatusString(cublasStatus_t s) {
  return s == CUBLAS_STATUS_SUCCESS || reason.empty() ? "no reason" : reason.c_str();
}
cublasStatus_t cublasLtGetProperty(libraryPropertyType which, int* value) {
  *value = which == MAJOR_VERSION ? CUBLAS_VER_MAJOR : which == MINOR_VERSION ? CUBLAS_VER_MINOR : CUBLAS_VER_PATCH;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* h) {
  *h = reinterpret_cast<cublasLtHandle_t>(new int(0));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) {
  delete reinterpret_cast<int*>(h);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t compute, cudaDataType_t scale) {
  *d = reinterpret_cast<cublasLtMatmulDesc_t>(new Description{compute, scale});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  delete reinterpret_cast<Description*>(d);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void* from, size_t bytes) {
  Description& d = *reinterpret_cast<Description*>(desc);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return assign(d.a, from, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return assign(d.b, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return assign(d.epilogue, from, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return assign(d.vector, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return assign(d.mask, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return assign(d.mask_ld, from, bytes);
    default: return invalid("an attribute of a product that the stand-in has not");
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* l, cudaDataType type, uint64_t rows, uint64_t columns,
                                          int64_t ld) {
  if (rows == 0 || columns == 0 || ld < static_cast<std::int64_t>(rows))
    return invalid("a column's distance is its length at least");
  *l = reinterpret_cast<cublasLtMatrixLayout_t>(new Layout{type, rows, columns, ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
  delete reinterpret_cast<Layout*>(l);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) {
  *p = reinterpret_cast<cublasLtMatmulPreference_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  delete reinterpret_cast<Preference*>(p);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* from,
                                                    size_t bytes) {
  Preference& p = *reinterpret_cast<Preference*>(preference);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return assign(p.workspace, from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return assign(p.a, from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return assign(p.b, from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return assign(p.c, from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return assign(p.d, from, bytes);
    default: return invalid("a preference that the stand-in has not");
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t results[], int* count) {
  *count = 0;
  Problem p;
  if (most <= 0) return invalid("no algorithm is asked for");
  if (const cublasStatus_t s = understand(desc, a, b, c, d, p)) return s;
  if (!is_used("the choice of an algorithm for " + name_of(p))) return CUBLAS_STATUS_EXECUTION_FAILED;
  const bool plain = p.how.epilogue == CUBLASLT_EPILOGUE_DEFAULT;
  if (is_refused(p)) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "$ELBO_SIM_REFUSES names its epilogue");
  if (!plain && behaves("invalid_value")) return invalid("$ELBO_SIM_CUBLASLT is invalid_value");
  if (!plain && behaves("nothing")) return CUBLAS_STATUS_SUCCESS;
  const Preference& wants = *reinterpret_cast<Preference*>(preference);
  for (const std::uint32_t bytes : {wants.a, wants.b, wants.c, wants.d})
    if (bytes == 0 || (bytes & (bytes - 1)) != 0) return invalid("an alignment that is no power of 2");
  for (const Config& config : algorithms()) {
    const bool aligned = config.id != 66 || (wants.a % 16 == 0 && wants.b % 16 == 0);
    if (*count < most && aligned && takes_columns(p, config) && workspace_of(p, config) <= wants.workspace)
      results[(*count)++] = result(p, config);
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* r) {
  Problem p;
  if (const cublasStatus_t s = understand(desc, a, b, c, d, p)) return s;
  const Config config = config_of(*algorithm);
  if (config.magic != Config().magic || config.sums == 0) return invalid("these are no algorithm's data");
  if (is_refused(p)) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "$ELBO_SIM_REFUSES names its epilogue");
  if (!takes_columns(p, config)) return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "its columns are not aligned to 16 bytes");
  const cublasLtMatmulAlgo_t kept = r->algo;
  *r = result(p, config);
  r->algo = kept;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, void* to,
                                                    size_t bytes, size_t* written) {
  const Config c = config_of(*algorithm);
  const auto give = [&](const auto& value) {
    if (!to || bytes != sizeof value) return invalid("a number of " + std::to_string(sizeof value) + " bytes");
    std::memcpy(to, &value, sizeof value);
    *written = sizeof value;
    return CUBLAS_STATUS_SUCCESS;
  };
  switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_ID: return give(c.id);
    case CUBLASLT_ALGO_CONFIG_TILE_ID: return give(c.tile);
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM: return give(c.split_k);
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME: return give(c.scheme);
    case CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING: return give(c.swizzle);
    case CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION: return give(c.custom);
    case CUBLASLT_ALGO_CONFIG_STAGES_ID: return give(c.stages);
    case CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID: return give(c.inner);
    case CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID: return give(c.cluster);
  }
  return invalid("no such number");
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                              const void* beta, const void*, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  Problem p;
  if (const cublasStatus_t s = understand(desc, a_layout, b_layout, c_layout, d_layout, p)) return s;
  if (!algorithm) return invalid("the stand-in chooses no algorithm by itself");
  const Config config = config_of(*algorithm);
  if (config.magic != Config().magic) return invalid("these are no algorithm's data");
  // In the mode that is the default these lie in host memory.
  if (*static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0)
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "the stand-in has alpha 1 and beta 0");
  if (!is_reachable(a, bytes_of(p.a)) || !is_reachable(b, bytes_of(p.b)) || !is_reachable(d, bytes_of(p.d)))
    return invalid("a matrix is not in the device's memory, or leaves its allocation");
  if (p.has_vector() && !is_reachable(p.how.vector, (p.has_bias() ? p.m : p.n) * sizeof(float)))
    return invalid("the epilogue's vector is not in the device's memory");
  if (p.has_mask() && !is_reachable(p.how.mask, ((p.n - 1) * p.how.mask_ld + p.m + 7) / 8))
    return invalid("the epilogue's mask is not in the device's memory");
  if (config.id == 66 && (!is_aligned(a, 16) || !is_aligned(b, 16)))
    return invalid("algorithm 66 takes matrices that are aligned to 16 bytes");
  if (!takes_columns(p, config)) return invalid("algorithm 66 takes columns that are aligned to 16 bytes");
  const std::size_t room = workspace_of(p, config);
  if (room > workspace_bytes || (room > 0 && (!is_reachable(workspace, room) || !is_aligned(workspace, 16))))
    return invalid("the workspace is too small, or not in the device's memory");
  if (p.how.epilogue != CUBLASLT_EPILOGUE_DEFAULT && behaves("unlaunched"))
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "$ELBO_SIM_CUBLASLT is unlaunched");

  const auto* const fa = static_cast<const float*>(a);
  const auto* const fb = static_cast<const float*>(b);
  auto *const fd = static_cast<float*>(d), *const parts = static_cast<float*>(workspace);
  const auto queue = [&](const char* name, std::function<void()> work) {
    if (!is_used(std::string(name) + " by algorithm " + std::to_string(config.id))) return false;
    return cusim::enqueue(stream, std::move(work), {cusim::Label::Kind::kernel, name, 1, 1}) == cudaSuccess;
  };
  bool queued = true;
  if (config.split_k == 1) {
    queued = queue("product", [=] {
      dawdle(config.slow);
      product(p, fa, fb, fd, p.d.ld, 0, p.k, config.sums);
      finish(p, fb, fd);
    });
  } else {
    const auto splits = static_cast<std::uint64_t>(config.split_k);
    queued = queue("product",
                   [=] {
                     for (std::uint64_t s = 0; s < splits; ++s)
                       product(p, fa, fb, parts + s * p.m * p.n, static_cast<std::int64_t>(p.m), s * p.k / splits,
                               (s + 1) * p.k / splits, config.sums);
                   }) &&
             queue("splitKreduce_kernel", [=] {
               for (std::uint64_t j = 0; j < p.n; ++j)
                 for (std::uint64_t i = 0; i < p.m; ++i) {
                   float total = 0;
                   for (std::uint64_t s = 0; s < splits; ++s) total += parts[(s * p.n + j) * p.m + i];
                   fd[i + j * p.d.ld] = total;
                 }
               finish(p, fb, fd);
             });
  }
  return queued ? CUBLAS_STATUS_SUCCESS
                : refuse(CUBLAS_STATUS_EXECUTION_FAILED, reason.empty() ? "the launch failed" : reason);
}

}  // extern "C"
