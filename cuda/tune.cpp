#include "cuda/tune.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>

#include "cuda/graph.h"
#include "cuda/handles.h"
#include "elbo/math/random.h"

namespace elbo::cuda {
namespace {

constexpr int most_algorithms = 32;
constexpr std::size_t rounds = 5;  // in which each is timed once, so that a slow moment hits them all
constexpr std::size_t shortest_graph = 20;

// ---- Operands ----------------------------------------------------------------------------------------------

// A, B, C, the epilogue's vector and its mask, in bytes.
std::array<std::size_t, 5> sizes_of(const ProductShape& s) {
  const auto floats = [](std::int64_t n) { return sizeof(float) * static_cast<std::size_t>(n); };
  const Epilogue e = s.epilogue;
  return {floats(s.m * s.k), floats(s.k * s.n), floats(s.m * s.n),
          has_vector(e) ? floats(e == Epilogue::bgradb ? s.m : s.n) : 0,
          has_mask(e) ? static_cast<std::size_t>(s.m * mask_bytes(s.n)) : 0};
}

std::size_t bytes_of(const ProductShape& s) {
  std::size_t bytes = 0;
  for (const std::size_t size : sizes_of(s)) bytes += size;
  return bytes;
}

// Memory for copies of a product's operands, filled with noise: zeros would be quicker.
class Operands {
 public:
  Operands(const ProductShape& s, std::size_t copies, cudaStream_t stream) : shape_(s) {
    for (const std::size_t size : sizes_of(s)) bytes_ += room(size);
    check_cuda(cudaMalloc(&memory_, copies * bytes_), "memory for a product's operands");
    std::vector<float> noise(copies * bytes_ / sizeof(float));
    for (std::size_t i = 0; i < noise.size(); i += 4) {
      const math::Words w = math::random_words({.seed = 1, .purpose = Purpose::prior, .step = 0, .row = 0, .sample = 0},
                                               static_cast<std::uint32_t>(i / 4));
      const std::uint32_t words[] = {w.x, w.y, w.z, w.w};
      for (std::size_t j = 0; j < 4; ++j) noise[i + j] = static_cast<float>(2 * math::uniform(words[j]) - 1);
    }
    check_cuda(cudaMemcpyAsync(memory_, noise.data(), copies * bytes_, cudaMemcpyHostToDevice, stream), "upload");
    check_cuda(cudaStreamSynchronize(stream), "upload");
  }
  ~Operands() { cudaFree(memory_); }
  Operands(const Operands&) = delete;
  Operands& operator=(const Operands&) = delete;

  Product product(std::size_t copy) const {
    std::array<std::byte*, 5> at{};
    std::byte* next = static_cast<std::byte*>(memory_) + copy * bytes_;
    const std::array<std::size_t, 5> sizes = sizes_of(shape_);
    for (std::size_t i = 0; i < at.size(); ++i) {
      at[i] = next + shape_.alignment[i] % widest;  // aligned to that and no better
      next += room(sizes[i]);
    }
    const auto floats = [&](std::size_t i) { return reinterpret_cast<float*>(at[i]); };
    const auto bytes = [&](std::size_t i) { return reinterpret_cast<std::uint8_t*>(at[i]); };
    Product p{.a = floats(0),
              .b = floats(1),
              .c = floats(2),
              .m = shape_.m,
              .n = shape_.n,
              .k = shape_.k,
              .transpose_a = shape_.transpose_a,
              .transpose_b = shape_.transpose_b};
    switch (shape_.epilogue) {
      case Epilogue::none: break;
      case Epilogue::relu_aux_bias: p.relu_mask = bytes(4); [[fallthrough]];
      case Epilogue::relu_bias: p.relu = true; [[fallthrough]];
      case Epilogue::bias: p.bias = floats(3); break;
      case Epilogue::drelu: p.mask = bytes(4); break;
      case Epilogue::bgradb: p.row_sums = floats(3); break;
    }
    return p;
  }

 private:
  static constexpr std::int64_t widest = 16;
  static std::size_t room(std::size_t bytes) { return (bytes + widest + 255) / 256 * 256; }

  ProductShape shape_;
  std::size_t bytes_ = 0;
  void* memory_ = nullptr;
};

// ---- Timings -----------------------------------------------------------------------------------------------

// An algorithm, recorded over and over.
struct Candidate {
  ProductChoice choice;
  std::unique_ptr<Recording> products;
  bool one_launch;                   // a product is
  std::vector<double> microseconds;  // of a product, one for each round

