// The seam: what a device must be able to do for elbo to train a model on it.
//
// run() checks an operation and opens its profiling range, once for every device; then it calls the do_run() that a
// device implements. Work is queued in order and may run behind the caller's back; `upload`, `download`, `synchronize`,
// Ring::acquire and a Recording with too many replays under way are the only calls that wait.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "elbo/memory.h"
#include "elbo/operations/dense.h"
#include "elbo/operations/gather.h"
#include "elbo/operations/importance.h"
#include "elbo/operations/latent.h"
#include "elbo/operations/likelihood.h"
#include "elbo/operations/optimizer.h"
#include "elbo/products.h"
#include "elbo/profiling.h"
#include "elbo/tensor.h"
#include "elbo/types.h"

namespace elbo {

// Queued calls, to be run again and again: a CUDA graph on a GPU.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay() = 0;
  virtual std::size_t nodes() const { return 0; }  // kernels, products and copies of the graph; 0: it is none
  virtual std::size_t dependent_launches() const { return 0; }  // nodes of its longest chain, each after the one before
};

// A ring of batches on their way from the host to the device: while the device works on one slot, the
// host fills another in pinned memory and it travels on a stream of its own.
//
//   std::byte* slot = ring.acquire(i);  // batch i, for slot i % slots; waits until that slot's last use is over
//   ...fill slot...
//   ring.submit();                      // starts the copy; calls queued from now on see the data
//   ...queue the calls that read device()...
//   ring.release();                     // the slot is free once those calls are done
//
// Batches may begin with any number and need not be consecutive: a resumed run starts in the middle.
class Ring {
 public:
  virtual ~Ring() = default;
  virtual std::byte* acquire(std::uint64_t batch) = 0;
  virtual void submit() = 0;
  virtual void release() = 0;
  virtual Tensor device() const = 0;  // u8 [slots * R, D]; batch number i lies in slot i % slots
};

struct BackendOptions {
  Precision precision = Precision::fp32;  // of matrix products; everything else is fp32
  int index = 0;                          // which GPU
  int threads = 0;                        // CPU threads; 0: one for each core this process may use
  bool record = true;                     // false: recordings call through, so that a profiler sees calls
  bool epilogues = true;                  // false: bias, activation and their gradients in kernels of their own
  std::string tuning{};  // a file of algorithms for the products (host/base/tuning_file.h); empty: none
};

struct DeviceInfo {
  std::string name;         // "cpu", "cuda", "sim"
  std::string description;  // for people: "NVIDIA H100 80GB HBM3, sm_90, driver 13.0"
  std::size_t memory = 0;   // bytes that may be allocated
  int threads = 1;          // CPU threads in use; 1 elsewhere
  bool launches = false;    // a call costs a launch and large ones fill the device: few large batches are quickest
  bool simulated = false;   // for tests: slow, and without a clock
  std::string gpu{};        // "NVIDIA H100 80GB HBM3"; empty where there is none
  std::string library{};    // with a choice of algorithms for products: "cuBLASLt 13.1.0"; empty where there is none
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual DeviceInfo info() const = 0;
  const BackendOptions& options() const { return options_; }

  // ---- Memory -------------------------------------------------------------------------------------
  void upload(const Tensor& to, const void* from);  // `from` may be reused when it returns
  void download(void* to, const Tensor& from);      // waits for all queued work
  void copy(const Tensor& to, const Tensor& from);  // same type and element count
  void fill(const Tensor& to, std::uint8_t byte);   // every byte
  virtual void synchronize() = 0;                   // waits for all queued work

  // ---- Replay and streaming -------------------------------------------------------------------------
  // `calls` queues operations of this backend and nothing else; it may be called now, later, or never
  // again, so everything it refers to must outlive the recording. The same operations, of the same shapes, must have
  // been done once before: a GPU loads a kernel, and its libraries choose among theirs, at the first call, which
  // belongs in no recording (the simulated device refuses it). At most `under_way` replays are not done at a time; one
  // more waits for the oldest. These two serve a device that works in the host's memory and is done when a call
  // returns.
  virtual std::unique_ptr<Recording> record(std::function<void()> calls, std::size_t under_way = 8);
  virtual std::unique_ptr<Ring> open_ring(std::int64_t slots, std::int64_t rows, std::int64_t pixels);

  // ---- Operations -------------------------------------------------------------------------------------
  template <class Op>
  void run(const Op& op) {
    op.check();
    const Range range(*this, Op::name);
    do_run(op);
  }

  // Whether this device makes the mask of a DenseForward. It may do it to see, whatever its tensors hold: what was in y
  // and in the mask is lost. Where the answer is no, neither that DenseForward nor a DenseBackward behind it may be
  // given a mask. To be asked once, before they are run or recorded.
  virtual bool makes_mask(const DenseForward&) { return false; }

