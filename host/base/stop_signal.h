// A request to stop, by SIGINT, SIGTERM or SIGHUP: work that heeds it ends at its next good moment.
#pragma once
#include <array>
#include <csignal>
#include <cstddef>

namespace elbo {

// While one of these lives, the signals are noted and do not end the program. A second of the same kind does.
class StopOnSignal {
 public:
  StopOnSignal();
  ~StopOnSignal();
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

 private:
  static constexpr std::array signals = {SIGINT, SIGTERM, SIGHUP};
  std::array<struct sigaction, signals.size()> before_{};
};

// The number of the signal that has come; 0: none.
int stop_requested();

}  // namespace elbo
