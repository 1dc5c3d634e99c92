#include "cuda/activity.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <unordered_map>

#include "cuda/activity_records.h"
#include "cuda/cupti.h"
#include "cuda/kernel_name.h"
#include "elbo/error.h"

namespace elbo::cuda {
namespace {

constexpr CUpti_ActivityKind device_kinds[] = {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMCPY,
                                               CUPTI_ACTIVITY_KIND_MEMSET};
// A call's mark is told beside its own record only. cuBLASLt may launch through either API.
constexpr CUpti_ActivityKind mark_kinds[] = {CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION, CUPTI_ACTIVITY_KIND_RUNTIME,
                                             CUPTI_ACTIVITY_KIND_DRIVER};
constexpr CUpti_ExternalCorrelationKind mark_kind = CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0;

void check_cupti(CUptiResult r, const char* what) {
  if (r == CUPTI_SUCCESS) return;
  const char* name = "an unknown error";
  load_cupti().result_string(r, &name);
  fail(what, ": ", name,
       r == CUPTI_ERROR_INSUFFICIENT_PRIVILEGES
           ? ": the driver lets administrators profile only; its option NVreg_RestrictProfilingToAdminUsers=0 (of the "
             "kernel module nvidia) lets everyone"
           : "");
}

struct Record {
  Activity activity;
  std::uint64_t begin, end;  // nanoseconds
  std::uint32_t stream, correlation;
};

// CUPTI's callbacks take no argument of ours, and may come on a thread of its own.
struct Collector {
  std::mutex mutex;
  std::vector<Record> records;
  std::unordered_map<std::uint32_t, std::uint64_t> marks;  // of a call, by its correlation
  std::size_t lost = 0;
  std::unordered_map<const char*, std::string> names;  // a kernel's name has one address
};
Collector& collector() {
  static auto* c = new Collector;  // not destroyed: CUPTI may have a buffer to deliver when the program ends
  return *c;
}

const char* copy_name(std::uint8_t kind) {
  switch (kind) {
    case CUPTI_ACTIVITY_MEMCPY_KIND_HTOD: return "copy host to device";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOH: return "copy device to host";
    case CUPTI_ACTIVITY_MEMCPY_KIND_DTOD: return "copy device to device";
    default: return "copy";
  }
}

template <class R>
void add(Collector& c, const R& r, Activity activity) {
  if (r.end == 0) {  // the device had no memory left for its times
    ++c.lost;
    return;
  }
  activity.graph_node = r.graphNodeId;
  c.records.push_back({.activity = std::move(activity),
                       .begin = r.start,
                       .end = r.end,
                       .stream = r.streamId,
                       .correlation = r.correlationId});
}

void read(Collector& c, const CUpti_Activity* record) {
  switch (record->kind) {
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
      const auto& k = *reinterpret_cast<const KernelRecord*>(record);
      std::string& name = c.names[k.name];
      if (name.empty()) name = kernel_name(k.name);
      Activity a{.kind = "kernel", .name = name, .stream = ""};
      a.grid = {k.gridX, k.gridY, k.gridZ};
      a.block = {k.blockX, k.blockY, k.blockZ};
      a.registers = k.registersPerThread;
      a.shared_bytes = std::int64_t{k.staticSharedMemory} + k.dynamicSharedMemory;
      return add(c, k, std::move(a));
    }
    case CUPTI_ACTIVITY_KIND_MEMCPY: {
      const auto& m = *reinterpret_cast<const CopyRecord*>(record);
      Activity a{.kind = "copy", .name = copy_name(m.copyKind), .stream = ""};
      a.bytes = static_cast<std::int64_t>(m.bytes);
      return add(c, m, std::move(a));
    }
    case CUPTI_ACTIVITY_KIND_MEMSET: {
      const auto& m = *reinterpret_cast<const FillRecord*>(record);
      Activity a{.kind = "fill", .name = "fill", .stream = ""};
      a.bytes = static_cast<std::int64_t>(m.bytes);
      return add(c, m, std::move(a));
    }
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: {
      const auto& e = *reinterpret_cast<const MarkRecord*>(record);
      if (e.externalKind == mark_kind) c.marks[e.correlationId] = e.externalId;
      return;
    }
    default: return;
  }
}

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* most_records) {
  constexpr std::size_t bytes = 1 << 20;
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(8, bytes));
  *size = *buffer ? bytes : 0;
  *most_records = 0;  // as many as it holds
}

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t size) {
  Collector& c = collector();
  const std::lock_guard lock(c.mutex);
  CUpti_Activity* record = nullptr;
  while (size > 0 && load_cupti().next_record(buffer, size, &record) == CUPTI_SUCCESS) read(c, record);
  std::size_t dropped = 0;
  if (load_cupti().dropped_records(nullptr, 0, &dropped) == CUPTI_SUCCESS) c.lost += dropped;
  std::free(buffer);
}