  // ---- The choice of algorithms ----------------------------------------------------------------------------
  // The products that were asked for so far, each once, in the order of their shapes.
  virtual std::vector<ProductChoice> products() const { return {}; }
  // From now on the tuned products are done by the algorithms chosen. Throws Error where they were chosen for another
  // GPU, library or precision, or the library does not take one. What was recorded before stays as it is.
  virtual void use(const Tuning&);
  // Times up to 32 algorithms for each product that was asked for so far, for about `seconds` a product, and leaves the
  // fastest in use that takes one launch; a product that has none stays as it was. `each` (null: nobody) is told of
  // every product as it is done.
  virtual Tuning tune(double seconds, const std::function<void(const Tuning::Product&)>& each);

  // ---- Profiling -------------------------------------------------------------------------------------------
  // A nested range, shown by Nsight: dense_forward in dense0 in encode in train_step.
  class Range {
   public:
    Range(Backend& b, const char* name) : backend_(b) { backend_.enter(name); }
    ~Range() { backend_.leave(); }
    Range(const Range&) = delete;
    Range& operator=(const Range&) = delete;

   private:
    Backend& backend_;
  };

  // Between the two calls every range is timed; stop_timing() waits for the work, and returns them in the order in
  // which they began. Calls that are recorded meanwhile cannot be timed.
  void start_timing();
  std::vector<RangeTime> stop_timing();

  // From now on the device notes its activities; to be called before anything is recorded; waits for all queued work.
  // Returns whether it can: a device without any of its own cannot. Throws Error where it should, saying what is
  // missing.
  virtual bool watch_activities() { return false; }
  // Those since watch_activities() or the last call, as they began; waits for all queued work. A timing that was
  // stopped since then counts its microseconds from the same moment.
  virtual std::vector<Activity> take_activities() { return {}; }

  // Tells a profiler that watches this process to collect from now on, or no more (cudaProfilerStart and Stop).
  virtual void collect(bool) {}

  // The rate of the clock at which the device computes at this moment, in MHz; 0: unknown. Does not wait for the work
  // that is queued: ask while some is under way, since a GPU that rests lowers it.
  virtual double clock_mhz() { return 0; }

 protected:
  explicit Backend(BackendOptions options) : options_(std::move(options)) {}

  virtual std::byte* do_allocate(std::size_t bytes, Memory) = 0;  // null when there is not enough
  virtual void do_free(std::byte*, Memory) noexcept = 0;
  virtual void do_upload(void* to, const void* from, std::size_t bytes) = 0;
  virtual void do_download(void* to, const void* from, std::size_t bytes) = 0;
  virtual void do_copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void do_fill(void* to, std::uint8_t byte, std::size_t bytes) = 0;

  virtual void do_run(const DenseForward&) = 0;
  virtual void do_run(const DenseBackward&) = 0;
  virtual void do_run(const ActivationBackward&) = 0;
  virtual void do_run(const Add&) = 0;
  virtual void do_run(const GatherBatch&) = 0;
  virtual void do_run(const SampleLatent&) = 0;
  virtual void do_run(const SampleLatentBackward&) = 0;
  virtual void do_run(const LikelihoodLoss&) = 0;
  virtual void do_run(const ImportanceBound&) = 0;
  virtual void do_run(const Accumulate&) = 0;
  virtual void do_run(const OptimizerStep&) = 0;
  virtual void do_run(const Advance&) = 0;
  virtual void do_run(const FinishStep&);  // the three above; a device overrides it to do all at once

  virtual void push_range(const char*) {}
  virtual void pop_range() {}

  virtual std::unique_ptr<Stopwatch> do_open_stopwatch();  // here: of the host's clock

 private:
  friend class Buffer;
  void enter(const char* name);
  void leave();

  // The timing under way. A range's marks are its begin and its end, if nothing is within it.
  struct Timing {
    struct Entry {
      std::string path;
      std::size_t begin = 0, end = 0;
      bool innermost = true;
    };
    std::unique_ptr<Stopwatch> stopwatch;
    std::size_t marks = 0;
    std::vector<Entry> entries;
    std::vector<std::size_t> open;  // indices of the entries that have not ended, outermost first
  };
  BackendOptions options_;
  std::unique_ptr<Timing> timing_;
};

// What a plug-in exports, by the name ELBO_CREATE_BACKEND (elbo/plugin_symbol.h): a new backend; throws Error where it
// cannot work, DeviceAbsent where this machine has no such device. The name ends in a digest of the headers in
// include/elbo, so that a plug-in that was built with others is refused and not misunderstood.
using CreateBackend = Backend* (*)(const BackendOptions&);

}  // namespace elbo
