// What the device itself did: kernels, copies and fills by CUPTI's activity records.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "elbo/backend.h"

namespace elbo::cuda {

// CUPTI keeps the records of the whole process, so there may be one of these at a time. Graphs that were made before it
// are not to be replayed while it is there: CUPTI tells their nodes wrongly or not at all.
class Activities {
 public:
  // Throws Error where CUPTI is missing or refuses. marks: the calls between two marks shall be told apart, which takes
  // a record of every call and the host's time for it.
  explicit Activities(bool marks);
  ~Activities();
  Activities(const Activities&) = delete;
  Activities& operator=(const Activities&) = delete;

  // For Activity::stream.
  void name_stream(cudaStream_t, const char* name);

  // Moments between two calls of this thread, numbered from 0 since start_marks().
  void start_marks();
  void mark();

  // The device must have no work left when one of these is called.
  // When what was queued in `stream` before each mark was over, in microseconds since the first activity began.
  std::vector<double> moments(cudaStream_t stream);
  // All activities since the last call.
  std::vector<Activity> take();

 private:
  std::map<std::uint32_t, std::string> stream_names_;  // by CUPTI's number
  std::uint64_t marks_ = 0;
};

}  // namespace elbo::cuda
