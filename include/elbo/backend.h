// The seam: what a device must be able to do for elbo to train a model on it.
//
// The public functions check shapes, open profiling ranges and name errors, once for every device;
// then they call the `do_` function that a device implements. Work is queued in order and may run
// behind the caller's back; `upload`, `download`, `synchronize`, Ring::acquire and a Recording with
// too many replays under way are the only calls that wait.
//
// Letters in shape comments: R rows of a batch, S samples a row, D pixels of an image, L latent
// dimensions, I and O inputs and outputs of a layer, N images of a data set.
#pragma once
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "elbo/math/optimizer.h"
#include "elbo/step_state.h"
#include "elbo/tensor.h"
#include "elbo/types.h"

namespace elbo {

class Backend;

enum class Memory : std::uint8_t {
  device,  // where kernels work; the host must not touch it
  pinned,  // host memory that the device can read and write, too
};

// Owns a block of a device's memory, aligned to 256 bytes. The backend must outlive it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend& backend, std::size_t bytes, Memory kind, std::string_view what);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer();

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(kind_, other.kind_);
  }
  Backend* backend_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  Memory kind_ = Memory::device;
};

// Cuts one Buffer into tensors. A layout function is run twice: once over an Arena without memory,
// which adds up the sizes, and once over one of that size.
//
//   Arena measure;             layout(measure);
//   Arena arena(device, measure.used(), "activations");  layout(arena);
class Arena {
 public:
  Arena() = default;
  Arena(Backend& backend, std::size_t bytes, std::string_view what) : buffer_(backend, bytes, Memory::device, what) {}

  // A tensor at the next multiple of 256 bytes; its data is null while measuring.
  Tensor take(Shape shape, DType dtype = DType::f32);
  std::size_t used() const { return used_; }

 private:
  Buffer buffer_;
  std::size_t used_ = 0;
};

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
  std::string gpu{};        // "NVIDIA H100 80GB HBM3"; empty where there is none
  std::string library{};    // with a choice of algorithms for products: "cuBLASLt 13.1.0"; empty where there is none
};

// ---- Matrix products, where a library offers several algorithms for each -----------------------------------

// What the library does on the way from a product to C, by cuBLASLt's names.
enum class Epilogue : std::uint8_t {
  none,
  bias,           // adds a vector to every row ...
  relu_bias,      // ... and then negative elements become 0 ...
  relu_aux_bias,  // ... and a mask of bits tells which did not
  drelu,          // elements become 0 where such a mask says so
  bgradb,         // the sums of op(A)'s rows are made, too
};
constexpr bool has_vector(Epilogue e) { return e != Epilogue::none && e != Epilogue::drelu; }
constexpr bool has_mask(Epilogue e) { return e == Epilogue::relu_aux_bias || e == Epilogue::drelu; }

// All that an algorithm may depend on: C [m, n] = op(A) op(B), row-major. op transposes where its flag is set.
struct ProductShape {
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  Epilogue epilogue = Epilogue::none;
  // Of A, B, C, the epilogue's vector and its mask: in bytes, 1 to 16; 16 for what is not there.
  std::array<std::int64_t, 5> alignment{16, 16, 16, 16, 16};

  auto operator<=>(const ProductShape&) const = default;
};
const char* name_of(Epilogue);                    // "relu_aux_bias"
const char* name_of(Precision);                   // "tf32"
std::string description_of(const ProductShape&);  // "[100, 784] x [500, 784]' relu_aux_bias"

// An algorithm, in the numbers that the library itself has for it: they mean something to one version of it alone.
struct Algorithm {
  std::int64_t id = 0, tile = 0, stages = 0, split_k = 0, reduction_scheme = 0, swizzle = 0, custom_option = 0,
               inner_shape = 0, cluster_shape = 0;
  std::array<std::uint64_t, 8> data{};  // all of it, the numbers above included

  bool operator==(const Algorithm&) const = default;
};
inline constexpr std::array<std::pair<const char*, std::int64_t Algorithm::*>, 9> algorithm_fields{
    {{"id", &Algorithm::id},
     {"tile", &Algorithm::tile},
     {"stages", &Algorithm::stages},
     {"split_k", &Algorithm::split_k},
     {"reduction_scheme", &Algorithm::reduction_scheme},
     {"swizzle", &Algorithm::swizzle},
     {"custom_option", &Algorithm::custom_option},
     {"inner_shape", &Algorithm::inner_shape},
     {"cluster_shape", &Algorithm::cluster_shape}}};

// How a product is done.
struct ProductChoice {
  ProductShape product;
  std::string refusal;  // why the library does not do it, so that kernels do a part of it; empty: it does, thus:
  Algorithm algorithm;
  std::int64_t workspace_bytes = 0;
  double waves = 0;    // of thread blocks, as the library reckons them
  bool tuned = false;  // by Backend::use(); else it is the library's own choice
};

