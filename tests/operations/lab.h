// What the tests of operations share: a device whose memory is watched, on which an operation is run in every way that
// it may be run; made-up values; references in float64.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "elbo/backend.h"

namespace elbo::test {

inline constexpr LossVariant both_kernels[] = {LossVariant::fused, LossVariant::unfused};
inline constexpr LossVariant all_kernels[] = {LossVariant::fused, LossVariant::fused_log, LossVariant::two_pass,
                                              LossVariant::unfused};
inline constexpr float nan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float infinity = std::numeric_limits<float>::infinity();

using Floats = std::vector<float>;
using Bytes = std::vector<std::uint8_t>;

inline std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

// ---- Values -----------------------------------------------------------------------------------------------------

Floats normals(std::int64_t n, std::uint32_t stream, float scale = 1.0f, float mean = 0.0f);
// A quarter is 0, a quarter 255, the rest anything.
Bytes pixels(std::int64_t n, std::uint32_t stream);
StepState some_state(std::uint32_t step = 5);

// ---- Expectations -----------------------------------------------------------------------------------------------

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

void expect_close(const Floats& got, const Expected& want, double tolerance, const std::string& what);

template <class T>
void expect_same_bits(const std::vector<T>& a, const std::vector<T>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::memcmp(&a[i], &b[i], sizeof(T)), 0) << what << ", element " << i << ": " << a[i] << ", " << b[i];
  }
}

// An Error whose text begins so: with the operation's name.
void expect_refused(const std::string& beginning, const std::function<void()>& call);

// ---- A device ---------------------------------------------------------------------------------------------------

// Where an operation's tensors lie: on which device, and how many elements behind an aligned address. A StepState, a
// mask and what is f64 or u64 are aligned everywhere, as the contract has it.
struct Place {
  const char* device;
  std::int64_t offset = 0;
};

// A device and tensors on it that hold 0xff in every byte (NaN) at first, with watched margins around them.
class Lab {
 public:
  explicit Lab(const Place&, const BackendOptions& = {});
  ~Lab() { clear(); }

  // Looks around every tensor made so far, and frees them.
  void clear();
  // The device itself: what is asked of it by this is done once.
  Backend* operator->() const { return device_.get(); }
  Backend& operator*() const { return *device_; }
  bool is(const char* device) const { return name_ == device; }

  Tensor make(Shape shape, DType dtype = DType::f32);
  Tensor make_aligned(Shape shape, DType dtype);
  Tensor make_pinned(Shape shape, DType dtype);
  template <class T>
  Tensor put(Shape shape, const std::vector<T>& values) {
    const Tensor t = make(shape, DTypeOf<T>::value);
    EXPECT_EQ(static_cast<std::int64_t>(values.size()), shape.count());
    device_->upload(t, values.data());
    return t;
  }
  Tensor put(const StepState&);
  // Gives a layer the mask of its relu, where the device makes one.
  void give_mask(DenseForward&);

  // Runs an operation: on the simulated device in several orders of its threads and blocks, elsewhere once. Before each
  // time what it only writes holds 0xff, and all else what it held at first. Every order must leave the same bits, and
  // what is only read as it was; scratch may hold anything. Where tensors are not aligned, all this holds of aligned
  // ones as well, save of a product, whose library may choose by alignment.
  template <class Op>
  void run(const Op& op) {
    std::vector<Use> uses = uses_of(op);
    run_in_every_order(Op::name, uses, [&] { device_->run(op); });
    if constexpr (!requires { op.flops(); }) {
      if (offset_ == 0) return;
      Op aligned = op;
      std::map<void*, void*> moved;  // tensors may share their memory
      Op::each_tensor(aligned, [&](const char*, Tensor& t, Access) {
        if (!t || is_pinned(t)) return;
        void*& to = moved[t.data];
        if (!to) to = make_aligned(t.shape, t.dtype).data;
        t.data = to;
      });
      run_elsewhere(Op::name, uses, uses_of(aligned), [&] { device_->run(aligned); });
    }
  }

  template <class T = float>
  std::vector<T> get(const Tensor& t) const {
    std::vector<T> values(at(t.count()));
    EXPECT_EQ(DTypeOf<T>::value, t.dtype);
    device_->download(values.data(), t);
    return values;
  }
  // Of f32 or bf16, as floats.
  Floats floats(const Tensor&) const;
  StepState state(const Tensor&) const;

 private:
  struct Held {
    std::unique_ptr<Buffer> buffer;
    std::size_t before, used;  // bytes: of the margin in front, of the tensor
    bool is_pinned;
  };
  // How an operation uses a tensor; what that held before, and what it held after the first order.
  struct Use {
    const char* field;
    Tensor tensor;
    Access access;
    Bytes before{}, after{};

    bool is_written() const { return access == Access::write || access == Access::update; }
  };

  template <class Op>
  static std::vector<Use> uses_of(const Op& op) {
    std::vector<Use> uses;
    Op::each_tensor(op, [&](const char* field, const Tensor& t, Access access) {
      if (t) uses.push_back({field, t, access});
    });
    return uses;
  }
  Tensor make(Shape, DType, std::int64_t offset, Memory);
  bool is_pinned(const Tensor&) const;
  Bytes bytes_of(const Tensor&) const;
  void set(const std::vector<Use>&) const;
  void run_in_every_order(const char* operation, std::vector<Use>&, const std::function<void()>& call) const;
  void run_elsewhere(const char* operation, const std::vector<Use>& here, std::vector<Use> there,
                     const std::function<void()>& call) const;

  std::unique_ptr<Backend> device_;
  std::string name_;  // of the device
  std::int64_t offset_;
  std::vector<Held> held_;
};

// ---- The fixtures -------------------------------------------------------------------------------------------------

// On every device, with aligned tensors and without.
class Ops : public testing::TestWithParam<Place> {
 protected:
  void SetUp() override;
  Lab& lab() { return lab_of(true, ""); }
  // A lab for the next case, all being emptied: the one above; or one whose products do nothing else on the way; or one
  // that has always been refused this epilogue: a device asks for an algorithm once.
  Lab& next(bool epilogues = true, const std::string& refused = "");

 private:
  Lab& lab_of(bool epilogues, const std::string& refused);

  std::map<std::pair<bool, std::string>, std::unique_ptr<Lab>> labs_;
};

// On every device, with aligned tensors: where their place plays no part.
class OpsAligned : public Ops {};

}  // namespace elbo::test
