#include "host/base/stop_signal.h"

namespace elbo {
namespace {

volatile std::sig_atomic_t requested = 0;

}  // namespace

StopOnSignal::StopOnSignal() {
  struct sigaction action {};
  action.sa_handler = [](int signal) { requested = signal; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second signal ends the program at once
  for (std::size_t i = 0; i < signals.size(); ++i) {
    sigaction(signals[i], nullptr, &before_[i]);
    // What whoever started this wants ignored stays so: nohup's SIGHUP, SIGINT of a job in the background.
    if (before_[i].sa_handler != SIG_IGN) sigaction(signals[i], &action, nullptr);
  }
}

StopOnSignal::~StopOnSignal() {
  for (std::size_t i = 0; i < signals.size(); ++i) sigaction(signals[i], &before_[i], nullptr);
  requested = 0;
}

int stop_requested() { return requested; }

}  // namespace elbo
