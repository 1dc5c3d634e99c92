#include "tests/operations/lab.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "elbo/math/random.h"
#include "host/base/devices.h"
#include "tests/errors.h"
#include "tests/setting.h"

namespace elbo::test {

// ---- Values -----------------------------------------------------------------------------------------------------

Floats normals(std::int64_t n, std::uint32_t stream, float scale, float mean) {
  Floats v(at(n));
  for (std::int64_t i = 0; i < n; i += 4) {
    const math::Normals4 quad = math::normals({99, Purpose::prior, stream, 0, 0}, static_cast<std::uint32_t>(i / 4));
    for (std::int64_t j = 0; j < std::min<std::int64_t>(4, n - i); ++j) v[at(i + j)] = mean + scale * quad.v[j];
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

StepState some_state(std::uint32_t step) {
  return state_at(0x123456789abcdefull, step,
                  {.batches_per_epoch = 3, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f});
}

// ---- Expectations -----------------------------------------------------------------------------------------------

void expect_close(const Floats& got, const Expected& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.size(), want.value.size()) << what;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(double{got[i]} - want.value[i]);
    ASSERT_TRUE(error <= tolerance * want.magnitude[i] + 1e-30)  // a NaN is not
        << what << ", element " << i << ": " << got[i] << ", expected " << want.value[i] << ", of "
        << want.magnitude[i];
  }
}

void expect_refused(const std::string& beginning, const std::function<void()>& call) {
  const std::string said = error_of(call);
  EXPECT_TRUE(said.starts_with(beginning)) << "\"" << beginning << "\" is not how this begins: \"" << said << "\"";
}

// ---- A device ---------------------------------------------------------------------------------------------------

namespace {

// AddressSanitizer has margins of its own, which it watches at reads, too.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t margin = 0;
#else
constexpr std::size_t margin = 256;  // bytes in front and behind, which leave an address as aligned as it was
#endif

// For ELBO_SIM_ORDER and ELBO_SIM_BLOCKS. A sanitizer finds what it finds in any order, and takes ten times as long.
struct Order {
  const char *threads, *blocks;
};
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr Order orders[] = {{"random:2", "apart"}};
#else
constexpr Order orders[] = {
    {"forward", "in_turn"}, {"reverse", "in_turn"}, {"random:1", "in_turn"}, {"random:2", "apart"}};
#endif

bool overlap(const Tensor& a, const Tensor& b) {
  const auto *const p = static_cast<const std::byte*>(a.data), *const q = static_cast<const std::byte*>(b.data);
  return p < q + b.bytes() && q < p + a.bytes();
}

}  // namespace

Lab::Lab(const Place& place, const BackendOptions& options)
    : device_(open_device(place.device, options).backend), name_(place.device), offset_(place.offset) {}

void Lab::clear() {
  for (const Held& h : held_) {
    const Bytes bytes = bytes_of({h.buffer->data(), DType::u8, {static_cast<std::int64_t>(h.buffer->size())}});
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (i >= h.before && i < h.before + h.used) continue;
      EXPECT_EQ(bytes[i], 0xff) << "byte " << static_cast<std::int64_t>(i) - static_cast<std::int64_t>(h.before)
                                << ", outside of a tensor of " << h.used << " bytes, was written to";
    }
  }
  held_.clear();
}

Tensor Lab::make(Shape shape, DType dtype) { return make(shape, dtype, offset_, Memory::device); }
Tensor Lab::make_aligned(Shape shape, DType dtype) { return make(shape, dtype, 0, Memory::device); }
Tensor Lab::make_pinned(Shape shape, DType dtype) { return make(shape, dtype, 0, Memory::pinned); }

Tensor Lab::make(Shape shape, DType dtype, std::int64_t offset, Memory memory) {
  Tensor t{nullptr, dtype, shape};
  const std::size_t before = margin + (size_of(dtype) < 8 ? at(offset) * size_of(dtype) : 0);
  const std::size_t size = before + t.bytes() + margin;
  auto buffer = std::make_unique<Buffer>(*device_, size, memory, "a test's tensor");
  t.data = buffer->data() + before;
  const bool is_pinned = memory == Memory::pinned;
  if (is_pinned) {
    std::memset(buffer->data(), 0xff, size);
  } else {
    device_->fill({buffer->data(), DType::u8, {static_cast<std::int64_t>(size)}}, 0xff);
  }
  held_.push_back({std::move(buffer), before, t.bytes(), is_pinned});
  return t;
}

Tensor Lab::put(const StepState& s) {
  const Tensor t = make_aligned({static_cast<std::int64_t>(sizeof s)}, DType::u8);
  device_->upload(t, &s);
  return t;
}

void Lab::give_mask(DenseForward& layer) {
  if (layer.activation != Activation::relu) return;
  layer.mask = make_aligned({layer.y.rows(), mask_bytes(layer.y.columns())}, DType::u8);
  if (!device_->makes_mask(layer)) layer.mask = {};
}

