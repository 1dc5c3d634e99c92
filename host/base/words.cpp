#include "host/base/words.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <utility>

#include "host/base/json.h"

namespace elbo {
namespace {

// How many characters must be inserted, removed, replaced or swapped with the next to make b of a.
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    before = std::exchange(last, row);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

}  // namespace

std::string lower(std::string word) {
  for (char& c : word) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return word;
}

std::string any_of(const Words& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    text += (i == 0 ? "" : i + 1 < words.size() ? ", " : " or ") + in_quotes(words[i]);
  }
  return text;
}

std::string suggestion(const std::string& written, const Words& words) {
  std::string best;
  std::size_t least = std::string::npos;
  for (const std::string& w : words) {
    const std::size_t longer = std::max(w.size(), written.size()), shorter = std::min(w.size(), written.size());
    if (longer - shorter > longer / 3) continue;
    const std::size_t d = edit_distance(lower(written), lower(w));
    if (d <= longer / 3 && d < least) {
      least = d;
      best = w;
    }
  }
  return best.empty() ? "" : "; did you mean " + in_quotes(best) + "?";
}

std::string shell_word(const std::string& word) {
  const auto harmless = [](unsigned char c) { return std::isalnum(c) || std::strchr("_./:=@%+,-", c) != nullptr; };
  if (!word.empty() && std::ranges::all_of(word, harmless)) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

}  // namespace elbo