// The choices that were found fastest, and where they hold.
struct Tuning {
  std::string where;  // "w1-h100.json", for messages
  std::string gpu, library;
  Precision precision = Precision::fp32;
  struct Product {
    ProductChoice choice;
    double microseconds = 0;      // the median of its timings ...
    double own_microseconds = 0;  // ... and that of the library's own choice
    std::int64_t candidates = 0;  // that were timed
  };
  std::vector<Product> products;
};

// ---- Arguments of the operations ----------------------------------------------------------------------

// Sums over a long axis are taken in two stages with a fixed order: partial sums of this many rows or
// pixels, then the sum of the partials. Part of the contract, so a result never depends on how a device
// cuts its work.
inline constexpr std::int64_t latent_tile = 32;    // rows
inline constexpr std::int64_t pixel_chunk = 4096;  // pixels
constexpr std::int64_t tiles(std::int64_t n, std::int64_t tile) { return (n + tile - 1) / tile; }

// y = activation(x weight' + bias). The network's last layer aside, what follows is relu more often than not, and its
// gradient needs no more of y than its signs: `mask` has a bit for each element, in an order of the device's own.
// Where a device's library adds the activation to the product, relu may turn a NaN into 0.
struct DenseForward {
  Tensor x;       // f32 [R, I]
  Tensor weight;  // f32 [O, I]
  Tensor bias;    // f32 [O]
  Activation activation = Activation::identity;
  Tensor y;     // f32 [R, O] out
  Tensor mask;  // u8 [R, mask_bytes(O)] out, for a DenseBackward; none where there will be none
};
// Rows of 128 bits, as cuBLASLt wants them.
constexpr std::int64_t mask_bytes(std::int64_t columns) { return tiles(columns, 128) * 16; }

// The gradients of a layer's parameters; and, unless dx is none, of what `activation` was applied to to make x, so that
// dx is the layer below's dz.
struct DenseBackward {
  Tensor x;                                      // f32 [R, I]
  Tensor weight;                                 // f32 [O, I]
  Tensor dz;                                     // f32 [R, O]: d objective / d (x weight' + bias)
  Tensor dweight;                                // f32 [O, I] out: dz' x
  Tensor dbias;                                  // f32 [O] out
  Activation activation = Activation::identity;  // x = activation(...)
  Tensor mask;                                   // of the DenseForward that made x; none: x tells
  Tensor dx;                                     // f32 [R, I] out: (dz weight) * activation'
};

struct GatherBatch {
  Tensor source;  // u8 [N, D]; Indexing::ring: [slots * R, D]
  Tensor state;   // StepState
  Indexing indexing = Indexing::shuffled;
  Binarize binarize = Binarize::none;
  Tensor input;   // f32 [R, D] out: pixels in [0, 1]
  Tensor target;  // u8  [R, D] out: pixels in 0..255; 0 or 255 when binarised
};

// fused_log and two_pass are the likelihood's; the latent kernels are fused unless they are unfused.
struct SampleLatent {
  Tensor stats;  // f32 [R, 2L]: mu, then s (see Posterior)
  Tensor state;  // StepState
  Posterior posterior = Posterior::log_variance;
  Kernels kernels = Kernels::fused;
  Tensor z;           // f32 [R, S, L] out
  Tensor kl_partial;  // f32 [tiles(R, latent_tile), L] out: KL summed over the rows of a tile, in nats
  Tensor scratch;     // f32, scratch_size(...) elements; unused when fused
};

struct SampleLatentBackward {
  Tensor stats;  // f32 [R, 2L]
  Tensor dz;     // f32 [R, S, L]
  Tensor state;  // StepState: epsilon is drawn again
  Posterior posterior = Posterior::log_variance;
  Kernels kernels = Kernels::fused;
  float kl_scale = 1.0f;  // d objective / d KL of one row
  Tensor dstats;          // f32 [R, 2L] out
  Tensor scratch;
};

// Arithmetic is f32 where output is bf16, too; the unfused kernels take f32 only.
struct LikelihoodLoss {
  Tensor output;  // f32 or bf16 [R * S, D]: logits (Bernoulli) or means (Gaussian)
  Tensor target;  // u8 [R, D], a pixel is value / 255, or f32 [R, D]; row r serves outputs r*S .. r*S+S-1
  Likelihood likelihood = Likelihood::bernoulli;
  Kernels kernels = Kernels::fused;
  float variance = 1.0f;    // Gaussian
  float grad_scale = 1.0f;  // d objective / d loss of one output row
  Tensor nll_partial;       // f32 [R * S, tiles(D, pixel_chunk)] out: -log p(x|z), in nats
  Tensor grad;              // [R * S, D] of output's type, out, may be `output` itself; none: value only
  Tensor scratch;
};

// Adds a batch to the running sums of an epoch, in double, and notes a loss that is not finite.
struct Accumulate {
  Tensor nll_partial;  // f32 [R * S, chunks]
  Tensor kl_partial;   // f32 [tiles, L]
  Tensor state;        // StepState
  Tensor sums;         // f64 [2 + L] in and out: rows, reconstruction, KL of each latent unit, in nats
  std::int64_t rows = 0;
};

