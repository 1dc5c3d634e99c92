#include "cpu/gemm.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "elbo/error.h"
#include "elbo/math/bf16.h"

namespace elbo::cpu {
namespace {

using dnnl::memory;
using Type = memory::data_type;

// How many parts a product has for each thread: with more, a thread that is late is helped sooner; with fewer, less of
// the operands is packed twice.
constexpr std::int64_t parts_a_thread = 2;
// What parts begin at multiples of: vectors of any CPU.
constexpr std::int64_t grain = 16;

struct Shape {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b;
  auto operator<=>(const Shape&) const = default;
};

bool has_amx() {
  const auto amx = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_amx);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & amx) == amx;
}

// A part of a matrix as oneDNN sees it. `pitch`: elements from one row of the whole to the next, as it lies.
memory::desc matrix(std::int64_t rows, std::int64_t columns, Type type, bool transposed, std::int64_t pitch) {
  return {{rows, columns}, type, transposed ? memory::dims{1, pitch} : memory::dims{pitch, 1}};
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

// Cuts `size` into `count` pieces, size / grain of them at most: where piece `i` begins. None is empty, and none is
// much more than a grain off size / count.
std::int64_t cut(std::int64_t size, std::int64_t count, std::int64_t i) {
  return i == count ? size : (size * i / count + grain / 2) / grain * grain;
}

// One part's product: primitive, operands and scratchpad.
struct Part {
  Rectangle c;
  std::size_t a_offset, b_offset, c_offset;  // elements
  memory a_memory, b_memory, c_memory;
  dnnl::stream stream;
  dnnl::matmul primitive;
  std::unordered_map<int, memory> arguments;

  Part(const dnnl::engine& engine, Type type, const Shape& s, const Rectangle& of_c)
      : c(of_c),
        a_offset(static_cast<std::size_t>(s.transpose_a ? c.row : c.row * s.k)),
        b_offset(static_cast<std::size_t>(s.transpose_b ? c.column * s.k : c.column)),
        c_offset(static_cast<std::size_t>(c.row * s.n + c.column)),
        a_memory(matrix(c.rows, s.k, type, s.transpose_a, s.transpose_a ? s.m : s.k), engine, nullptr),
        b_memory(matrix(s.k, c.columns, type, s.transpose_b, s.transpose_b ? s.k : s.n), engine, nullptr),
        c_memory(matrix(c.rows, c.columns, Type::f32, false, s.n), engine, nullptr),
        stream(engine) {
    const auto description = describe(engine, a_memory.get_desc(), b_memory.get_desc(), c_memory.get_desc());
    primitive = dnnl::matmul(description);
    arguments = {{DNNL_ARG_SRC, a_memory},
                 {DNNL_ARG_WEIGHTS, b_memory},
                 {DNNL_ARG_DST, c_memory},
                 {DNNL_ARG_SCRATCHPAD, memory(description.scratchpad_desc(), engine)}};
  }
};

// The longer side of c is cut first.
std::vector<Rectangle> parts_of(std::int64_t m, std::int64_t n, std::int64_t wanted) {
  const auto most = [](std::int64_t size) { return std::max<std::int64_t>(size / grain, 1); };
  const bool wide = n >= m;
  const std::int64_t first = std::min(wanted, most(wide ? n : m)),
                     second = std::min(wanted / first, most(wide ? m : n));
  const std::int64_t across = wide ? first : second, down = wide ? second : first;
  std::vector<Rectangle> parts;
  for (std::int64_t i = 0; i < down; ++i)
    for (std::int64_t j = 0; j < across; ++j) {
      const std::int64_t row = cut(m, down, i), column = cut(n, across, j);
      parts.push_back(
          {.row = row, .rows = cut(m, down, i + 1) - row, .column = column, .columns = cut(n, across, j + 1) - column});
    }
  return parts;
}

// oneDNN would share a product out among OpenMP's threads, as many as the calling thread's setting says.
void leave_it_to_one_thread() { omp_set_num_threads(1); }

class OneDnnProduct final : public CutProduct {
 public:
  OneDnnProduct(const dnnl::engine& engine, Type type, const Shape& shape, Team& team)
      : shape_(shape), rounds_(type == Type::bf16), team_(team) {
    for (const Rectangle& c : parts_of(shape.m, shape.n, team.threads() == 1 ? 1 : parts_a_thread * team.threads()))
      parts_.emplace_back(engine, type, shape, c);
    if (!rounds_) return;
    a_.resize(static_cast<std::size_t>(shape.m * shape.k));
    b_.resize(static_cast<std::size_t>(shape.k * shape.n));
  }

  void set(const float* a, const float* b, float* c) override {
    if (rounds_) {
      round(a, a_);
      round(b, b_);
    }
    for (Part& p : parts_) {
      p.a_memory.set_data_handle(rounds_ ? static_cast<void*>(a_.data() + p.a_offset)
                                         : const_cast<float*>(a) + p.a_offset);
      p.b_memory.set_data_handle(rounds_ ? static_cast<void*>(b_.data() + p.b_offset)
                                         : const_cast<float*>(b) + p.b_offset);
      p.c_memory.set_data_handle(c + p.c_offset);
    }
  }

  std::int64_t parts() const override { return static_cast<std::int64_t>(parts_.size()); }

  Rectangle multiply(std::int64_t part) override try {
    leave_it_to_one_thread();
    Part& p = parts_[static_cast<std::size_t>(part)];
    p.primitive.execute(p.stream, p.arguments);
    p.stream.wait();
    return p.c;
  } catch (const dnnl::error& e) {
    fail("oneDNN: the product [", shape_.m, ", ", shape_.k, "] x [", shape_.k, ", ", shape_.n, "]: ", e.what());
  }

 private:
  void round(const float* from, std::vector<math::Bf16>& to) {
    constexpr std::int64_t piece = 8192;
    team_.run_pieces(static_cast<std::int64_t>(to.size()), piece,
                     [from, to = to.data()](std::int64_t i, std::int64_t end) {
#pragma omp simd
                       for (std::int64_t j = i; j < end; ++j) to[j] = math::to_bf16(from[j]);
                     });
  }

  Shape shape_;
  bool rounds_;
  Team& team_;
  std::vector<Part> parts_;
  std::vector<math::Bf16> a_, b_;  // the operands, where they are rounded
};

}  // namespace

