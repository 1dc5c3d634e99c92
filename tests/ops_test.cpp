// Every operation of a device against a float64 reference made of the same formulas, on every device.
//
// Outputs hold NaN before an operation runs, and the bytes after each tensor are watched. The formulas
// themselves are judged elsewhere: math_test.cpp, golden_test.cpp.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "elbo/math/activation.h"
#include "elbo/math/importance.h"
#include "elbo/math/latent.h"
#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"
#include "host/base/devices.h"
#include "tests/ops_cases.h"
#include "tests/setting.h"

namespace elbo::test {
namespace {

constexpr Activation activations[] = {Activation::identity, Activation::relu, Activation::tanh, Activation::softplus};
constexpr Posterior posteriors[] = {Posterior::log_variance, Posterior::sigma};
constexpr LossVariant both_kernels[] = {LossVariant::fused, LossVariant::unfused};
constexpr LossVariant all_kernels[] = {LossVariant::fused, LossVariant::fused_log, LossVariant::two_pass,
                                       LossVariant::unfused};
constexpr Likelihood likelihoods[] = {Likelihood::bernoulli, Likelihood::gaussian, Likelihood::gaussian_learned};
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

using Floats = std::vector<float>;
using Bytes = std::vector<std::uint8_t>;

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

Floats normals(std::int64_t n, std::uint32_t stream, float scale = 1.0f, float mean = 0.0f) {
  Floats v(at(n));
  for (std::int64_t i = 0; i < n; ++i) {
    const auto quad = static_cast<std::uint32_t>(i / 4);
    v[at(i)] = mean + scale * math::normals({99, Purpose::prior, stream, 0, 0}, quad).v[i % 4];
  }
  return v;
}

Bytes pixels(std::int64_t n, std::uint32_t stream) {
  Bytes v(at(n));
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t word = math::random_words({99, Purpose::prior, stream, 1, 0}, static_cast<std::uint32_t>(i)).x;
    v[at(i)] = word % 4 == 0 ? 0 : word % 4 == 1 ? 255 : static_cast<std::uint8_t>(word >> 24);
  }
  return v;
}

// What a result should be, and how large the numbers were whose sum it is: rounding errors scale with
// the latter.
struct Expected {
  std::vector<double> value, magnitude;

  explicit Expected(std::int64_t n) : value(at(n)), magnitude(at(n)) {}
  // These values; an error of 1 counts as 1.
  explicit Expected(const Floats& values) : value(values.begin(), values.end()), magnitude(values.size(), 1.0) {}
  void add(std::int64_t i, double term) {
    value[at(i)] += term;
    magnitude[at(i)] += std::abs(term);
  }
};

void expect_close(const Floats& got, const Expected& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.value.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(double{got[i]}, want.value[i], tolerance * want.magnitude[i] + 1e-30) << what << ", element " << i;
  }
}

template <class T>
void expect_same_bits(const std::vector<T>& a, const std::vector<T>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::memcmp(&a[i], &b[i], sizeof(T)), 0) << what << ", element " << i << ": " << a[i] << ", " << b[i];
  }
}

// A device and tensors on it that hold 0xff in every byte (NaN) at first, with a watched margin behind.
class Lab {
 public:
  explicit Lab(const char* device, const BackendOptions& options = {})
      : device_(open_device(device, options).backend) {}
  ~Lab() { clear(); }

  // Looks behind every tensor made so far, and frees them.
  void clear() {
    for (const auto& [buffer, used] : buffers_) {
      Bytes bytes(buffer->size());
      device_->download(bytes.data(), {buffer->data(), DType::u8, {static_cast<std::int64_t>(buffer->size())}});
      for (std::size_t i = used; i < bytes.size(); ++i) {
        EXPECT_EQ(bytes[i], 0xff) << "byte " << i - used << " behind a tensor of " << used << " bytes was written to";
      }
    }
    buffers_.clear();
  }
  Backend* operator->() const { return device_.get(); }
  Backend& operator*() const { return *device_; }

  Tensor make(Shape shape, DType dtype = DType::f32) {
    Tensor t{nullptr, dtype, shape};
    const std::size_t size = t.bytes() + margin;
    auto buffer = std::make_unique<Buffer>(*device_, size, Memory::device, "a test's tensor");
    t.data = buffer->data();
    device_->fill({t.data, DType::u8, {static_cast<std::int64_t>(size)}}, 0xff);
    buffers_.emplace_back(std::move(buffer), t.bytes());
    return t;
  }
  template <class T>
  Tensor put(Shape shape, const std::vector<T>& values) {
    const Tensor t = make(shape, DTypeOf<T>::value);
    EXPECT_EQ(static_cast<std::int64_t>(values.size()), shape.count());
    device_->upload(t, values.data());
    return t;
  }
  Tensor put(const StepState& s) {
    const Tensor t = make({static_cast<std::int64_t>(sizeof s)}, DType::u8);
    device_->upload(t, &s);
    return t;
  }
  // Gives a layer the mask of its relu, where the device makes one.
  void give_mask(DenseForward& layer) {
    if (layer.activation != Activation::relu) return;
    layer.mask = make({layer.y.rows(), mask_bytes(layer.y.columns())}, DType::u8);
    if (!device_->makes_mask(layer)) layer.mask = {};
  }
  template <class T = float>
  std::vector<T> get(const Tensor& t) const {
    std::vector<T> values(at(t.count()));
    EXPECT_EQ(DTypeOf<T>::value, t.dtype);
    device_->download(values.data(), t);
    return values;
  }
  StepState state(const Tensor& t) const {
    StepState s;
    device_->download(&s, t);
    return s;
  }

 private:
  static constexpr std::size_t margin = 256;
  std::unique_ptr<Backend> device_;
  std::vector<std::pair<std::unique_ptr<Buffer>, std::size_t>> buffers_;
};

class Ops : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    try {
      lab_ = std::make_unique<Lab>(GetParam());
      bare_lab_ = std::make_unique<Lab>(GetParam(), BackendOptions{.epilogues = false});
    } catch (const Error& e) {
      const bool required =
          std::string(GetParam()) == "cpu" || (std::string(GetParam()) == "sim" && std::getenv("ELBO_REQUIRE_SIM"));
      if (required) FAIL() << e.what();
      GTEST_SKIP() << e.what();
    }
  }
  Lab& lab() { return *lab_; }
  // The lab, emptied for the next case; or the one whose products do nothing else on the way; or one that has always
  // been refused this epilogue: a device asks for an algorithm once.
  Lab& next(bool epilogues = true, const std::string& refused = "") {
    std::unique_ptr<Lab>& lab = !refused.empty() ? refused_labs_[refused] : epilogues ? lab_ : bare_lab_;
    if (!lab) lab = std::make_unique<Lab>(GetParam(), BackendOptions{.epilogues = epilogues});
    lab->clear();
    return *lab;
  }

 private:
  std::unique_ptr<Lab> lab_, bare_lab_;
  std::map<std::string, std::unique_ptr<Lab>> refused_labs_;
};

INSTANTIATE_TEST_SUITE_P(Devices, Ops, testing::Values("cpu", "sim", "cuda"),
                         [](const auto& device) { return std::string(device.param); });

StepState some_state(std::uint32_t step = 5) {
  return state_at(0x123456789abcdefull, step,
                  {.batches_per_epoch = 3, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f});
}

// ---- Memory ---------------------------------------------------------------------------------------------------

TEST_P(Ops, MemoryMoves) {
  const Floats values = normals(1001, 1);
  const Tensor a = lab().put({1001}, values), b = lab().make({7, 143});
  lab()->copy(b, a);
  expect_same_bits(lab().get(b), values, "copy");
  lab()->fill(b, 0);
  EXPECT_EQ(lab().get(b), Floats(1001, 0.0f));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data) % 256, 0u);
  lab()->synchronize();
}

TEST_P(Ops, PinnedMemoryIsForBoth) {
  Buffer buffer(*lab(), 64, Memory::pinned, "a test's page");
  const Tensor pinned{buffer.data(), DType::f32, {16}}, device = lab().put({16}, normals(16, 1));
  lab()->copy(pinned, device);
  lab()->synchronize();
  expect_same_bits(Floats(pinned.as<float>(), pinned.as<float>() + 16), normals(16, 1), "pinned");
}

TEST_P(Ops, TooMuchMemoryIsAnErrorThatSaysWhatFor) {
  try {
    Buffer(*lab(), std::size_t{1} << 60, Memory::device, "the activations");
    FAIL() << "2^60 bytes were given";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("the activations"), std::string::npos) << e.what();
  }
}

// ---- Layers -----------------------------------------------------------------------------------------------------

struct Dense {
  Floats x, weight, bias, dz;
  explicit Dense(const DenseCase& c)
      : x(normals(c.rows * c.in, 1)),
        weight(normals(c.out * c.in, 2, 1.0f / std::sqrt(static_cast<float>(c.in)))),
        bias(normals(c.out, 3)),
        dz(normals(c.rows * c.out, 4)) {}
};

// Summing n products in fp32, in any order, errs by a few times 6e-8 of the sum of their magnitudes; 2e-6
// leaves room for the activation.
constexpr double product_tolerance = 2e-6;

TEST_P(Ops, DenseForward) {
  for (const DenseCase& c : dense_cases) {
    const Dense v(c);
    Expected linear(c.rows * c.out);
    for (std::int64_t i = 0; i < c.rows * c.out; ++i) {
      const std::int64_t r = i / c.out, o = i % c.out;
      linear.add(i, v.bias[at(o)]);
      for (std::int64_t k = 0; k < c.in; ++k) linear.add(i, double{v.x[at(r * c.in + k)]} * v.weight[at(o * c.in + k)]);
    }
    for (Activation activation : activations) {
      Expected want = linear;
      for (double& value : want.value) value = math::activate(activation, value);
      for (const char* refused : {"", "relu_mask", "relu", "bias"}) {
        for (const bool with_mask : {true, false}) {
          const Setting none_of("ELBO_SIM_REFUSES", refused);
          Lab& d = next(true, refused);
          const Tensor y = d.make({c.rows, c.out});
          DenseForward op{.x = d.put({c.rows, c.in}, v.x),
                          .weight = d.put({c.out, c.in}, v.weight),
                          .bias = d.put({c.out}, v.bias),
                          .activation = activation,
                          .y = y,
                          .mask = {}};
          if (with_mask) d.give_mask(op);
          d->run(op);
          expect_close(d.get(y), want, product_tolerance, cat("y, activation ", static_cast<int>(activation)));
        }
      }
    }
  }
}

