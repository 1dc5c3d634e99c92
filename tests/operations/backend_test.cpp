// What a device does beside its operations: memory, the ring, the times of ranges.
#include <cstring>

#include "host/base/devices.h"
#include "tests/errors.h"
#include "tests/operations/lab.h"

namespace elbo::test {
namespace {

TEST(Shape, HasACountOf63Bits) {
  constexpr std::int64_t half = std::int64_t{1} << 31;
  EXPECT_EQ((Shape{half, half}).count(), Shape::most_elements);
  EXPECT_THROW((Shape{half, half + 1}), Error);
  EXPECT_THROW((Shape{Shape::most_elements + 1}), Error);
  EXPECT_THROW((Shape{half, half, half, half}), Error) << "2^124 is 0 in 64 bits";
  EXPECT_THROW((Shape{0, half, half, 2}), Error);
  EXPECT_THROW((Shape{-1}), Error);
}

TEST_P(OpsAligned, MemoryMoves) {
  const Floats values = normals(1001, 1);
  const Tensor a = lab().put({1001}, values), b = lab().make({7, 143});
  lab()->copy(b, a);
  expect_same_bits(lab().get(b), values, "copy");
  lab()->fill(b, 0);
  EXPECT_EQ(lab().get(b), Floats(1001, 0.0f));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data) % 256, 0u);
  lab()->synchronize();
}

TEST_P(OpsAligned, PinnedMemoryIsForBoth) {
  Buffer buffer(*lab(), 64, Memory::pinned, "a test's page");
  const Tensor pinned{buffer.data(), DType::f32, {16}}, device = lab().put({16}, normals(16, 1));
  lab()->copy(pinned, device);
  lab()->synchronize();
  expect_same_bits(Floats(pinned.as<float>(), pinned.as<float>() + 16), normals(16, 1), "pinned");
}

TEST_P(OpsAligned, TooMuchMemoryIsAnErrorThatSaysWhatFor) {
  const auto take = [&] { Buffer(*lab(), std::size_t{1} << 60, Memory::device, "the activations"); };
  expect_words(error_of(take), {"the activations"});
}

TEST_P(OpsAligned, RingBringsBatchesInOrder) {
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

TEST_P(OpsAligned, RangesAreTimed) {
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

TEST(Cpu, RefusesAPrecisionItDoesNotHave) {
  expect_words(error_of([] { open_device("cpu", {.precision = Precision::tf32}); }), {"tf32"});
  EXPECT_THROW(open_device("cpu", {.threads = -1}), Error);
}

}  // namespace
}  // namespace elbo::test