// Has CUPTI deliver its records, and returns when the first activity began.
std::uint64_t flush() {
  check_cupti(load_cupti().flush_all(0), "cuptiActivityFlushAll");
  Collector& c = collector();
  const std::lock_guard lock(c.mutex);
  std::uint64_t first = std::numeric_limits<std::uint64_t>::max();
  for (const Record& r : c.records) first = std::min(first, r.begin);
  return first;
}

void disable_all() {
  for (const CUpti_ActivityKind kind : mark_kinds) load_cupti().disable(kind);
  for (const CUpti_ActivityKind kind : device_kinds) load_cupti().disable(kind);
}

double microseconds(std::uint64_t from, std::uint64_t to) { return 1e-3 * static_cast<double>(to - from); }

}  // namespace

Activities::Activities(bool marks) {
  const Cupti& cupti = load_cupti();
  check_cupti(cupti.register_callbacks(give_buffer, take_buffer), "cuptiActivityRegisterCallbacks");
  {  // what an earlier one has left
    Collector& c = collector();
    const std::lock_guard lock(c.mutex);
    c.records.clear();
    c.marks.clear();
    c.lost = 0;
  }
  try {
    for (const CUpti_ActivityKind kind : device_kinds) check_cupti(cupti.enable(kind), "cuptiActivityEnable");
    if (!marks) return;
    for (const CUpti_ActivityKind kind : mark_kinds) check_cupti(cupti.enable(kind), "cuptiActivityEnable");
  } catch (const Error&) {
    disable_all();
    throw;
  }
}

Activities::~Activities() {
  if (marks_ > 0) load_cupti().pop_id(mark_kind, nullptr);
  disable_all();
}

void Activities::name_stream(cudaStream_t stream, const char* name) {
  std::uint32_t id = 0;
  check_cupti(load_cupti().stream_id(nullptr, stream, 0, &id), "cuptiGetStreamIdEx");
  stream_names_[id] = name;
}

void Activities::start_marks() {
  if (marks_ > 0) check_cupti(load_cupti().pop_id(mark_kind, nullptr), "cuptiActivityPopExternalCorrelationId");
  marks_ = 0;
  flush();
  const std::lock_guard lock(collector().mutex);
  collector().marks.clear();
}

void Activities::mark() {
  if (marks_ > 0) check_cupti(load_cupti().pop_id(mark_kind, nullptr), "cuptiActivityPopExternalCorrelationId");
  check_cupti(load_cupti().push_id(mark_kind, marks_++), "cuptiActivityPushExternalCorrelationId");
}

std::vector<double> Activities::moments(cudaStream_t stream) {
  const std::uint64_t first = flush();
  std::uint32_t id = 0;
  check_cupti(load_cupti().stream_id(nullptr, stream, 0, &id), "cuptiGetStreamIdEx");
  Collector& c = collector();
  const std::lock_guard lock(c.mutex);
  std::vector<double> moments(marks_ + 1);
  for (const Record& r : c.records) {
    const auto mark = c.marks.find(r.correlation);
    if (r.stream != id || mark == c.marks.end()) continue;
    double& over = moments[mark->second + 1];
    over = std::max(over, microseconds(first, r.end));
  }
  for (std::size_t i = 1; i <= marks_; ++i) moments[i] = std::max(moments[i], moments[i - 1]);
  require(marks_ == 0 || moments.back() > 0,
          "CUPTI did not say which calls the kernels come from; with a recording, that is not asked");
  return moments;
}

std::vector<Activity> Activities::take() {
  const std::uint64_t first = flush();
  Collector& c = collector();
  const std::lock_guard lock(c.mutex);
  const std::size_t lost = std::exchange(c.lost, 0);
  std::vector<Record> records = std::exchange(c.records, {});
  require(lost == 0, "CUPTI lost ", lost, " activities for lack of memory; watch fewer steps");
  std::ranges::stable_sort(records, {}, &Record::begin);
  std::vector<Activity> activities;
  for (Record& r : records) {
    const auto name = stream_names_.find(r.stream);
    r.activity.stream = name != stream_names_.end() ? name->second : cat("stream ", r.stream);
    r.activity.start = microseconds(first, r.begin);
    r.activity.microseconds = microseconds(r.begin, r.end);
    activities.push_back(std::move(r.activity));
  }
  return activities;
}

}  // namespace elbo::cuda