// x comes from a layer below, whose weight is the identity, so that it is activation(before) and there is a mask.
TEST_P(Ops, DenseBackward) {
  for (const DenseCase& c : dense_cases) {
    Dense v(c);
    for (std::size_t i = 0; i < v.x.size(); i += 5) v.x[i] = 0;  // where relu's slope is 0
    Floats identity(at(c.in * c.in));
    for (std::int64_t i = 0; i < c.in; ++i) identity[at(i * c.in + i)] = 1;
    for (Activation activation : activations) {
      Floats x = v.x;
      for (float& value : x) value = math::activate(activation, value);
      Expected want_weight(c.out * c.in), want_bias(c.out), want_x(c.rows * c.in);
      for (std::int64_t i = 0; i < c.rows * c.out; ++i) {
        const std::int64_t r = i / c.out, o = i % c.out;
        const double g = v.dz[at(i)];
        want_bias.add(o, g);
        for (std::int64_t k = 0; k < c.in; ++k) {
          want_weight.add(o * c.in + k, g * x[at(r * c.in + k)]);
          want_x.add(r * c.in + k, g * v.weight[at(o * c.in + k)]);
        }
      }
      // A slope errs by one part in 1e7 of 1, not of itself (1 - x^2 has lost digits where x is near 1), so that the
      // magnitudes stay as they are.
      for (std::int64_t i = 0; i < c.rows * c.in; ++i)
        want_x.value[at(i)] *= math::activation_slope(activation, double{x[at(i)]});
      // An error of x, of one part in 1e7 of 1, enters by its factor.
      for (std::int64_t i = 0; i < c.out * c.in; ++i) want_weight.magnitude[at(i)] += want_bias.magnitude[at(i / c.in)];

      struct Way {
        bool epilogues, mask, dx;
        const char* refused = "";
      };
      for (const auto [epilogues, with_mask, with_dx, refused] :
           {Way{true, true, true}, Way{true, false, true}, Way{false, true, true}, Way{true, false, false},
            Way{true, true, true, "relu_mask"}, Way{true, true, true, "mask"}, Way{true, true, true, "row_sums"}}) {
        const Setting none_of("ELBO_SIM_REFUSES", refused);
        Lab& d = next(epilogues, refused);
        const Tensor below = d.make({c.rows, c.in});
        DenseForward layer{.x = d.put({c.rows, c.in}, v.x),
                           .weight = d.put({c.in, c.in}, identity),
                           .bias = d.put({c.in}, Floats(at(c.in))),
                           .activation = activation,
                           .y = below,
                           .mask = {}};
        if (with_mask) d.give_mask(layer);
        d->run(layer);
        const Tensor dz = d.put({c.rows, c.out}, v.dz), dweight = d.make({c.out, c.in}), dbias = d.make({c.out});
        const Tensor dx = with_dx ? d.make({c.rows, c.in}) : Tensor{};
        d->run(DenseBackward{.x = below,
                             .weight = d.put({c.out, c.in}, v.weight),
                             .dz = dz,
                             .dweight = dweight,
                             .dbias = dbias,
                             .input_activation = activation,
                             .mask = layer.mask,
                             .dx = dx});
        const std::string which = cat("activation ", static_cast<int>(activation), ", ", c.in, " to ", c.out,
                                      ", epilogues ", epilogues, " but ", refused);
        expect_close(d.get(below), Expected(x), 1e-6, "x, " + which);
        expect_same_bits(d.get(dz), v.dz, "dz after, " + which);
        expect_close(d.get(dbias), want_bias, product_tolerance, "dbias, " + which);
        expect_close(d.get(dweight), want_weight, product_tolerance, "dweight, " + which);
        if (with_dx) expect_close(d.get(dx), want_x, product_tolerance, "dx, " + which);
      }
    }
  }
}

// What the optimiser and the loss look for. relu may hide one where the product's library does it (DenseForward).
TEST_P(Ops, DenseKeepsNan) {
  const DenseCase c{5, 7, 9};
  for (const bool epilogues : {true, false}) {
    for (Activation activation : activations) {
      Lab& d = next(epilogues);
      Dense v(c);
      v.x[2 * 7 + 3] = nan;
      const Tensor x = d.put({5, 7}, v.x), weight = d.put({9, 7}, v.weight), y = d.make({5, 9});
      d->run(DenseForward{
          .x = x, .weight = weight, .bias = d.put({9}, v.bias), .activation = activation, .y = y, .mask = {}});
      const Floats got = d.get(y);
      for (std::size_t i = 0; i < got.size(); ++i) {
        const bool may_hide = activation == Activation::relu && epilogues;
        EXPECT_TRUE(std::isnan(got[i]) == (i / 9 == 2) || may_hide) << i;
        EXPECT_TRUE(i / 9 == 2 || !std::isnan(got[i])) << i;
      }

      v.dz[2 * 9 + 4] = nan;
      const Tensor dweight = d.make({9, 7}), dbias = d.make({9}), dx = d.make({5, 7});
      const Tensor halves = d.put({5, 7}, Floats(35, 0.5f));
      d->run(DenseBackward{.x = halves,
                           .weight = weight,
                           .dz = d.put({5, 9}, v.dz),
                           .dweight = dweight,
                           .dbias = dbias,
                           .input_activation = activation,
                           .mask = {},
                           .dx = dx});
      const Floats bias = d.get(dbias), w = d.get(dweight), back = d.get(dx);
      for (std::size_t i = 0; i < bias.size(); ++i) EXPECT_EQ(std::isnan(bias[i]), i == 4);
      for (std::size_t i = 0; i < w.size(); ++i) EXPECT_EQ(std::isnan(w[i]), i / 7 == 4);
      for (std::size_t i = 0; i < back.size(); ++i) EXPECT_EQ(std::isnan(back[i]), i / 7 == 2);
    }
  }
}

// ---- Gather -----------------------------------------------------------------------------------------------------

TEST_P(Ops, GatherBatch) {
  for (Indexing indexing : {Indexing::shuffled, Indexing::ring, Indexing::sequential}) {
    for (Binarize binarize : {Binarize::none, Binarize::threshold, Binarize::dynamic}) {
      for (const PixelCase& c : pixel_cases) {
        Lab& d = next();
        const std::int64_t rows = c.rows, columns = c.pixels, images = 3 * rows;
        const Bytes source = pixels(images * columns, 7);
        // Training: batch 1 of epoch 2. Evaluation: the third batch, drawn for by the row's number.
        const StepState s =
            indexing == Indexing::sequential
                ? state_at(11, 2,
                           {.batches_per_epoch = 3,
                            .rows_per_batch = static_cast<std::uint32_t>(rows),
                            .beta1 = 0,
                            .beta2 = 0})
                : state_at(11, 7, {.batches_per_epoch = 3, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f});
        const Tensor input = d.make({rows, columns}), target = d.make({rows, columns}, DType::u8);
        d->run(GatherBatch{.source = d.put({images, columns}, source),
                           .state = d.put(s),
                           .indexing = indexing,
                           .binarize = binarize,
                           .input = input,
                           .target = target});
        Bytes want(at(rows * columns));
        Expected value(rows * columns);
        for (std::int64_t r = 0; r < rows; ++r) {
          const auto row = static_cast<std::uint32_t>(r);
          const std::int64_t from = indexing == Indexing::shuffled
                                        ? math::shuffled_index(11, 2, static_cast<std::uint32_t>(images),
                                                               static_cast<std::uint32_t>(rows) + row)
                                    : indexing == Indexing::ring ? 7 % 3 * rows + r
                                                                 : 2 * rows + r;
          for (std::int64_t p = 0; p < columns; ++p) {
            std::uint8_t pixel = source[at(from * columns + p)];
            if (binarize == Binarize::threshold) pixel = pixel >= 128 ? 255 : 0;
            if (binarize == Binarize::dynamic) {
              const auto w = math::random_words({11, Purpose::binarize, s.noise_step, s.row0 + row, 0},
                                                static_cast<std::uint32_t>(p / 4));
              const std::uint32_t words[] = {w.x, w.y, w.z, w.w};
              pixel = math::bernoulli_draw(words[p % 4], pixel) ? 255 : 0;
            }
            want[at(r * columns + p)] = pixel;
            value.add(r * columns + p, pixel / 255.0);
          }
        }
        EXPECT_EQ(d.get<std::uint8_t>(target), want)
            << "indexing " << static_cast<int>(indexing) << ", binarize " << static_cast<int>(binarize);
        expect_close(d.get(input), value, 1.2e-7, "input");  // one product, one rounded constant
      }
    }
  }
}

TEST_P(Ops, RingBringsBatchesInOrder) {
  constexpr std::int64_t slots = 3, rows = 5, columns = 17;
  const auto ring = lab()->open_ring(slots, rows, columns);
  EXPECT_EQ(ring->device().shape, (Shape{slots * rows, columns}));
  EXPECT_EQ(ring->device().dtype, DType::u8);
  const Schedule schedule{.batches_per_epoch = 100, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f};
  constexpr std::uint32_t first = 4, end = 12;  // as a run does that is resumed
  const Tensor state = lab().put(state_at(1, first, schedule));
  Buffer fault(*lab(), 8, Memory::pinned, "fault");
  std::vector<Tensor> targets;
  for (std::uint32_t batch = first; batch < end; ++batch) {
    const Bytes data = pixels(rows * columns, 50 + batch);
    std::memcpy(ring->acquire(batch), data.data(), data.size());
    ring->submit();
    targets.push_back(lab().make({rows, columns}, DType::u8));
    lab()->run(GatherBatch{.source = ring->device(),
                           .state = state,
                           .indexing = Indexing::ring,
                           .input = lab().make({rows, columns}),
                           .target = targets.back()});
    ring->release();
    lab()->run(Advance{.state = state, .schedule = schedule, .fault = {fault.data(), DType::u64, {1}}});
  }
  for (std::uint32_t batch = first; batch < end; ++batch) {
    EXPECT_EQ(lab().get<std::uint8_t>(targets[batch - first]), pixels(rows * columns, 50 + batch)) << batch;
  }
}

// ---- Profiling ----------------------------------------------------------------------------------------------------

TEST_P(Ops, RangesAreTimed) {
  Lab& d = next();
  EXPECT_THROW(d->stop_timing(), Error);
  const Tensor x = d.put({3, 4}, normals(12, 1)), y = d.make({3, 5});
  const Tensor weight = d.put({5, 4}, normals(20, 2)), bias = d.put({5}, normals(5, 3));
  const Backend::Range before(*d, "before");  // began earlier, so it is not timed
  d->start_timing();
  {
    const Backend::Range outer(*d, "outer");
    for (int i = 0; i < 2; ++i) {
      const Backend::Range inner(*d, i == 0 ? "inner0" : "inner1");
      d->run(DenseForward{.x = x, .weight = weight, .bias = bias, .activation = Activation::relu, .y = y, .mask = {}});
    }
    const Backend::Range last(*d, "last");
  }
  const std::vector<RangeTime> times = d->stop_timing();
  std::vector<std::string> all, innermost;
  for (const RangeTime& t : times) {
    all.push_back(t.path);
    if (t.innermost) innermost.push_back(t.path);
    EXPECT_GE(t.microseconds, 0.0) << t.path;
    EXPECT_GE(t.start, 0.0) << t.path;
    EXPECT_LE(t.start + t.microseconds, times[0].microseconds * 1.001 + 1) << t.path << " ends within `outer`";
  }
  using Paths = std::vector<std::string>;
  EXPECT_EQ(all, (Paths{"outer", "outer/inner0", "outer/inner0/dense_forward", "outer/inner1",
                        "outer/inner1/dense_forward", "outer/last"}));
  EXPECT_EQ(innermost, (Paths{"outer/inner0/dense_forward", "outer/inner1/dense_forward", "outer/last"}));
  EXPECT_EQ(times[0].start, 0.0);
  EXPECT_GT(times[0].microseconds, 0.0);
  EXPECT_THROW(d->stop_timing(), Error);
}

// ---- Latent -----------------------------------------------------------------------------------------------------

struct Latent {
  LatentCase c;
  StepState state;
  Floats stats, dz;

  explicit Latent(const LatentCase& size)
      : c(size),
        state(some_state()),
        stats(normals(size.rows * 2 * size.latent, 1, 1.5f)),
        dz(normals(size.rows * size.samples * size.latent, 2)) {
    state.row0 = 1000;
  }
  double mu(std::int64_t r, std::int64_t d) const { return stats[at(r * 2 * c.latent + d)]; }
  double s(std::int64_t r, std::int64_t d) const { return stats[at(r * 2 * c.latent + c.latent + d)]; }
  std::int64_t z(std::int64_t r, std::int64_t sample, std::int64_t d) const {
    return (r * c.samples + sample) * c.latent + d;
  }
  double eps(std::int64_t r, std::int64_t sample, std::int64_t d) const {
    const math::Draw draw{state.seed, Purpose::latent, state.noise_step, state.row0 + static_cast<std::uint32_t>(r),
                          static_cast<std::uint32_t>(sample)};
    return math::normals(draw, static_cast<std::uint32_t>(d / 4)).v[d % 4];
  }
};

