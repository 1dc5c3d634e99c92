#include "host/base/timing.h"

#include <algorithm>
#include <cmath>

namespace elbo {

double quantile(const std::vector<double>& sorted, double q) {
  const auto rank = static_cast<std::size_t>(std::lround(q * static_cast<double>(sorted.size() - 1)));
  return sorted[rank];
}

double warmup_seconds(std::optional<double> asked, const DeviceInfo& device) {
  if (asked) return *asked;
  return device.simulated ? 0 : device.launches ? 0.5 : 0.1;
}

void ClockRate::add(double mhz) {
  known_ = mhz > 0;
  if (known_) samples_.push_back(mhz);
}

double ClockRate::mhz() const {
  if (samples_.empty()) return 0;
  std::vector<double> sorted = samples_;
  std::ranges::sort(sorted);
  return quantile(sorted, 0.5);
}

}  // namespace elbo
