#include "host/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace elbo {
namespace {

// Work goes on where the terminal is gone.
void draw(const std::string& text) { std::fputs(text.c_str(), stderr); }

}  // namespace

ProgressLine::ProgressLine(std::int64_t total_steps, std::string notice, double patience)
    : terminal_(isatty(STDERR_FILENO) == 1),
      notice_(std::move(notice)),
      patience_(patience),
      total_(total_steps),
      start_(Clock::now()) {}

void ProgressLine::show(std::int64_t step, const std::string& text) {
  const Clock::time_point now = Clock::now();
  if (first_ < 0) {
    first_ = step;
    start_ = now;
  }
  if (!terminal_ && !notice_.empty() && now - start_ > patience_) {
    fmt::print("{}\n", std::exchange(notice_, ""));
    std::fflush(stdout);
  }
  if (!terminal_ || (drawn_ && now - last_ < std::chrono::milliseconds(100))) return;
  last_ = now;
  drawn_ = true;
  constexpr int width = 24;
  const int filled = static_cast<int>(width * step / std::max<std::int64_t>(total_, 1));
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const std::int64_t done = step - first_;
  const std::string left =
      done > 0 ? format_seconds(elapsed / static_cast<double>(done) * static_cast<double>(total_ - step)) : "...";
  draw(fmt::format("\r\033[K{} [{}{}] {} left", text, std::string(static_cast<std::size_t>(filled), '#'),
                   std::string(static_cast<std::size_t>(width - filled), '.'), left));
}

void ProgressLine::clear() {
  if (drawn_) draw("\r\033[K");
  drawn_ = false;
}

std::string format_seconds(double s) {
  if (!std::isfinite(s)) return "unknown";
  if (s < 0.9995) return fmt::format("{:.0f} ms", s * 1e3);  // what would be rounded to a unit is told in it
  if (s < 59.95) return fmt::format("{:.1f} s", s);
  const std::int64_t whole = std::llround(s), minutes = std::llround(s / 60);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
}

}  // namespace elbo