// Scratch that the unfused kernels ask for; none for the fused.
Tensor scratch_for(Lab& d, LossVariant kernels, std::int64_t rows, std::int64_t samples, std::int64_t columns) {
  const std::int64_t n = kernels == LossVariant::unfused ? rows * samples * columns : 0;
  return n ? d.make({n}) : Tensor{};
}

TEST_P(Ops, SampleLatent) {
  for (const LatentCase& c : latent_cases) {
    for (Posterior posterior : posteriors) {
      const Latent v(c);
      Expected z(c.rows * c.samples * c.latent), kl(ceil_div(c.rows, latent_tile) * c.latent);
      for (std::int64_t r = 0; r < c.rows; ++r) {
        for (std::int64_t i = 0; i < c.latent; ++i) {
          // KL: the terms of its formula nearly cancel at times; each is rounded by itself.
          const std::int64_t sum = r / latent_tile * c.latent + i;
          const double sigma = math::posterior_sigma(posterior, v.s(r, i));
          kl.add(sum, math::gaussian_kl(posterior, v.mu(r, i), v.s(r, i)));
          kl.magnitude[at(sum)] += sigma * sigma + v.mu(r, i) * v.mu(r, i) + 1 + std::abs(std::log(sigma * sigma));
          for (std::int64_t sample = 0; sample < c.samples; ++sample) {
            z.add(v.z(r, sample, i), v.mu(r, i));
            z.add(v.z(r, sample, i), sigma * v.eps(r, sample, i));
          }
        }
      }
      for (LossVariant kernels : both_kernels) {
        Lab& d = next();
        SampleLatent a;
        a.stats = d.put({c.rows, 2 * c.latent}, v.stats);
        a.state = d.put(v.state);
        a.posterior = posterior;
        a.variant = kernels;
        a.z = d.make({c.rows, c.samples, c.latent});
        a.kl_partial = d.make({ceil_div(c.rows, latent_tile), c.latent});
        a.scratch = scratch_for(d, kernels, c.rows, c.samples, c.latent);
        d->run(a);
        const std::string which = cat("posterior ", static_cast<int>(posterior), ", kernels ",
                                      static_cast<int>(kernels), ", latent ", c.latent);
        // What arithmetic.h allows a GPU: sigma errs by 3e-7 + |s| 2^-24, |s| below 6 here; and a rounding. In the KL
        // it counts for a part of the magnitude; the rest is the sum over a tile's rows.
        expect_close(d.get(a.z), z, 1e-6, "z, " + which);
        expect_close(d.get(a.kl_partial), kl, 1e-6, "kl, " + which);
      }
    }
  }
}

// mu = 0 and sigma = 1 leave z = epsilon: the same draws on every device, to the last bit.
TEST_P(Ops, NoiseIsTheSameBitsEverywhere) {
  constexpr std::int64_t rows = 300, samples = 3, latent = 21;
  Floats stats(rows * 2 * latent, 0.0f);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < latent; ++i) stats[at((2 * r + 1) * latent + i)] = 1.0f;
  const StepState state = some_state(77);
  Floats eps;
  for (std::uint32_t r = 0; r < rows; ++r)
    for (std::uint32_t sample = 0; sample < samples; ++sample)
      for (std::uint32_t i = 0; i < latent; ++i)
        eps.push_back(
            math::normals({state.seed, Purpose::latent, state.noise_step, state.row0 + r, sample}, i / 4).v[i % 4]);
  for (LossVariant kernels : both_kernels) {
    Lab& d = next();
    SampleLatent a;
    a.stats = d.put({rows, 2 * latent}, stats);
    a.state = d.put(state);
    a.posterior = Posterior::sigma;
    a.variant = kernels;
    a.z = d.make({rows, samples, latent});
    a.kl_partial = d.make({ceil_div(rows, latent_tile), latent});
    a.scratch = scratch_for(d, kernels, rows, samples, latent);
    d->run(a);
    expect_same_bits(d.get(a.z), eps, cat("kernels ", static_cast<int>(kernels)));
  }
}

TEST_P(Ops, SampleLatentBackward) {
  for (const LatentCase& c : latent_cases) {
    for (Posterior posterior : posteriors) {
      const Latent v(c);
      const double kl_scale = 0.25;
      Expected dstats(c.rows * 2 * c.latent);
      for (std::int64_t r = 0; r < c.rows; ++r) {
        for (std::int64_t i = 0; i < c.latent; ++i) {
          const std::int64_t mu = r * 2 * c.latent + i, s = mu + c.latent;
          for (std::int64_t sample = 0; sample < c.samples; ++sample) {
            const double dz = v.dz[at(v.z(r, sample, i))];
            dstats.add(mu, dz);
            dstats.add(s, dz * math::sample_slope(posterior, v.s(r, i), v.eps(r, sample, i)));
          }
          const auto kl = math::gaussian_kl_grad(posterior, v.mu(r, i), v.s(r, i));
          dstats.add(mu, kl_scale * kl.mu);
          dstats.add(s, kl_scale * kl.s);
          dstats.magnitude[at(s)] += 1 + std::abs(v.s(r, i));  // of the parts of kl.s that may cancel
        }
      }
      for (LossVariant kernels : both_kernels) {
        Lab& d = next();
        SampleLatentBackward a;
        a.stats = d.put({c.rows, 2 * c.latent}, v.stats);
        a.dz = d.put({c.rows, c.samples, c.latent}, v.dz);
        a.state = d.put(v.state);
        a.posterior = posterior;
        a.variant = kernels;
        a.kl_scale = static_cast<float>(kl_scale);
        a.dstats = d.make({c.rows, 2 * c.latent});
        a.scratch = scratch_for(d, kernels, c.rows, c.samples, c.latent);
        d->run(a);
        // sigma as above, by 7e-7 at most; seven roundings of products and sums, of 6e-8 each.
        expect_close(d.get(a.dstats), dstats, 1.2e-6,
                     cat("posterior ", static_cast<int>(posterior), ", kernels ", static_cast<int>(kernels)));
      }
    }
  }
}

TEST_P(Ops, SampledKl) {
  for (const LatentCase& c : latent_cases) {
    for (Posterior posterior : posteriors) {
      const Latent v(c);
      Expected kl(c.rows * c.samples), dstats(c.rows * 2 * c.latent);
      const float scale = -0.5f;
      const Floats dkl = normals(c.rows * c.samples, 3);
      for (std::int64_t r = 0; r < c.rows; ++r) {
        for (std::int64_t i = 0; i < c.latent; ++i) {
          const double m = v.mu(r, i), s = v.s(r, i), sigma = math::posterior_sigma(posterior, s);
          const std::int64_t mu = r * 2 * c.latent + i;
          for (std::int64_t sample = 0; sample < c.samples; ++sample) {
            const std::int64_t draw = r * c.samples + sample;
            const double eps = v.eps(r, sample, i), z = m + sigma * eps, dz = v.dz[at(v.z(r, sample, i))];
            kl.add(draw, 0.5 * z * z);
            kl.add(draw, -0.5 * eps * eps);
            kl.add(draw, -std::log(std::abs(sigma)));
            kl.magnitude[at(draw)] += m * m + sigma * sigma * eps * eps;  // whose sum may cancel in z
            const double weight = double{scale} + double{dkl[at(draw)]};
            const double slope = math::sample_slope(posterior, s, eps);
            const double of_s = posterior == Posterior::log_variance ? 0.5 : 1 / s;  // d log sigma / ds
            dstats.add(mu, dz);
            dstats.add(mu, weight * m);
            dstats.add(mu, weight * sigma * eps);
            dstats.add(mu + c.latent, dz * slope);
            dstats.add(mu + c.latent, weight * m * slope);
            dstats.add(mu + c.latent, weight * sigma * eps * slope);
            dstats.add(mu + c.latent, -weight * of_s);
          }
        }
      }
      for (LossVariant kernels : both_kernels) {
        Lab& d = next();
        const std::string which = cat("posterior ", static_cast<int>(posterior), ", kernels ",
                                      static_cast<int>(kernels), ", latent ", c.latent);
        SampleLatent a;
        a.stats = d.put({c.rows, 2 * c.latent}, v.stats);
        a.state = d.put(v.state);
        a.posterior = posterior;
        a.variant = kernels;
        a.z = d.make({c.rows, c.samples, c.latent});
        a.scratch = scratch_for(d, kernels, c.rows, c.samples, c.latent);
        d->run(a);
        const Floats alone = d.get(a.z);
        a.z = d.make(a.z.shape);
        a.kl_partial = d.make({ceil_div(c.rows, latent_tile), c.latent});
        a.sampled_kl = d.make({c.rows, c.samples});
        d->run(a);
        expect_same_bits(d.get(a.z), alone, "z, " + which);
        // sigma's error, twice in its square; the sum over the dimensions.
        expect_close(d.get(a.sampled_kl), kl, 2e-6, "sampled_kl, " + which);
        const Floats closed = d.get(a.kl_partial);
        a.kl_partial = d.make(a.kl_partial.shape);
        const Tensor together = a.kl_partial;
        a.sampled_kl = {};
        d->run(a);
        expect_same_bits(d.get(together), closed, "kl, " + which);

        SampleLatentBackward b;
        b.stats = a.stats;
        b.dz = d.put({c.rows, c.samples, c.latent}, v.dz);
        b.state = a.state;
        b.posterior = posterior;
        b.variant = kernels;
        b.kl_scale = 0.0f;
        b.sampled_kl_scale = scale;
        b.dsampled_kl = d.put({c.rows, c.samples}, dkl);
        b.dstats = d.make({c.rows, 2 * c.latent});
        b.scratch = scratch_for(d, kernels, 2 * c.rows, c.samples, c.latent);
        d->run(b);
        expect_close(d.get(b.dstats), dstats, 2e-6, "dstats, " + which);
      }
    }
  }
}

// A weight of 0 leaves out what is infinite.
TEST_P(Ops, NoGradientOfAKlThatDoesNotCount) {
  const Floats stats = {0.0f, 100.0f, 0.0f, 100.0f};  // [2, 2]: e^100 is no float, e^50 is one
  for (LossVariant kernels : both_kernels) {
    Lab& d = next();
    SampleLatentBackward a;
    a.stats = d.put({2, 2}, stats);
    a.dz = d.put({2, 1, 1}, Floats{1.0f, 2.0f});
    a.state = d.put(some_state());
    a.variant = kernels;
    a.kl_scale = 0.0f;
    a.dstats = d.make({2, 2});
    a.scratch = scratch_for(d, kernels, 2, 1, 1);
    d->run(a);
    for (const float g : d.get(a.dstats)) EXPECT_TRUE(std::isfinite(g)) << g;
  }
}