  double median() const {
    std::vector<double> sorted = microseconds;
    std::ranges::sort(sorted);
    return sorted[sorted.size() / 2];
  }
};

class Bench {
 public:
  Bench(Gemm& gemm, const ProductShape& shape, std::size_t copies, cudaStream_t stream)
      : gemm_(gemm),
        stream_(stream),
        copies_(copies),
        products_(copies * ((shortest_graph + copies - 1) / copies)),
        operands_(shape, copies, stream) {}

  // None where the library does not run it. How many launches it takes is what a graph of them says, whatever the
  // library calls its way of splitting.
  std::optional<Candidate> record(const ProductChoice& choice) {
    try {
      gemm_.use(choice);
      if (!gemm_.multiply(operands_.product(0))) return std::nullopt;  // before the capture: it may load a kernel
    } catch (const Error&) {
      return std::nullopt;
    }
    check_cuda(cudaStreamSynchronize(stream_), "tune");
    const auto calls = [&] {
      for (std::size_t i = 0; i < products_; ++i) std::ignore = gemm_.multiply(operands_.product(i % copies_));
    };
    std::unique_ptr<Recording> products = capture_graph(stream_, calls, 8);
    const bool one_launch = products->nodes() == products_;
    return Candidate{.choice = choice, .products = std::move(products), .one_launch = one_launch, .microseconds = {}};
  }

  // Microseconds of a product, over as many replays as fit into `seconds`, but one at least.
  double time(Recording& r, double seconds) {
    const double first = average(r, 1);
    const double more = std::min(seconds / (1e-6 * first * static_cast<double>(products_)), 1e5);
    return more < 2 ? first : average(r, static_cast<int>(more));
  }

 private:
  double average(Recording& r, int replays) {
    check_cuda(cudaEventRecord(begin_.get(), stream_), "tune");
    for (int i = 0; i < replays; ++i) r.replay();
    check_cuda(cudaEventRecord(end_.get(), stream_), "tune");
    check_cuda(cudaEventSynchronize(end_.get()), "tune");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "cudaEventElapsedTime");
    return std::max(1e3 * milliseconds / (replays * static_cast<double>(products_)), 1e-3);
  }

  Gemm& gemm_;
  cudaStream_t stream_;
  std::size_t copies_, products_;
  Operands operands_;
  Event begin_ = make_timing_event(), end_ = make_timing_event();
};

}  // namespace

std::vector<Tuning::Product> tune_products(Gemm& gemm, cudaStream_t stream, std::size_t cache_bytes, double seconds,
                                           const std::function<void(const Tuning::Product&)>& each) {
  std::vector<ProductChoice> before;
  std::size_t step_bytes = 0;
  for (const ProductChoice& c : gemm.choices()) {
    if (!c.refusal.empty()) continue;
    before.push_back(c);
    step_bytes += bytes_of(c.product);
  }
  std::vector<Tuning::Product> tuned;
  for (const ProductChoice& was : before) {
    const ProductShape& shape = was.product;
    const std::size_t copies = std::min(step_bytes, 2 * cache_bytes) / bytes_of(shape);
    Bench bench(gemm, shape, std::clamp<std::size_t>(copies, 1, 64), stream);
    const std::vector<ProductChoice> choices = gemm.candidates(shape, most_algorithms);
    std::vector<Candidate> candidates;
    bool has_own = false;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      std::optional<Candidate> c = bench.record(choices[i]);
      if (!c || !(c->one_launch || i == 0)) continue;  // the library's own choice is timed in any case
      has_own |= i == 0;
      candidates.push_back(std::move(*c));
    }
    if (!candidates.empty()) bench.time(*candidates[0].products, seconds / 2);  // the clocks rise
    for (std::size_t round = 0; round < rounds; ++round)
      for (Candidate& c : candidates)
        c.microseconds.push_back(
            bench.time(*c.products, seconds / 2 / static_cast<double>(rounds * candidates.size())));
    const double own = has_own ? candidates[0].median() : 0;
    std::erase_if(candidates, [](const Candidate& c) { return !c.one_launch; });
    if (candidates.empty()) {  // the last one tried is in use
      was.tuned ? gemm.use(was) : gemm.forget(shape);
      continue;
    }
    const Candidate& best = *std::ranges::min_element(candidates, {}, &Candidate::median);
    gemm.use(best.choice);
    tuned.push_back({.choice = best.choice,
                     .microseconds = best.median(),
                     .own_microseconds = own,
                     .candidates = static_cast<std::int64_t>(candidates.size())});
    if (each) each(tuned.back());
  }
  return tuned;
}

}  // namespace elbo::cuda
