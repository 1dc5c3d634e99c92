// A stand-in for NVTX: no profiler listens, but the ranges are counted, so that a test can see them nest.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#define NVTX_VERSION 3
#define NVTX_EVENT_ATTRIB_STRUCT_SIZE sizeof(nvtxEventAttributes_t)
#define NVTX_MESSAGE_TYPE_ASCII 1

using nvtxDomainHandle_t = const char*;

struct nvtxEventAttributes_t {
  std::uint16_t version, size;
  std::int32_t messageType;
  union {
    const char* ascii;
  } message;
};

namespace cusim {

// The ranges of this thread: those that are open, outermost first, and the full name ("a/b/c") of every
// one that was opened while it was asked to remember them.
struct Ranges {
  std::vector<std::string> open, seen;
  bool remember = false;
  int unmatched_pops = 0;
};
inline Ranges& ranges() {
  static thread_local Ranges r;
  return r;
}

}  // namespace cusim

inline nvtxDomainHandle_t nvtxDomainCreateA(const char* name) { return name; }

inline int nvtxDomainRangePushEx(nvtxDomainHandle_t, const nvtxEventAttributes_t* event) {
  cusim::Ranges& r = cusim::ranges();
  r.open.emplace_back(event->message.ascii);
  if (r.remember) {
    std::string path;
    for (const std::string& name : r.open) path += (path.empty() ? "" : "/") + name;
    r.seen.push_back(path);
  }
  return static_cast<int>(r.open.size()) - 1;
}

inline int nvtxDomainRangePop(nvtxDomainHandle_t) {
  cusim::Ranges& r = cusim::ranges();
  if (r.open.empty()) {
    ++r.unmatched_pops;
    return -1;
  }
  r.open.pop_back();
  return static_cast<int>(r.open.size());
}
