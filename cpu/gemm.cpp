#include "cpu/gemm.h"

#include <omp.h>

#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <unordered_map>

#include "elbo/error.h"

namespace elbo {
namespace {

using dnnl::memory;
using Type = memory::data_type;

// A matrix of `rows` x `columns` as oneDNN sees it, lying row-major, or column-major if `transposed`.
memory::desc matrix(std::int64_t rows, std::int64_t columns, Type type, bool transposed) {
  return {{rows, columns}, type, transposed ? memory::dims{1, rows} : memory::dims{columns, 1}};
}

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const memory::desc& a, const memory::desc& b,
                                      const memory::desc& c) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // allocated once, below
#if DNNL_VERSION_MAJOR >= 3
  return {engine, a, b, c, attributes};
#else
  return {{a, b, c}, attributes, engine};
#endif
}

bool has_amx() {
  const auto amx = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_amx);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & amx) == amx;
}

// An f32 operand and, for bf16, its rounded copy, made anew at each use.
struct Operand {
  memory given, used;
  dnnl::reorder round;

  Operand(const dnnl::engine& engine, std::int64_t rows, std::int64_t columns, Type type, bool transposed)
      : given(matrix(rows, columns, Type::f32, transposed), engine, nullptr), used(given) {
    if (type == Type::f32) return;
    used = memory(matrix(rows, columns, type, transposed), engine);
    round = dnnl::reorder(given, used);
  }
  void set(dnnl::stream& stream, const float* data) {
    given.set_data_handle(const_cast<float*>(data));
    if (round) round.execute(stream, given, used);
  }
};

// One shape's product: primitive, operands and scratchpad, made once and run at every step.
struct Product {
  Operand a, b;
  memory c;
  dnnl::matmul primitive;
  std::unordered_map<int, memory> arguments;

  Product(const dnnl::engine& engine, Type type, std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a,
          bool transpose_b)
      : a(engine, m, k, type, transpose_a),
        b(engine, k, n, type, transpose_b),
        c(matrix(m, n, Type::f32, false), engine, nullptr) {
    const auto description = describe(engine, a.used.get_desc(), b.used.get_desc(), c.get_desc());
    primitive = dnnl::matmul(description);
    arguments = {{DNNL_ARG_SRC, a.used},
                 {DNNL_ARG_WEIGHTS, b.used},
                 {DNNL_ARG_DST, c},
                 {DNNL_ARG_SCRATCHPAD, memory(description.scratchpad_desc(), engine)}};
  }
};

}  // namespace

struct Gemm::Impl {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  Type type;
  int threads;
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t, bool, bool>, Product> products;
};

Gemm::Gemm(Precision precision, int threads) {
  require(precision != Precision::tf32, "device 'cpu': precision tf32 is a GPU's; expected fp32, or bf16 with AMX");
  require(precision != Precision::bf16 || has_amx(),
          "device 'cpu': precision bf16 needs a CPU with AMX, which this one has not; expected fp32");
  impl_ = std::make_unique<Impl>();
  impl_->type = precision == Precision::bf16 ? Type::bf16 : Type::f32;
  impl_->threads = threads;
}

Gemm::~Gemm() = default;

void Gemm::multiply(std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a, bool transpose_b, const float* a,
                    const float* b, float* c) try {
  omp_set_num_threads(impl_->threads);  // oneDNN takes the calling thread's setting, which may be another backend's
  Product& p = impl_->products
                   .try_emplace({m, n, k, transpose_a, transpose_b}, impl_->engine, impl_->type, m, n, k, transpose_a,
                                transpose_b)
                   .first->second;
  p.a.set(impl_->stream, a);
  p.b.set(impl_->stream, b);
  p.c.set_data_handle(c);
  p.primitive.execute(impl_->stream, p.arguments);
  impl_->stream.wait();
} catch (const dnnl::error& e) {
  fail("oneDNN: the product [", m, ", ", k, "] x [", k, ", ", n, "]: ", e.what());
}

std::string Gemm::library() {
  const dnnl::version_t* v = dnnl::version();
  return cat("oneDNN ", v->major, ".", v->minor, ".", v->patch);
}

}  // namespace elbo
