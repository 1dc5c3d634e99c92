#include "host/train/epoch_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace elbo {
namespace {

// A number that is too long for its column still has a blank in front.
constexpr const char* first_columns = " {:>12} {:>12} {:>14} {:>9}";
constexpr const char* last_column = " {:>9}\n";

std::string further_column(const std::string& name, const std::string& text) {
  return fmt::format(" {:>{}}", text, std::max<std::size_t>(9, name.size() + 1));
}

std::string epoch_label(std::int64_t epoch, std::int64_t epochs) {
  const std::string last = fmt::format("{}", epochs);
  return fmt::format("epoch {:>{}}/{}", epoch, std::max<std::size_t>(last.size(), 3), last);
}

std::string number(double x) { return std::abs(x) < 1e6 ? fmt::format("{:.3f}", x) : fmt::format("{:.4g}", x); }

}  // namespace

std::string epoch_head(const Figures& like, std::int64_t epochs) {
  std::string text(epoch_label(1, epochs).size(), ' ');
  text += fmt::format(first_columns, "train ELBO", "test ELBO", "reconstruction", "KL");
  for (const auto& [name, value] : like.further) text += further_column(name, name);
  return text + fmt::format(last_column, "images/s");
}

std::string epoch_line(const EpochMetrics& m, std::int64_t epochs) {
  std::string text = epoch_label(m.epoch, epochs);
  text += fmt::format(first_columns, number(m.train.elbo), number(m.test.elbo), number(m.test.reconstruction),
                      number(m.test.kl));
  for (const auto& [name, value] : m.test.further) text += further_column(name, number(value));
  return text + fmt::format(last_column, fmt::format("{:.0f}", m.images_per_second));
}

std::string parts_text(const Figures& f) {
  std::string text = fmt::format("reconstruction {:.3f}, KL {:.3f}", f.reconstruction, f.kl);
  for (const auto& [name, value] : f.further) text += fmt::format(", {} {:.3f}", name, value);
  return text;
}

}  // namespace elbo