TEST_P(Ops, ImportanceBound) {
  struct Case {
    std::int64_t rows, samples, chunks;
  };
  for (const Case c : {Case{1, 1, 1}, Case{3, 5, 1}, Case{33, 50, 2}, Case{5, 31, 29}, Case{2, 1000, 1}}) {
    const std::int64_t draws = c.rows * c.samples;
    // Losses of hundreds of nats that differ by some.
    const Floats nll = normals(draws * c.chunks, 1, 3.0f, 500.0f), kl = normals(draws, 2, 2.0f, 20.0f);
    const double scale = 0.01;
    Expected loss(c.rows), dkl(draws), dnll(draws * c.chunks);
    for (std::int64_t r = 0; r < c.rows; ++r) {
      std::vector<double> weights;
      double largest = -1e300, sum = 0;
      for (std::int64_t i = r * c.samples; i < (r + 1) * c.samples; ++i) {
        double w = -double{kl[at(i)]};
        for (std::int64_t k = 0; k < c.chunks; ++k) w -= double{nll[at(i * c.chunks + k)]};
        weights.push_back(w);
        largest = std::max(largest, w);
      }
      for (const double w : weights) sum += std::exp(w - largest);
      loss.add(r, -(largest + std::log(sum / static_cast<double>(c.samples))));
      for (std::int64_t s = 0; s < c.samples; ++s) {
        const std::int64_t draw = r * c.samples + s;
        const double share = scale * std::exp(weights[at(s)] - largest) / sum;
        dkl.add(draw, share);
        for (std::int64_t k = 0; k < c.chunks; ++k) dnll.add(draw * c.chunks + k, share);
      }
    }
    for (LossVariant kernels : both_kernels) {
      Lab& d = next();
      const std::string which = cat(c.rows, " rows, ", c.samples, " samples, kernels ", static_cast<int>(kernels));
      // The unfused kernels keep the logarithm of a weight as a float: it errs by half an ulp of its size.
      const double nats = kernels == LossVariant::unfused ? 500.0 * static_cast<double>(c.chunks) * 6e-8 : 0;
      ImportanceBound a;
      a.nll_partial = d.put({draws, c.chunks}, nll);
      a.sampled_kl = d.put({c.rows, c.samples}, kl);
      a.variant = kernels;
      a.grad_scale = static_cast<float>(scale);
      a.loss = d.make({c.rows});
      a.scratch = scratch_for(d, kernels, c.rows, c.samples + 2, 1);
      d->run(a);
      const Floats alone = d.get(a.loss);
      expect_close(alone, loss, 3e-7, "loss alone, " + which);
      a.loss = d.make({c.rows});
      a.dnll_partial = d.make({draws, c.chunks});
      a.dsampled_kl = d.make({c.rows, c.samples});
      d->run(a);
      expect_same_bits(d.get(a.loss), alone, "loss, " + which);
      // An exponential, a sum, a quotient, a product. What the exponential is of, up to 60 nats below the largest, is
      // a float, and errs by half an ulp of 2^-18.
      // A weight below e^-87 is 0.
      expect_close(d.get(a.dsampled_kl), dkl, 3e-6 + 2 * nats, "dsampled_kl, " + which);
      expect_close(d.get(a.dnll_partial), dnll, 3e-6 + 2 * nats, "dnll_partial, " + which);
      const Floats kept = d.get(a.dsampled_kl);
      a.loss = a.dnll_partial = {};
      a.dsampled_kl = d.make({c.rows, c.samples});
      d->run(a);
      expect_same_bits(d.get(a.dsampled_kl), kept, "gradient alone, " + which);
    }
  }
}

TEST_P(Ops, ImportanceBoundKeepsNan) {
  for (LossVariant kernels : both_kernels) {
    for (const std::int64_t planted : {0, 4, 39}) {
      Lab& d = next();
      Floats nll(4 * 40, 1.0f);
      nll[at(40 + planted)] = nan;
      nll[at(80 + planted)] = infinity;  // no weight beside the others
      ImportanceBound a;
      std::fill(nll.begin() + 120, nll.end(), infinity);
      a.nll_partial = d.put({4 * 40, 1}, nll);
      a.sampled_kl = d.put({4, 40}, Floats(4 * 40, 2.0f));
      a.variant = kernels;
      a.loss = d.make({4});
      a.dnll_partial = d.make({4 * 40, 1});
      a.dsampled_kl = d.make({4, 40});
      a.scratch = scratch_for(d, kernels, 4, 42, 1);
      d->run(a);
      const Floats loss = d.get(a.loss), dkl = d.get(a.dsampled_kl), dnll = d.get(a.dnll_partial);
      EXPECT_FLOAT_EQ(loss[0], 3.0f);
      EXPECT_TRUE(std::isnan(loss[1]));
      EXPECT_FLOAT_EQ(loss[2], 3.0f - std::log(39.0f / 40));
      EXPECT_FALSE(std::isfinite(loss[3]));
      for (std::int64_t i = 0; i < 120; ++i) {
        EXPECT_EQ(std::isnan(dkl[at(i)]), i / 40 == 1) << i;
        EXPECT_EQ(std::isnan(dnll[at(i)]), i / 40 == 1) << i;
      }
      EXPECT_EQ(dkl[at(80 + planted)], 0.0f);
    }
  }
}

TEST_P(Ops, SampleLatentKeepsNan) {
  const LatentCase c{40, 2, 3};
  for (Posterior posterior : posteriors) {
    for (LossVariant kernels : both_kernels) {
      for (const std::int64_t planted : {std::int64_t{1}, c.latent + 1}) {  // mu or s of unit 1, in row 35
        Lab& d = next();
        Latent v(c);
        v.stats[at(35 * 2 * c.latent + planted)] = nan;
        const Tensor stats = d.put({c.rows, 2 * c.latent}, v.stats), state = d.put(v.state);
        const Tensor scratch = scratch_for(d, kernels, c.rows, c.samples, c.latent);
        const Tensor z = d.make({c.rows, c.samples, c.latent}), kl = d.make({2, c.latent});
        const Tensor dstats = d.make({c.rows, 2 * c.latent});
        d->run(SampleLatent{.stats = stats,
                            .state = state,
                            .posterior = posterior,
                            .variant = kernels,
                            .z = z,
                            .kl_partial = kl,
                            .scratch = scratch});
        d->run(SampleLatentBackward{.stats = stats,
                                    .dz = d.put(z.shape, v.dz),
                                    .state = state,
                                    .posterior = posterior,
                                    .variant = kernels,
                                    .kl_scale = 1.0f,
                                    .dstats = dstats,
                                    .scratch = scratch});
        const Floats got_z = d.get(z), got_kl = d.get(kl), got = d.get(dstats);
        for (std::int64_t i = 0; i < z.count(); ++i) {
          EXPECT_EQ(std::isnan(got_z[at(i)]), i / (c.samples * c.latent) == 35 && i % c.latent == 1) << i;
        }
        for (std::int64_t i = 0; i < 2 * c.latent; ++i) EXPECT_EQ(std::isnan(got_kl[at(i)]), i == c.latent + 1) << i;
        EXPECT_TRUE(std::isnan(got[at(35 * 2 * c.latent + planted)]));
        for (std::int64_t i = 0; i < 35 * 2 * c.latent; ++i) EXPECT_FALSE(std::isnan(got[at(i)])) << i;
      }
    }
  }
}

// ---- Likelihood -------------------------------------------------------------------------------------------------

struct LikelihoodCase {
  Likelihood likelihood;
  LossVariant kernels;
  bool bytes, grad, in_place;
  bool halves = false;  // output and gradient are bf16
  bool value = true, weighed = false;
  PixelMean mean = PixelMean::identity;

  std::int64_t columns(const PixelCase& c) const { return outputs_of_pixel(likelihood) * c.pixels; }
};

// What decoders say: logits or means, and behind those of a row raw log variances on both sides of the least one.
Floats decoder_outputs(const PixelCase& c, Likelihood likelihood, float deviation) {
  const std::int64_t columns = outputs_of_pixel(likelihood) * c.pixels;
  Floats output = normals(c.rows * c.samples * columns, 1, deviation);
  for (std::size_t i = 0; i < output.size(); ++i)
    if (i % at(columns) >= at(c.pixels)) output[i] -= 7;
  return output;
}

// The gradient of the objective with respect to the loss of a chunk, beside a grad_scale of 0.125.
Floats loss_weights(const PixelCase& c) {
  return normals(c.rows * c.samples * ceil_div(c.pixels, pixel_chunk), 3, 0.5f);
}

LikelihoodLoss make_loss(Lab& d, const LikelihoodCase& k, const PixelCase& c, const Floats& output,
                         const Bytes& target) {
  LikelihoodLoss a;
  if (k.halves) {
    std::vector<math::Bf16> halves;
    for (const float o : output) halves.push_back(math::to_bf16(o));
    a.output = d.put({c.rows * c.samples, k.columns(c)}, halves);
  } else {
    a.output = d.put({c.rows * c.samples, k.columns(c)}, output);
  }
  if (k.bytes) {
    a.target = d.put({c.rows, c.pixels}, target);
  } else {
    Floats values(target.size());
    for (std::size_t i = 0; i < target.size(); ++i) values[i] = math::pixel_value<float>(target[i]);
    a.target = d.put({c.rows, c.pixels}, values);
  }
  a.likelihood = k.likelihood;
  a.variant = k.kernels;
  a.variance = 0.3f;
  a.mean = k.mean;
  a.grad_scale = 0.125f;
  const Shape partials{c.rows * c.samples, ceil_div(c.pixels, pixel_chunk)};
  if (k.value) a.nll_partial = d.make(partials);
  if (k.weighed) a.dnll_partial = d.put(partials, loss_weights(c));
  if (k.grad) a.grad = k.in_place ? a.output : d.make(a.output.shape, a.output.dtype);
  if (k.value) a.scratch = scratch_for(d, k.kernels, c.rows * c.samples, 1, c.pixels);
  return a;
}

std::vector<LikelihoodCase> likelihood_variants() {
  std::vector<LikelihoodCase> all;
  for (Likelihood likelihood : likelihoods) {
    for (LossVariant kernels : all_kernels) {
      for (const bool bytes : {true, false}) {
        for (const bool halves : {false, true}) {
          if (halves && kernels == LossVariant::unfused) continue;  // which takes floats only
          all.push_back({likelihood, kernels, bytes, true, false, halves});
          all.push_back({likelihood, kernels, bytes, true, true, halves});
          all.push_back({likelihood, kernels, bytes, false, false, halves});
          all.push_back({likelihood, kernels, bytes, true, true, halves, false, false});
          all.push_back({likelihood, kernels, bytes, true, false, halves, false, true});
          all.push_back({likelihood, kernels, bytes, true, true, halves, true, true});
          if (likelihood != Likelihood::gaussian_learned) continue;
          all.push_back({likelihood, kernels, bytes, true, false, halves, true, false, PixelMean::sigmoid});
          all.push_back({likelihood, kernels, bytes, true, true, halves, false, true, PixelMean::sigmoid});
        }
      }
    }
  }
  return all;
}

// A tensor of f32 or bf16, as floats.
Floats floats_of(const Lab& d, const Tensor& t) {
  if (t.dtype == DType::f32) return d.get(t);
  Floats values;
  for (const math::Bf16 b : d.get<math::Bf16>(t)) values.push_back(math::to_float(b));
  return values;
}

// The loss of a pixel and the gradient of what the decoder says of it, in float64; and how large the numbers are that
// they are made of.
struct PixelReference {
  double value, value_size;
  double grad[2], grad_size[2];
};