struct OptimizerStep {
  Tensor parameters, gradients;  // f32 [P]
  Tensor first, second;          // f32 [P] the optimiser's state (math::optimizer_update's m and v)
  Tensor state;                  // StepState
  math::OptimizerSettings settings;
};

// The end of a training step: the batch's losses are added to the epoch's sums, the weights move, the state moves on.
// A batch whose loss is not finite moves no weight.
struct FinishStep {
  Accumulate losses;
  OptimizerStep update;
  Schedule schedule;
  Tensor fault;  // u64 [1], pinned: see advance()
};

// f32 elements that the unfused kernels need as scratch; 0 for the others.
std::int64_t scratch_size(Kernels, std::int64_t rows, std::int64_t samples, std::int64_t columns);

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
  // more waits for the oldest. Both are here as a device has them whose memory is the host's and whose work is done
  // when a call returns.
  virtual std::unique_ptr<Recording> record(std::function<void()> calls, std::size_t under_way = 8);
  virtual std::unique_ptr<Ring> open_ring(std::int64_t slots, std::int64_t rows, std::int64_t pixels);

  // ---- Layers -----------------------------------------------------------------------------------------
  void dense_forward(const DenseForward&);
  void dense_backward(const DenseBackward&);

  // ---- Batch, latent, loss, update -----------------------------------------------------------------------
  void gather_batch(const GatherBatch&);
  void sample_latent(const SampleLatent&);
  void sample_latent_backward(const SampleLatentBackward&);
  void likelihood(const LikelihoodLoss&);
  void accumulate(const Accumulate&);
  void optimizer_step(const OptimizerStep&);
  // Moves `state` on to the next step. `fault` (u64 [1], pinned) then holds the first bad step, if any.
  void advance(const Tensor& state, const Schedule&, const Tensor& fault);
  // The three above, one after the other.
  void finish_step(const FinishStep&);

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

  // What the device took for the calls in a range, from the end of what was queued before it.
  struct RangeTime {
    std::string path;  // "train_step/encode/dense0/dense_forward"
    double start = 0;  // microseconds since the first range began
    double microseconds = 0;
    bool innermost = true;  // no other range is in it
  };
  // Between the two calls every range is timed; stop_timing() waits for the work, and returns them in the order in
  // which they began. Calls that are recorded meanwhile cannot be timed.
  void start_timing();
  std::vector<RangeTime> stop_timing();

  // A kernel, copy or fill as the device itself ran it, replayed or not.
  struct Activity {
    std::string kind;    // "kernel", "copy", "fill"
    std::string name;    // of the kernel, without its templates' and its own arguments; or "copy host to device"
    std::string stream;  // "elbo compute", "elbo copy"; "stream 7" where it has no name
    double start = 0;    // microseconds since the first of those that take_activities() returned began
    double microseconds = 0;
    std::array<std::int64_t, 3> grid{}, block{};  // of a kernel: blocks, and threads in each
    std::int64_t registers = 0;                   // of a thread
    std::int64_t shared_bytes = 0;                // of a block, static and dynamic
    std::int64_t bytes = 0;                       // that were copied or filled
    std::uint64_t graph_node = 0;                 // of a CUDA graph; 0: it was not replayed
  };
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
  explicit Backend(BackendOptions options) : options_(options) {}

  virtual std::byte* do_allocate(std::size_t bytes, Memory) = 0;  // null when there is not enough
  virtual void do_free(std::byte*, Memory) noexcept = 0;
  virtual void do_upload(void* to, const void* from, std::size_t bytes) = 0;
  virtual void do_download(void* to, const void* from, std::size_t bytes) = 0;
  virtual void do_copy(void* to, const void* from, std::size_t bytes) = 0;
  virtual void do_fill(void* to, std::uint8_t byte, std::size_t bytes) = 0;

  virtual void do_dense_forward(const DenseForward&) = 0;
  virtual void do_dense_backward(const DenseBackward&) = 0;

  virtual void do_gather_batch(const GatherBatch&) = 0;
  virtual void do_sample_latent(const SampleLatent&) = 0;
  virtual void do_sample_latent_backward(const SampleLatentBackward&) = 0;
  virtual void do_likelihood(const LikelihoodLoss&) = 0;
  virtual void do_accumulate(const Accumulate&) = 0;
  virtual void do_optimizer_step(const OptimizerStep&) = 0;
  virtual void do_advance(StepState*, const Schedule&, std::uint64_t* fault) = 0;
  virtual void do_finish_step(const FinishStep&);  // the three above; a device overrides it to do all at once

  virtual void push_range(const char*) {}
  virtual void pop_range() {}

  // Marks moments in the queue of work, numbered from 0; once the work is done, tells the time between two of them.
  class Stopwatch {
   public:
    virtual ~Stopwatch() = default;
    virtual void mark() = 0;
    virtual double microseconds(std::size_t from, std::size_t to) = 0;
  };
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
