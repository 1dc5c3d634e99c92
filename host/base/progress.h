// What a person sees of long work: one line that is drawn again and again on a terminal; elsewhere nothing, or a
// notice.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace elbo {

class ProgressLine {
 public:
  // `notice`: a line for standard output where there is no terminal and the work lasts longer than `patience` seconds.
  explicit ProgressLine(std::int64_t total_steps, std::string notice = "", double patience = 2);
  ~ProgressLine() { clear(); }

  // At most ten times a second. `text` goes before the bar: "epoch 3/20".
  void show(std::int64_t step, const std::string& text);
  // The same, for work that tells how much of it is done, from 0 to 1. The total is `parts` then.
  void show_part(double done, const std::string& text) { show(static_cast<std::int64_t>(done * parts), text); }
  static constexpr std::int64_t parts = 1000;
  void clear();  // before something else is printed

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_, drawn_ = false;
  std::string notice_;
  std::chrono::duration<double> patience_;
  std::int64_t total_, first_ = -1;
  Clock::time_point start_, last_;
};

// "850 ms", "12.3 s", "4 min 05 s", "2 h 10 min"; "unknown" where it is not finite.
std::string format_seconds(double seconds);

}  // namespace elbo