PixelReference reference_of(const LikelihoodCase& k, double o, double raw, double x) {
  constexpr double variance = 0.3f;
  switch (k.likelihood) {
    case Likelihood::bernoulli: {
      const auto v = math::bernoulli(o, x);
      return {v.value, std::abs(v.value) + 1, {v.grad}, {std::abs(v.grad) + 1}};  // 1 + e^-|l| is rounded beside 1
    }
    case Likelihood::gaussian: {
      const auto v = math::gaussian(o, x, 0.5 / variance, 0.5 * std::log(2 * M_PI * variance));
      return {v.value, std::abs(v.value) + 1, {v.grad}, {std::abs(v.grad) + std::abs(o) / variance}};
    }
    case Likelihood::gaussian_learned: {
      const bool squashed = k.mean == PixelMean::sigmoid;
      const auto v = squashed ? math::gaussian_learned<PixelMean::sigmoid>({o, raw}, x)
                              : math::gaussian_learned<PixelMean::identity>({o, raw}, x);
      const double m = squashed ? 1 / (1 + std::exp(-o)) : o, slope = squashed ? m * (1 - m) : 1;
      const double t = raw - math::least_log_variance, above = 1 / (1 + std::exp(-t));
      const double precision = math::largest_precision * (1 - above), d = std::abs(m - x);
      // t, which is rounded beside 16, is an exponent: the precision errs by 2e-6 of itself, five times the tolerance.
      // So does d, by half an ulp of m or of 1, in d^2 e^-v.
      const double square = precision * d * (5 * d + std::abs(m) + 1);
      return {v.value,
              square + std::abs(raw) + 12,
              {v.grad.first, v.grad.second},
              {slope * precision * (5 * d + std::abs(m) + 1), 5 * above * (1 + square)}};
    }
  }
  return {};
}

TEST_P(Ops, LikelihoodValueAndGradient) {
  for (const PixelCase& c : pixel_cases) {
    const std::int64_t outputs = c.rows * c.samples, chunks = ceil_div(c.pixels, pixel_chunk);
    const Bytes target = pixels(c.rows * c.pixels, 2);
    const Floats weights = loss_weights(c);
    std::map<std::pair<Likelihood, PixelMean>, std::vector<PixelReference>> references;
    for (const LikelihoodCase& k : likelihood_variants()) {
      const std::int64_t columns = k.columns(c);
      const bool has_raw = columns > c.pixels;
      Floats output = decoder_outputs(c, k.likelihood, 4.0f);
      for (float& o : output) o = math::to_float(math::to_bf16(o));  // so that one reference serves f32 and bf16
      Expected nll(outputs * chunks), grad(outputs * columns);
      std::vector<PixelReference>& reference = references[{k.likelihood, k.mean}];
      for (std::int64_t i = 0; i < outputs * c.pixels; ++i) {
        const std::int64_t row = i / c.pixels, p = i % c.pixels, first = row * columns + p;
        const std::int64_t chunk = row * chunks + p / pixel_chunk;
        if (reference.size() == at(i))
          reference.push_back(reference_of(k, output[at(first)], has_raw ? output[at(first + c.pixels)] : 0,
                                           target[at(row / c.samples * c.pixels + p)] / 255.0));
        const PixelReference& v = reference[at(i)];
        nll.value[at(chunk)] += v.value;
        nll.magnitude[at(chunk)] += v.value_size;
        const double more = k.weighed ? weights[at(chunk)] : 0.0;
        const auto expect_gradient = [&](std::int64_t to, double slope, double size) {
          grad.value[at(to)] = (0.125 + more) * slope;
          grad.magnitude[at(to)] = (0.125 + std::abs(more)) * size;
        };
        expect_gradient(first, v.grad[0], v.grad_size[0]);
        if (has_raw) expect_gradient(first + c.pixels, v.grad[1], v.grad_size[1]);
      }
      Lab& d = next();
      const LikelihoodLoss a = make_loss(d, k, c, output, target);
      d->run(a);
      const std::string which =
          cat("likelihood ", static_cast<int>(k.likelihood), ", mean ", static_cast<int>(k.mean), ", kernels ",
              static_cast<int>(k.kernels), k.bytes ? ", bytes" : "", k.halves ? ", bf16" : "",
              k.value ? "" : ", gradient alone", k.weighed ? ", weighed" : "", ", pixels ", c.pixels);
      if (k.value)
        expect_close(d.get(a.nll_partial), nll, 5e-7, "nll, " + which);  // sums of up to 256 terms a lane or thread
      if (!k.grad) continue;
      if (!k.halves) {
        expect_close(d.get(a.grad), grad, 4e-7, "grad, " + which);
        continue;
      }
      Expected rounded = grad;  // to 8 bits: by 1/256 at most, besides what the float erred by (1e-4 / 256 = 4e-7)
      for (std::size_t i = 0; i < grad.value.size(); ++i)
        rounded.magnitude[i] = std::abs(grad.value[i]) + 1e-4 * grad.magnitude[i];
      expect_close(floats_of(d, a.grad), rounded, 1.0 / 256, "grad, " + which);
    }
  }
}

// Behind a great raw log variance the loss is its half, and a squared distance is nothing; far below the least one the
// variance is that of a grey level, and an output moves it no more.
TEST_P(Ops, LearnedVarianceAtTheEndsOfItsRange) {
  const PixelCase c{1, 1, 5};
  for (LossVariant kernels : all_kernels) {
    for (const float raw : {1e6f, -1e6f}) {
      Lab& d = next();
      Floats output(10, 0.5f);
      for (int p = 5; p < 10; ++p) output[at(p)] = raw;
      const LikelihoodLoss a =
          make_loss(d, {Likelihood::gaussian_learned, kernels, true, true, false}, c, output, Bytes(5, 0));
      d->run(a);
      const double log_2_pi = std::log(2 * M_PI), least = -2 * std::log(255.0);
      const double of_pixel = raw > 0 ? (raw + log_2_pi) / 2 : (0.25 * 65025 + least + log_2_pi) / 2;
      EXPECT_NEAR(d.get(a.nll_partial)[0], 5 * of_pixel, 1e-6 * 5 * of_pixel);
      const Floats grad = d.get(a.grad);
      for (int p = 0; p < 5; ++p) {
        EXPECT_NEAR(grad[at(p)], raw > 0 ? 0 : 0.125 * 0.5 * 65025, 1e-3);
        EXPECT_NEAR(grad[at(5 + p)], raw > 0 ? 0.125 * 0.5 : 0, 1e-8);
      }
    }
  }
}

// The product of factors must neither overflow (all 2, at logit 0) nor be lost (all 1).
TEST_P(Ops, BernoulliAtTheEndsOfItsRange) {
  const PixelCase c{2, 1, 4097};
  for (LossVariant kernels : all_kernels) {
    for (const float logit : {0.0f, 90.0f, -90.0f, 1e6f, -1e6f}) {
      for (const std::uint8_t x : {0, 255}) {
        Lab& d = next();
        const LikelihoodLoss a = make_loss(d, {Likelihood::bernoulli, kernels, true, true, false}, c,
                                           Floats(at(2 * c.pixels), logit), Bytes(at(2 * c.pixels), x));
        d->run(a);
        const auto v = math::bernoulli(double{logit}, x / 255.0);
        const Floats nll = d.get(a.nll_partial), grad = d.get(a.grad);
        EXPECT_NEAR(nll[0], 4096 * v.value, 4096 * 5e-7 * v.value + 1e-30);
        EXPECT_NEAR(nll[1], v.value, 5e-7 * v.value + 1e-30);
        for (float g : grad) ASSERT_NEAR(g, 0.125 * v.grad, 1e-7);
      }
    }
  }
}

TEST_P(Ops, LikelihoodKeepsNanAndInfinity) {
  const PixelCase c{3, 2, 4100};
  const Bytes bytes = pixels(c.rows * c.pixels, 2);
  for (const LikelihoodCase& k : likelihood_variants()) {
    const Floats finite = decoder_outputs(c, k.likelihood, 1.0f);
    for (const float planted : {nan, infinity, -infinity}) {
      for (std::int64_t column :
           {std::int64_t{0}, std::int64_t{777}, k.columns(c) - 1}) {  // the last may be a variance
        const std::int64_t p = column % c.pixels;
        Lab& d = next();
        Floats output = finite;
        Bytes target = bytes;
        output[at(3 * k.columns(c) + column)] = planted;
        target[at(c.pixels + p)] = planted > 0 ? 0 : 255;  // the logit's opposite: an infinite loss
        const LikelihoodLoss a = make_loss(d, k, c, output, target);
        d->run(a);
        const Floats nll = k.value ? d.get(a.nll_partial) : Floats{};
        for (std::size_t i = 0; i < nll.size(); ++i) {
          EXPECT_EQ(!std::isfinite(nll[i]), i == at(3 * 2 + p / pixel_chunk)) << i << ", planted " << planted;
        }
        if (!k.grad) continue;
        const Floats grad = floats_of(d, a.grad);
        for (std::int64_t i = 0; i < a.grad.count(); ++i) {
          const bool of_pixel = i / k.columns(c) == 3 && i % k.columns(c) % c.pixels == p;
          ASSERT_TRUE(std::isfinite(grad[at(i)]) || of_pixel) << i;
          ASSERT_TRUE(!std::isnan(planted) || !of_pixel || std::isnan(grad[at(i)])) << i;
        }
      }
    }
  }
}

// ---- Sums, update, next step ------------------------------------------------------------------------------------

// The losses of every model, and more of them: by column or not, of several samples or one.
std::vector<std::vector<PartialLoss>> losses_of(Lab& d, const LatentCase& c) {
  const std::int64_t chunks = 2, tiles = ceil_div(c.rows, latent_tile);
  const PartialLoss nll{
      .partial = d.put({c.rows * c.samples, chunks}, normals(c.rows * c.samples * chunks, 1, 50, 300)),
      .samples = c.samples},
      kl{.partial = d.put({tiles, c.latent}, normals(tiles * c.latent, 2, 1, 9)), .by_column = true},
      rows{.partial = d.put({c.rows}, normals(c.rows, 3, 20, 90))},
      columns{.partial = d.put({c.rows * c.samples, 3}, normals(c.rows * c.samples * 3, 4, 1, 9)),
              .samples = c.samples,
              .by_column = true};
  return {{nll}, {nll, kl}, {nll, kl, rows}, {columns, nll, rows, kl}};
}

TEST_P(Ops, Accumulate) {
  for (const LatentCase& c : latent_cases) {
    for (std::size_t which = 0; which < 4; ++which) {
      Lab& d = next();
      const std::vector<PartialLoss> losses = losses_of(d, c)[which];
      Accumulate a{.losses = {}, .state = d.put(some_state()), .sums = {}, .rows = c.rows};
      std::vector<double> want{10.0 + static_cast<double>(c.rows)};
      for (std::size_t k = 0; k < losses.size(); ++k) {
        a.losses[k] = losses[k];
        const Floats partial = d.get(losses[k].partial);
        const std::size_t first = want.size(), sums = at(losses[k].sums());
        want.resize(first + sums, 10.0);
        for (std::size_t i = 0; i < partial.size(); ++i)
          want[first + i % sums] += double{partial[i]} / static_cast<double>(losses[k].samples);
      }
      a.sums = d.put({std::ssize(want)}, std::vector<double>(want.size(), 10.0));
      d->run(a);
      const std::vector<double> sums = d.get<double>(a.sums);
      for (std::size_t i = 0; i < want.size(); ++i) {
        EXPECT_NEAR(sums[i], want[i], 1e-12 * want[i]) << i;  // sums of a few hundred doubles, in another order
      }
      EXPECT_EQ(d.state(a.state).bad_step, StepState::none);
    }
  }
}

TEST_P(Ops, AccumulateNotesALossThatIsNotFinite) {
  for (const float planted : {nan, infinity, -infinity}) {
    for (std::size_t in = 0; in < 4; ++in) {
      Lab& d = next();
      Floats values[4] = {normals(300, 1), normals(10, 2), normals(150, 3), normals(300, 4)};
      values[in][in == 1 ? 7 : values[in].size() - 1] = planted;
      const Tensor state = d.put(some_state(5));
      const Accumulate a{.losses = {{{.partial = d.put({150, 2}, values[0])},
                                     {.partial = d.put({5, 2}, values[1]), .by_column = true},
                                     {.partial = d.put({150}, values[2])},
                                     {.partial = d.put({100, 3}, values[3]), .samples = 2, .by_column = true}}},
                         .state = state,
                         .sums = d.put({8}, std::vector<double>(8)),
                         .rows = 150};
      d->run(a);
      EXPECT_EQ(d.state(state).bad_step, 5u) << in;
    }
  }
}

