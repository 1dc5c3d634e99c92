// What every timing has in common: a device that is warm, the rate of its clock beside the figure, quantiles.
#pragma once
#include <chrono>
#include <optional>
#include <vector>

#include "elbo/backend.h"

namespace elbo {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// The q-quantile of sorted values, by the nearest rank.
double quantile(const std::vector<double>& sorted, double q);

// Seconds of work before a timing: those that were asked for, or the device's. A GPU that was idle runs at a fraction
// of its clock, and takes its time to leave it: half a second. A CPU takes a tenth; the simulated device has no clock.
double warmup_seconds(std::optional<double> asked, const DeviceInfo&);

// Calls `work`, which waits for the device, for that long: not at all for 0 seconds, else at least once.
template <class Work>
void warm_up(double seconds, const Work& work) {
  if (seconds <= 0) return;
  const Clock::time_point begin = Clock::now();
  do {
    work();
  } while (seconds_since(begin) < seconds);
}

// The rate of a device's clock while it works, from a few samples: Backend::clock_mhz().
class ClockRate {
 public:
  explicit ClockRate(Backend& device) : device_(device), known_(device.clock_mhz() > 0) {}

  // To be called between two timings, in which it must not be counted: `queue` queues work, and the device is asked
  // while that is under way. Asks at most every twentieth of a second, and no more where the rate is unknown.
  template <class Queue>
  void sample(const Queue& queue) {
    if (!known_ || (!samples_.empty() && seconds_since(last_) < 0.05)) return;
    queue();
    add(device_.clock_mhz());
    device_.synchronize();
    last_ = Clock::now();
  }
  double mhz() const;  // the median of the samples; 0: unknown

 private:
  void add(double mhz);

  Backend& device_;
  std::vector<double> samples_;
  Clock::time_point last_{};
  bool known_;
};

}  // namespace elbo