struct Gemm::Impl {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  Type type;
  Team& team;
  std::map<Shape, OneDnnProduct> products;
};

Gemm::Gemm(Precision precision, Team& team) {
  require(precision != Precision::tf32, "device 'cpu': precision tf32 is a GPU's; expected fp32, or bf16 with AMX");
  require(precision != Precision::bf16 || has_amx(),
          "device 'cpu': precision bf16 needs a CPU with AMX, which this one has not; expected fp32");
  impl_ = std::make_unique<Impl>(
      Impl{.type = precision == Precision::bf16 ? Type::bf16 : Type::f32, .team = team, .products = {}});
}

Gemm::~Gemm() = default;

CutProduct& Gemm::product(std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a, bool transpose_b) try {
  leave_it_to_one_thread();
  const Shape shape{.m = m, .n = n, .k = k, .transpose_a = transpose_a, .transpose_b = transpose_b};
  return impl_->products.try_emplace(shape, impl_->engine, impl_->type, shape, impl_->team).first->second;
} catch (const dnnl::error& e) {
  fail("oneDNN: the product [", m, ", ", k, "] x [", k, ", ", n, "]: ", e.what());
}

std::string Gemm::library() {
  const dnnl::version_t* v = dnnl::version();
  return cat("oneDNN ", v->major, ".", v->minor, ".", v->patch);
}

}  // namespace elbo::cpu