math::OptimizerSettings settings_for(OptimizerType type, float weight_decay) {
  math::OptimizerSettings o;
  o.type = type;
  o.learning_rate = 0.01f;
  o.momentum = type == OptimizerType::sgd ? 0.9f : 0.0f;
  o.weight_decay = weight_decay;
  return o;
}

constexpr OptimizerType optimizers[] = {OptimizerType::adam, OptimizerType::adagrad, OptimizerType::sgd};

TEST_P(Ops, OptimizerStep) {
  for (const std::int64_t n : parameter_counts) {
    for (OptimizerType type : optimizers) {
      for (const float weight_decay : {0.0f, 0.1f}) {
        Lab& d = next();
        const Floats p = normals(n, 1), g = normals(n, 2, 0.1f), m = normals(n, 3, 0.1f);
        Floats v = normals(n, 4, 0.1f), first = m;
        for (float& x : v) x *= x;
        if (type == OptimizerType::adagrad) first = v;  // a sum of squares
        OptimizerStep a;
        a.parameters = d.put({n}, p);
        a.gradients = d.put({n}, g);
        a.first_moment = d.put({n}, first);
        a.second_moment = d.put({n}, v);
        a.state = d.put(some_state());
        a.settings = settings_for(type, weight_decay);
        d->run(a);
        Expected want_p(n), want_m(n), want_v(n);
        for (std::int64_t i = 0; i < n; ++i) {
          double pi = p[at(i)], mi = first[at(i)], vi = v[at(i)];
          const double before = pi, gradient = std::abs(double{g[at(i)]}) + weight_decay * std::abs(pi);
          want_m.magnitude[at(i)] = std::abs(mi) + gradient * (type == OptimizerType::adagrad ? gradient : 1);
          math::optimizer_update(pi, double{g[at(i)]}, mi, vi, a.settings, double{some_state().correction1},
                                 double{some_state().correction2});
          want_p.value[at(i)] = pi;
          want_m.value[at(i)] = mi;
          want_v.add(i, vi);
          want_v.magnitude[at(i)] += gradient * gradient;
          // Eight roundings of up to 6e-8 each; the update's terms may cancel (m and the new gradient), so it errs
          // by some 1e-6 of its usual length.
          want_p.magnitude[at(i)] = std::abs(before) + std::abs(pi - before) + 1;
        }
        const std::string which = cat("optimizer ", static_cast<int>(type), ", n ", n);
        expect_close(d.get(a.parameters), want_p, 3e-7, "parameters, " + which);
        expect_close(d.get(a.first_moment), want_m, 4e-7, "first, " + which);
        expect_close(d.get(a.second_moment), want_v, 4e-7, "second, " + which);
        EXPECT_EQ(d.state(a.state).bad_update, StepState::none);
      }
    }
  }
}

// Roots and quotients are correctly rounded everywhere: gradients of all sizes and states that are 0 give the bits of
// the CPU. Half of the weights are 0, so that their update is seen to its last bit.
TEST_P(Ops, OptimizerGivesTheBitsOfTheCpu) {
  constexpr std::int64_t n = 20'001;
  Lab cpu("cpu");
  const StepState state = some_state();
  const auto expect_same = [&](const math::OptimizerSettings& settings, const Floats& p, const Floats& g,
                               const Floats& first, const Floats& second, const std::string& which) {
    std::vector<Floats> results;
    for (Lab* d : {&next(), &cpu}) {
      const Shape shape{static_cast<std::int64_t>(p.size())};
      const OptimizerStep a{.parameters = d->put(shape, p),
                            .gradients = d->put(shape, g),
                            .first_moment = d->put(shape, first),
                            .second_moment = d->put(shape, second),
                            .state = d->put(state),
                            .settings = settings};
      (*d)->run(a);
      for (const Tensor& t : {a.parameters, a.first_moment, a.second_moment}) results.push_back(d->get(t));
      EXPECT_EQ(d->state(a.state).bad_update, StepState::none) << which;
      d->clear();
    }
    for (std::size_t i = 0; i < 3; ++i) {
      constexpr const char* names[] = {"parameters, ", "first, ", "second, "};
      expect_same_bits(results[i], results[3 + i], names[i] + which);
    }
  };
  Floats p = normals(n, 1), g = normals(n, 2), first(n, 0.0f), second(n, 0.0f);
  for (std::int64_t i = 0; i < n; ++i) {
    g[at(i)] *= static_cast<float>(std::pow(10.0, -3 - 35.0 * static_cast<double>(i) / n));  // 1e-3 to 1e-38
    if (i % 2 == 0) p[at(i)] = 0;
    if (i % 4 < 2) continue;
    first[at(i)] = std::abs(g[at(i)]);
    second[at(i)] = g[at(i)] * g[at(i)];
  }
  for (const OptimizerType type : optimizers) {
    for (const float weight_decay : {0.0f, 0.1f}) {
      expect_same(settings_for(type, weight_decay), p, g, first, second,
                  cat("optimizer ", static_cast<int>(type), ", weight decay ", weight_decay));
    }
  }
  // The divisor whose reciprocal an approximation may get stuck below: 1 - 2^-24, with powers of two above it.
  math::OptimizerSettings hardest = settings_for(OptimizerType::adagrad, 0.0f);
  hardest.learning_rate = 0x1p-7f;
  hardest.epsilon = 0;
  Floats powers;
  for (int i = 30; i < 100; ++i) powers.push_back(std::exp2(-static_cast<float>(i)));
  const Floats zeros(powers.size()), squares(powers.size(), 0x1.fffffcp-1f);  // of 1 - 2^-24, as rounded
  ASSERT_EQ(std::sqrt(squares[0]), 0x1.fffffep-1f);
  expect_same(hardest, zeros, powers, squares, zeros, "1 / (1 - 2^-24)");
}

TEST_P(Ops, OptimizerDoesNothingAfterABadStep) {
  for (OptimizerType type : optimizers) {
    Lab& d = next();
    StepState s = some_state();
    s.bad_step = 4;
    const Floats p = normals(100, 1), m(100, 0.5f);
    const Tensor parameters = d.put({100}, p), first = d.put({100}, m), second = d.put({100}, m);
    d->run(OptimizerStep{.parameters = parameters,
                         .gradients = d.put({100}, p),
                         .first_moment = first,
                         .second_moment = second,
                         .state = d.put(s),
                         .settings = settings_for(type, 0.0f)});
    expect_same_bits(d.get(parameters), p, "parameters");
    expect_same_bits(d.get(first), m, "first");
    expect_same_bits(d.get(second), m, "second");
  }
}

// Such a weight keeps its value and its state; all others move.
TEST_P(Ops, OptimizerNotesWhatIsNotFinite) {
  constexpr std::int64_t n = 40'000, last = n - 1;
  for (OptimizerType type : optimizers) {
    for (const float planted : {nan, infinity}) {
      for (const bool in_gradient : {true, false}) {
        Lab& d = next();
        Floats p = normals(n, 1), g = normals(n, 2, 0.1f, 1.0f);
        const Floats state_before(n, 0.25f);
        (in_gradient ? g : p)[last] = planted;
        const Tensor state = d.put(some_state(5)), parameters = d.put({n}, p);
        const Tensor first = d.put({n}, state_before), second = d.put({n}, state_before);
        d->run(OptimizerStep{.parameters = parameters,
                             .gradients = d.put({n}, g),
                             .first_moment = first,
                             .second_moment = second,
                             .state = state,
                             .settings = settings_for(type, 0.0f)});
        EXPECT_EQ(d.state(state).bad_update, 5u) << static_cast<int>(type) << " " << planted << " " << in_gradient;
        EXPECT_EQ(d.state(state).bad_step, StepState::none);
        const Floats after = d.get(parameters);
        expect_same_bits({after[last]}, std::vector<float>{p[last]}, "the weight");
        EXPECT_EQ(d.get(first)[last], 0.25f);
        EXPECT_EQ(d.get(second)[last], 0.25f);
        for (std::size_t i = 0; i < last; ++i) ASSERT_NE(after[i], p[i]) << i;
      }
    }
  }
}

// A finite gradient whose square is not: the weight could never move again.
TEST_P(Ops, OptimizerNotesAStateThatOverflows) {
  for (OptimizerType type : {OptimizerType::adam, OptimizerType::adagrad}) {
    Lab& d = next();
    Floats p = normals(100, 1), g = normals(100, 2);
    g[37] = 1e30f;
    const Tensor state = d.put(some_state(5)), parameters = d.put({100}, p);
    const Tensor first = d.put({100}, Floats(100)), second = d.put({100}, Floats(100));
    d->run(OptimizerStep{.parameters = parameters,
                         .gradients = d.put({100}, g),
                         .first_moment = first,
                         .second_moment = second,
                         .state = state,
                         .settings = settings_for(type, 0.0f)});
    EXPECT_EQ(d.state(state).bad_update, 5u) << static_cast<int>(type);
    EXPECT_EQ(d.get(parameters)[37], p[37]);
    EXPECT_EQ(d.get(first)[37], 0.0f);
    EXPECT_EQ(d.get(second)[37], 0.0f);
  }
}

TEST_P(Ops, AdvanceMovesOnAndReportsFaults) {
  const Schedule schedule{.batches_per_epoch = 4, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f};
  Buffer page(*lab(), sizeof(std::uint64_t), Memory::pinned, "fault");
  const Tensor fault{page.data(), DType::u64, {1}};
  const auto advance_from = [&](const StepState& s) {
    *fault.as<std::uint64_t>() = StepState::none;
    const Tensor state = lab().put(s);
    lab()->run(Advance{.state = state, .schedule = schedule, .fault = fault});
    lab()->synchronize();
    return lab().state(state);
  };
  for (std::uint32_t step = 0; step < 9; ++step) {
    const StepState got = advance_from(state_at(77, step, schedule)), want = state_at(77, step + 1, schedule);
    EXPECT_EQ(got.step, step + 1);
    EXPECT_EQ(got.epoch, want.epoch);
    EXPECT_EQ(got.batch, want.batch);
    EXPECT_EQ(got.noise_step, want.noise_step);
    EXPECT_EQ(got.seed, 77u);
    EXPECT_FLOAT_EQ(got.correction1, want.correction1);
    EXPECT_FLOAT_EQ(got.correction2, want.correction2);
    EXPECT_EQ(*fault.as<std::uint64_t>(), StepState::none);
  }
  StepState s = state_at(77, 6, schedule);
  s.bad_update = 6;
  StepState got = advance_from(s);
  EXPECT_EQ(got.bad_step, 6u);
  EXPECT_EQ(got.bad_update, 6u);
  EXPECT_EQ(*fault.as<std::uint64_t>(), 6u);
  got.bad_update = 7;
  EXPECT_EQ(advance_from(got).bad_step, 6u);  // the first one stays
  s = state_at(77, 6, schedule);
  s.bad_step = 5;
  s.bad_update = 6;
  EXPECT_EQ(advance_from(s).bad_step, 5u);
  EXPECT_EQ(*fault.as<std::uint64_t>(), 5u);
}