Floats Lab::floats(const Tensor& t) const {
  if (t.dtype == DType::f32) return get(t);
  Floats values;
  for (const math::Bf16 b : get<math::Bf16>(t)) values.push_back(math::to_float(b));
  return values;
}

StepState Lab::state(const Tensor& t) const {
  StepState s;
  device_->download(&s, t);
  return s;
}

bool Lab::is_pinned(const Tensor& t) const {
  return std::ranges::any_of(held_, [&](const Held& h) {
    return h.is_pinned && t.data >= h.buffer->data() && t.data < h.buffer->data() + h.buffer->size();
  });
}

Bytes Lab::bytes_of(const Tensor& t) const {
  Bytes bytes(t.bytes());
  if (is_pinned(t)) {
    device_->synchronize();
    std::memcpy(bytes.data(), t.data, bytes.size());
  } else {
    device_->download(bytes.data(), {t.data, DType::u8, {static_cast<std::int64_t>(bytes.size())}});
  }
  return bytes;
}

// First what is only written, since its memory may be that of what is read.
void Lab::set(const std::vector<Use>& uses) const {
  for (const Use& u : uses)
    if (u.access == Access::write || u.access == Access::scratch) device_->fill(u.tensor, 0xff);
  for (const Use& u : uses) {
    if (u.access == Access::write || u.access == Access::scratch) continue;
    if (is_pinned(u.tensor)) {
      std::memcpy(u.tensor.data, u.before.data(), u.before.size());
    } else {
      device_->upload(u.tensor, u.before.data());
    }
  }
}

void Lab::run_in_every_order(const char* operation, std::vector<Use>& uses, const std::function<void()>& call) const {
  for (Use& u : uses) u.before = bytes_of(u.tensor);
  std::size_t memory = 0;
  for (const Held& h : held_) memory += h.buffer->size();
  const bool is_large = memory > (std::size_t{1} << 20);  // each block that runs apart has a copy of all memory
  for (const Order& order : orders) {
    const bool is_first = &order == orders;
    const char* const ways = is_large && std::string(order.blocks) == "apart" ? "together" : order.blocks;
    const Setting order_of_threads("ELBO_SIM_ORDER", order.threads), order_of_blocks("ELBO_SIM_BLOCKS", ways);
    set(uses);
    call();
    for (Use& u : uses) {
      Bytes now = bytes_of(u.tensor);
      EXPECT_TRUE(is_first || u.access == Access::scratch || now == u.after)
          << operation << ": another " << u.field << " " << u.tensor.shape << " with threads in the order "
          << order.threads << " and blocks " << ways << " than in the first one";
      if (is_first) u.after = std::move(now);
    }
    if (!is("sim")) break;
  }
  for (const Use& u : uses) {
    const auto is_changed_by = [&](const Use& other) { return other.is_written() && overlap(u.tensor, other.tensor); };
    EXPECT_TRUE(u.access == Access::scratch || std::ranges::any_of(uses, is_changed_by) || u.after == u.before)
        << operation << " has changed " << u.field << ", which it reads";
  }
}

void Lab::run_elsewhere(const char* operation, const std::vector<Use>& here, std::vector<Use> there,
                        const std::function<void()>& call) const {
  for (std::size_t i = 0; i < there.size(); ++i) there[i].before = here[i].before;
  set(there);
  call();
  for (std::size_t i = 0; i < there.size(); ++i)
    EXPECT_TRUE(there[i].access == Access::scratch || bytes_of(there[i].tensor) == here[i].after)
        << operation << ": another " << here[i].field << " " << here[i].tensor.shape << " where it is not aligned";
}

// ---- The fixtures -------------------------------------------------------------------------------------------------

void Ops::SetUp() {
  const std::string device = GetParam().device;
  try {
    lab();
  } catch (const Error& e) {
    if (device == "cpu" || (device == "sim" && std::getenv("ELBO_REQUIRE_SIM"))) FAIL() << e.what();
    GTEST_SKIP() << e.what();
  }
}

Lab& Ops::lab_of(bool epilogues, const std::string& refused) {
  std::unique_ptr<Lab>& lab = labs_[{epilogues, refused}];
  if (!lab) lab = std::make_unique<Lab>(GetParam(), BackendOptions{.epilogues = epilogues});
  return *lab;
}

Lab& Ops::next(bool epilogues, const std::string& refused) {
  for (const auto& [options, lab] : labs_) lab->clear();  // a device's memory is that of all
  return lab_of(epilogues, refused);
}

namespace {

std::string name_of_place(const testing::TestParamInfo<Place>& info) {
  return std::string(info.param.device) + (info.param.offset ? "_unaligned" : "");
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Devices, Ops,
                         testing::Values(Place{"cpu"}, Place{"sim"}, Place{"cuda"}, Place{"cpu", 1}, Place{"sim", 1},
                                         Place{"cuda", 1}),
                         name_of_place);
INSTANTIATE_TEST_SUITE_P(Devices, OpsAligned, testing::Values(Place{"cpu"}, Place{"sim"}, Place{"cuda"}),
                         name_of_place);

}  // namespace elbo::test