// All at once gives the bits of one after the other, on sizes that leave blocks with tails and without.
TEST_P(Ops, FinishStepEqualsItsParts) {
  const Schedule schedule{.batches_per_epoch = 4, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f};
  Buffer page(*lab(), sizeof(std::uint64_t), Memory::pinned, "fault");
  const Tensor fault{page.data(), DType::u64, {1}};
  enum class Plant { nothing, loss, kl, further, gradient, an_earlier_fault };
  // The last has more losses than are looked through by every block.
  struct Size {
    std::int64_t parameters, rows;
  };
  for (const Size& size : {Size{1, 150}, Size{1023, 150}, Size{1024, 150}, Size{5001, 150}, Size{1500, 4500}}) {
    const std::int64_t n = size.parameters, rows = size.rows;
    for (const Plant plant :
         {Plant::nothing, Plant::loss, Plant::kl, Plant::further, Plant::gradient, Plant::an_earlier_fault}) {
      struct Outcome {
        Floats parameters, first, second;
        std::vector<double> sums;
        StepState state;
        std::uint64_t fault;
      };
      const auto finish = [&](bool at_once) {
        Lab& d = next();
        const std::int64_t kl_tiles = ceil_div(rows, latent_tile);
        Floats nll = normals(2 * rows, 1, 50.0f, 300.0f), kl = normals(kl_tiles * 6, 2), further = normals(rows, 5),
               g = normals(n, 3);
        StepState before = some_state(5);
        if (plant == Plant::loss) nll.back() = infinity;
        if (plant == Plant::kl) kl[17] = nan;
        if (plant == Plant::further) further[at(rows - 1)] = -infinity;
        if (plant == Plant::gradient) g[at(n - 1)] = nan;
        if (plant == Plant::an_earlier_fault) before.bad_update = before.bad_step = 2;
        const Tensor state = d.put(before);
        const FinishStep a{.losses = {.losses = {{{.partial = d.put({rows, 2}, nll)},
                                                  {.partial = d.put({kl_tiles, 6}, kl), .by_column = true},
                                                  {.partial = d.put({rows}, further)}}},
                                      .state = state,
                                      .sums = d.put({9}, std::vector<double>(9, 0.5)),
                                      .rows = rows},
                           .update = {.parameters = d.put({n}, normals(n, 4)),
                                      .gradients = d.put({n}, g),
                                      .first_moment = d.put({n}, Floats(at(n), 0.25f)),
                                      .second_moment = d.put({n}, Floats(at(n), 0.25f)),
                                      .state = state,
                                      .settings = settings_for(OptimizerType::adam, 0.0f)},
                           .advance = {.state = state, .schedule = schedule, .fault = fault}};
        *fault.as<std::uint64_t>() = StepState::none;
        if (at_once) {
          d->run(a);
        } else {
          d->run(a.losses);
          d->run(a.update);
          d->run(a.advance);
        }
        d->synchronize();
        return Outcome{d.get(a.update.parameters),
                       d.get(a.update.first_moment),
                       d.get(a.update.second_moment),
                       d.get<double>(a.losses.sums),
                       d.state(state),
                       *fault.as<std::uint64_t>()};
      };
      const Outcome once = finish(true), parts = finish(false);
      const std::string which = cat(n, " parameters, planted ", static_cast<int>(plant));
      expect_same_bits(once.parameters, parts.parameters, "parameters, " + which);
      expect_same_bits(once.first, parts.first, "first, " + which);
      expect_same_bits(once.second, parts.second, "second, " + which);
      expect_same_bits(once.sums, parts.sums, "sums, " + which);
      EXPECT_EQ(once.state.step, 6u);
      EXPECT_EQ(once.state.bad_step, parts.state.bad_step) << which;
      EXPECT_EQ(once.state.bad_update, parts.state.bad_update) << which;
      EXPECT_EQ(once.state.correction2, parts.state.correction2) << which;
      EXPECT_EQ(once.state.blocks_done, 0u) << which;
      EXPECT_EQ(once.fault, parts.fault) << which;
      const std::uint64_t bad = plant == Plant::nothing ? StepState::none : plant == Plant::an_earlier_fault ? 2 : 5;
      EXPECT_EQ(once.fault, bad) << which;
      EXPECT_EQ(once.parameters == normals(n, 4), bad != StepState::none && (plant != Plant::gradient || n == 1))
          << which;
    }
  }
}

// ---- A whole step -------------------------------------------------------------------------------------------------

// A small network's training step, to be run eagerly or recorded.
class SmallStep {
 public:
  static constexpr std::int64_t R = 7, S = 2, D = 12, H = 5, L = 3, N = 30,
                                P = 2 * D * H + 3 * H * L + D + 2 * H + 2 * L;

  explicit SmallStep(Lab& lab) : lab_(lab), fault_(*lab, sizeof(std::uint64_t), Memory::pinned, "fault") {
    std::int64_t used = 0;
    const auto take = [&](Shape shape) {
      const Tensor p{parameters.as<float>() + used, DType::f32, shape},
          g{gradients.as<float>() + used, DType::f32, shape};
      used += shape.count();
      return std::pair{p, g};
    };
    const std::int64_t sizes[][2] = {{D, H}, {H, 2 * L}, {L, H}, {H, D}};
    for (std::size_t i = 0; i < 4; ++i) {
      weight_[i] = take({sizes[i][1], sizes[i][0]});
      bias_[i] = take({sizes[i][1]});
    }
    EXPECT_EQ(used, P);
  }
  void run() {
    Lab& d = lab_;
    const auto layer = [&](std::size_t i, const Tensor& x, Activation a, const Tensor& y) {
      return DenseForward{
          .x = x, .weight = weight_[i].first, .bias = bias_[i].first, .activation = a, .y = y, .mask = {}};
    };
    const auto backward = [&](std::size_t i, const Tensor& x, Activation a, const Tensor& mask, const Tensor& dz,
                              const Tensor& dx) {
      d->run(DenseBackward{.x = x,
                           .weight = weight_[i].first,
                           .dz = dz,
                           .dweight = weight_[i].second,
                           .dbias = bias_[i].second,
                           .input_activation = a,
                           .mask = mask,
                           .dx = dx});
    };
    DenseForward hidden = layer(0, input_, Activation::relu, hidden_);
    hidden.mask = mask_;
    if (!d->makes_mask(hidden)) hidden.mask = {};
    const Tensor flat_z = z_.reshaped({R * S, L}), flat_dz = dz_.reshaped({R * S, L});
    d->run(GatherBatch{.source = source_,
                       .state = state,
                       .indexing = Indexing::shuffled,
                       .binarize = Binarize::dynamic,
                       .input = input_,
                       .target = target_});
    d->run(hidden);
    d->run(layer(1, hidden_, Activation::identity, stats_));
    d->run(SampleLatent{.stats = stats_,
                        .state = state,
                        .posterior = Posterior::log_variance,
                        .variant = LossVariant::fused,
                        .z = z_,
                        .kl_partial = kl_,
                        .scratch = {}});
    d->run(layer(2, flat_z, Activation::tanh, decoded_));
    d->run(layer(3, decoded_, Activation::identity, output_));
    d->run(LikelihoodLoss{.output = output_,
                          .target = target_,
                          .likelihood = Likelihood::bernoulli,
                          .variant = LossVariant::fused,
                          .variance = 1.0f,
                          .grad_scale = 1.0f / (R * S),
                          .nll_partial = nll_,
                          .grad = output_,
                          .scratch = {}});
    backward(3, decoded_, Activation::tanh, {}, output_, ddecoded_);
    backward(2, flat_z, Activation::identity, {}, ddecoded_, flat_dz);
    d->run(SampleLatentBackward{.stats = stats_,
                                .dz = dz_,
                                .state = state,
                                .posterior = Posterior::log_variance,
                                .variant = LossVariant::fused,
                                .kl_scale = 1.0f / R,
                                .dstats = dstats_,
                                .scratch = {}});
    backward(1, hidden_, Activation::relu, hidden.mask, dstats_, dhidden_);
    backward(0, input_, Activation::identity, {}, dhidden_, {});
    d->run(FinishStep{.losses = {.losses = {{{.partial = nll_, .samples = S}, {.partial = kl_, .by_column = true}}},
                                 .state = state,
                                 .sums = sums,
                                 .rows = R},
                      .update = {.parameters = parameters,
                                 .gradients = gradients,
                                 .first_moment = first,
                                 .second_moment = second,
                                 .state = state,
                                 .settings = settings_for(OptimizerType::adam, 0.0f)},
                      .advance = {.state = state, .schedule = schedule, .fault = {fault_.data(), DType::u64, {1}}}});
  }

 private:
  static constexpr Schedule schedule{.batches_per_epoch = 4, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f};
  Lab& lab_;
  Buffer fault_;

 public:
  Tensor parameters = lab_.put({P}, normals(P, 1, 0.3f)), gradients = lab_.make({P});
  Tensor first = lab_.put({P}, Floats(P)), second = lab_.put({P}, Floats(P));
  Tensor state = lab_.put(state_at(3, 0, schedule)), sums = lab_.put({2 + L}, std::vector<double>(2 + L));

 private:
  Tensor source_ = lab_.put({N, D}, pixels(N*D, 2)), input_ = lab_.make({R, D}), target_ = lab_.make({R, D}, DType::u8);
  Tensor mask_ = lab_.make({R, mask_bytes(H)}, DType::u8);
  Tensor hidden_ = lab_.make({R, H}), stats_ = lab_.make({R, 2 * L}), z_ = lab_.make({R, S, L}),
         kl_ = lab_.make({1, L});
  Tensor decoded_ = lab_.make({R * S, H}), output_ = lab_.make({R * S, D}), nll_ = lab_.make({R * S, 1});
  Tensor ddecoded_ = lab_.make({R * S, H}), dz_ = lab_.make({R, S, L}), dstats_ = lab_.make({R, 2 * L}),
         dhidden_ = lab_.make({R, H});
  std::pair<Tensor, Tensor> weight_[4], bias_[4];
};

TEST_P(Ops, ARecordedStepBakesNothingIn) {
  Lab a(GetParam()), b(GetParam());
  SmallStep eager(a), recorded(b);
  eager.run();
  recorded.run();
  const auto recording = b->record([&] { recorded.run(); });
  Floats last;
  for (int step = 1; step < 6; ++step) {  // more than one epoch
    eager.run();
    recording->replay();
    b->synchronize();
    const Floats now = b.get(recorded.parameters);
    expect_same_bits(a.get(eager.parameters), now, cat("parameters after step ", step));
    expect_same_bits(a.get<double>(eager.sums), b.get<double>(recorded.sums), cat("sums after step ", step));
    EXPECT_EQ(b.state(recorded.state).step, static_cast<std::uint32_t>(step) + 1);
    EXPECT_NE(now, last);
    last = now;
  }
}

TEST_P(Ops, TwoRunsGiveTheSameBits) {
  Lab a(GetParam()), b(GetParam());
  SmallStep one(a), two(b);
  for (int step = 0; step < 5; ++step) {
    one.run();
    two.run();
  }
  expect_same_bits(a.get(one.parameters), b.get(two.parameters), "parameters");
}

TEST(Shape, HasACountOf63Bits) {
  constexpr std::int64_t half = std::int64_t{1} << 31;
  EXPECT_EQ((Shape{half, half}).count(), Shape::most_elements);
  EXPECT_THROW((Shape{half, half + 1}), Error);
  EXPECT_THROW((Shape{Shape::most_elements + 1}), Error);
  EXPECT_THROW((Shape{half, half, half, half}), Error) << "2^124 is 0 in 64 bits";
  EXPECT_THROW((Shape{0, half, half, 2}), Error);
  EXPECT_THROW((Shape{-1}), Error);
}

// ---- Errors -------------------------------------------------------------------------------------------------------

TEST_P(Ops, WrongShapesNameTheOperation) {
  Lab& d = lab();
  const auto expect_error = [](const char* operation, const std::function<void()>& call) {
    try {
      call();
      ADD_FAILURE() << operation << " took a wrong shape";
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).rfind(operation, 0), 0u) << e.what();
    }
  };
  const Tensor t23 = d.make({2, 3}), t43 = d.make({4, 3}), t4 = d.make({4}), t24 = d.make({2, 4}), t3 = d.make({3});
  const Tensor state = d.put(some_state()), bytes = d.make({2, 3}, DType::u8), z = d.make({2, 1, 2}),
               kl = d.make({1, 2});
  const auto forward = [&](const Tensor& bias, const Tensor& y, const Tensor& mask) {
    d->run(DenseForward{.x = t23, .weight = t43, .bias = bias, .activation = Activation::relu, .y = y, .mask = mask});
  };
  expect_error("dense_forward", [&] { forward(t3, t24, {}); });
  expect_error("dense_forward", [&] { forward(t4, t23, {}); });
  expect_error("dense_forward", [&] { forward(t4, t24, bytes); });
  expect_error("dense_forward", [&] { forward({nullptr, DType::f32, {4}}, t24, {}); });
  const auto backward = [&](const Tensor& dbias, const Tensor& mask, const Tensor& dx) {
    d->run(DenseBackward{.x = t23,
                         .weight = t43,
                         .dz = t24,
                         .dweight = t43,
                         .dbias = dbias,
                         .input_activation = Activation::relu,
                         .mask = mask,
                         .dx = dx});
  };
  expect_error("dense_backward", [&] { backward(t3, {}, {}); });
  expect_error("dense_backward", [&] { backward(t4, {}, t24); });
  expect_error("dense_backward", [&] { backward(t4, bytes, t23); });
  expect_error("gather_batch", [&] {
    d->run(GatherBatch{.source = t23,
                       .state = state,
                       .indexing = Indexing::shuffled,
                       .binarize = Binarize::none,
                       .input = t23,
                       .target = bytes});
  });
  expect_error("gather_batch", [&] {
    d->run(GatherBatch{.source = bytes,
                       .state = state,
                       .indexing = Indexing::shuffled,
                       .binarize = Binarize::none,
                       .input = t43,
                       .target = bytes});
  });
  expect_error("sample_latent", [&] {
    d->run(SampleLatent{.stats = t24,
                        .state = state,
                        .posterior = Posterior::log_variance,
                        .variant = LossVariant::fused,
                        .z = d.make({2, 1, 3}),
                        .kl_partial = kl,
                        .scratch = {}});
  });
  expect_error("sample_latent", [&] {
    d->run(SampleLatent{.stats = t24,
                        .state = state,
                        .posterior = Posterior::log_variance,
                        .variant = LossVariant::unfused,
                        .z = z,
                        .kl_partial = kl,
                        .scratch = {}});
  });
  // stats [2, 4], of 2 latent dimensions
  const Tensor sampled = d.make({2, 1});
  const auto sample = [&](const Tensor& to, const Tensor& kl_of_draws, LossVariant variant) {
    d->run(SampleLatent{.stats = t24,
                        .state = state,
                        .variant = variant,
                        .z = to,
                        .kl_partial = kl,
                        .sampled_kl = kl_of_draws,
                        .scratch = {}});
  };
  expect_error("sample_latent: a KL divergence of draws without z", [&] { sample({}, sampled, LossVariant::fused); });
  expect_error("sample_latent: sampled_kl", [&] { sample(z, t23, LossVariant::fused); });
  expect_error("sample_latent: the unfused kernels need 4", [&] { sample(z, sampled, LossVariant::unfused); });
  const auto sample_backward = [&](const Tensor& dz, const Tensor& dkl, LossVariant variant) {
    d->run(SampleLatentBackward{
        .stats = t24, .dz = dz, .state = state, .variant = variant, .dsampled_kl = dkl, .dstats = t24, .scratch = z});
  };
  expect_error("sample_latent_backward: the gradient of a sampled KL divergence without dz",
               [&] { sample_backward({}, sampled, LossVariant::fused); });
  expect_error("sample_latent_backward: dsampled_kl", [&] { sample_backward(z, t23, LossVariant::fused); });
  expect_error("sample_latent_backward: the unfused kernels need 8",
               [&] { sample_backward(z, sampled, LossVariant::unfused); });
  const auto weigh = [&](const Tensor& nll, const Tensor& loss, const Tensor& dnll, const Tensor& dkl) {
    d->run(ImportanceBound{
        .nll_partial = nll, .sampled_kl = t23, .loss = loss, .dnll_partial = dnll, .dsampled_kl = dkl, .scratch = {}});
  };
  const Tensor six = d.make({6, 2}), two = d.make({2});
  EXPECT_NO_THROW(weigh(six, two, six, t23));
  expect_error("importance_bound: neither", [&] { weigh(six, {}, {}, {}); });
  expect_error("importance_bound: nll_partial", [&] { weigh(t43, two, {}, {}); });
  expect_error("importance_bound: loss", [&] { weigh(six, t3, {}, {}); });
  expect_error("importance_bound: dnll_partial", [&] { weigh(six, two, t23, {}); });
  expect_error("importance_bound: dsampled_kl", [&] { weigh(six, two, {}, six); });
  expect_error("sample_latent_backward", [&] {
    d->run(SampleLatentBackward{.stats = t24,
                                .dz = z,
                                .state = state,
                                .posterior = Posterior::log_variance,
                                .variant = LossVariant::fused,
                                .kl_scale = 1,
                                .dstats = t23,
                                .scratch = {}});
  });
  expect_error("likelihood", [&] {
    d->run(LikelihoodLoss{.output = t43,
                          .target = t23,
                          .likelihood = Likelihood::bernoulli,
                          .variant = LossVariant::fused,
                          .variance = 1,
                          .grad_scale = 1,
                          .nll_partial = d.make({4, 2}),
                          .grad = {},
                          .scratch = {}});
  });
  expect_error("likelihood", [&] {
    d->run(LikelihoodLoss{.output = t23,
                          .target = bytes,
                          .likelihood = Likelihood::gaussian,
                          .variant = LossVariant::fused,
                          .variance = 0,
                          .grad_scale = 1,
                          .nll_partial = d.make({2, 1}),
                          .grad = {},
                          .scratch = {}});
  });
  const Tensor halves = d.make({2, 3}, DType::bf16), nll = d.make({2, 1}), scratch = d.make({6});
  expect_error("likelihood", [&] {
    d->run(LikelihoodLoss{.output = halves,
                          .target = bytes,
                          .likelihood = Likelihood::bernoulli,
                          .variant = LossVariant::fused,
                          .variance = 1,
                          .grad_scale = 1,
                          .nll_partial = nll,
                          .grad = t23,
                          .scratch = {}});
  });
  expect_error("likelihood", [&] {
    d->run(LikelihoodLoss{.output = halves,
                          .target = bytes,
                          .likelihood = Likelihood::bernoulli,
                          .variant = LossVariant::unfused,
                          .variance = 1,
                          .grad_scale = 1,
                          .nll_partial = nll,
                          .grad = halves,
                          .scratch = scratch});
  });
  const Tensor sums = d.make({4}, DType::f64);
  const Accumulate losses{
      .losses = {{{.partial = nll}, {.partial = kl, .by_column = true}}}, .state = state, .sums = sums, .rows = 2};
  EXPECT_NO_THROW(d->run(losses));
  const auto refuse = [&](const auto& change, const char* says) {
    Accumulate a = losses;
    change(a);
    expect_error(says, [&] { d->run(a); });
  };
  refuse([&](Accumulate& a) { a.sums = t4; }, "accumulate: sums");
  refuse([&](Accumulate& a) { a.losses[2] = {.partial = nll}; }, "accumulate: sums");
  refuse([&](Accumulate& a) { a.rows = 0; }, "accumulate: 0 rows");
  refuse([&](Accumulate& a) { a.losses[0] = {}; }, "accumulate: losses[0]");
  refuse([&](Accumulate& a) { a.losses[1] = {.partial = halves}; }, "accumulate: losses[1]");
  refuse([&](Accumulate& a) { a.losses[3] = {.partial = nll}; }, "accumulate: losses[3] comes behind");
  refuse([&](Accumulate& a) { a.losses[1].samples = 0; }, "accumulate: losses[1] of 0 samples");
  const auto expect_loss_error = [&](const char* part, const Tensor& weights, const Tensor& value, const Tensor& grad) {
    expect_error(part, [&] {
      d->run(LikelihoodLoss{
          .output = t23, .target = bytes, .dnll_partial = weights, .nll_partial = value, .grad = grad, .scratch = {}});
    });
  };
  expect_error("likelihood: output should be f32 [2, 4], not f32 [2, 5]", [&] {
    d->run(LikelihoodLoss{.output = d.make({2, 5}),
                          .target = bytes,
                          .likelihood = Likelihood::gaussian_learned,
                          .nll_partial = nll,
                          .grad = {},
                          .scratch = {}});
  });
  expect_loss_error("likelihood: neither nll_partial nor grad", {}, {}, {});
  expect_loss_error("likelihood: a dnll_partial, which weighs the gradient, without grad", nll, nll, {});
  expect_loss_error("likelihood: dnll_partial", t23, {}, t23);
  expect_error("optimizer_step", [&] {
    d->run(OptimizerStep{
        .parameters = t4, .gradients = t4, .first_moment = t3, .second_moment = t4, .state = state, .settings = {}});
  });
  expect_error("advance", [&] { d->run(Advance{.state = t4, .schedule = {}, .fault = d.make({1}, DType::u64)}); });
  const OptimizerStep update{
      .parameters = t4, .gradients = t4, .first_moment = t4, .second_moment = t4, .state = state, .settings = {}};
  expect_error("advance", [&] {
    d->run(FinishStep{.losses = losses, .update = update, .advance = {.state = state, .schedule = {}, .fault = t4}});
  });
  const Tensor other_state = d.put(some_state()), fault = d.make({1}, DType::u64);
  expect_error("finish_step", [&] {
    d->run(FinishStep{.losses = losses,
                      .update = {.parameters = t4,
                                 .gradients = t4,
                                 .first_moment = t4,
                                 .second_moment = t4,
                                 .state = other_state,
                                 .settings = {}},
                      .advance = {.state = state, .schedule = {}, .fault = fault}});
  });
}

// ---- The CPU alone --------------------------------------------------------------------------------------------------

TEST(Cpu, ResultsDoNotDependOnTheNumberOfThreads) {
  // A matrix product is oneDNN's and may; the sizes here are too small for it to cut the inner dimension.
  std::vector<Floats> results;
  for (const int threads : {1, 2, 3, 5}) {
    BackendOptions options;
    options.threads = threads;
    Lab d("cpu", options);
    EXPECT_EQ(d->info().threads, threads);
    SmallStep step(d);
    for (int i = 0; i < 5; ++i) step.run();
    const PixelCase c{33, 3, 4097};
    const LikelihoodLoss loss = make_loss(d, {Likelihood::bernoulli, LossVariant::fused, true, true, false}, c,
                                          normals(c.rows * c.samples * c.pixels, 1), pixels(c.rows * c.pixels, 2));
    d->run(loss);
    Floats all = d.get(step.parameters);
    for (const Tensor& t : {step.first, step.second, loss.nll_partial, loss.grad}) {
      const Floats more = d.get(t);
      all.insert(all.end(), more.begin(), more.end());
    }
    results.push_back(all);
    expect_same_bits(results.front(), results.back(), cat(threads, " threads"));
  }
}

TEST(Cpu, RefusesAPrecisionItDoesNotHave) {
  BackendOptions options;
  options.precision = Precision::tf32;
  try {
    Lab d("cpu", options);
    FAIL() << "tf32 on a CPU";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("tf32"), std::string::npos) << e.what();
  }
  options = {};
  options.threads = -1;
  EXPECT_THROW(Lab("cpu", options), Error);
}

}  // namespace
}  // namespace elbo::test
