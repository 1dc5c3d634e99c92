// What the tests of errors share.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "elbo/error.h"

namespace elbo::test {

// What the Error says that a call throws; empty where it throws none.
inline std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

// Where `part` stands in a text from `at` on, not within a word or a number; npos where it does not.
inline std::size_t find_words(const std::string& text, const std::string& part, std::size_t at) {
  const auto in_word = [&](std::size_t i) { return std::isalnum(static_cast<unsigned char>(text[i])) != 0; };
  for (at = text.find(part, at); at != std::string::npos && !part.empty(); at = text.find(part, at + 1)) {
    const std::size_t end = at + part.size();
    const bool cut_before = at > 0 && in_word(at - 1) && in_word(at);
    const bool cut_after = end < text.size() && in_word(end - 1) && in_word(end);
    if (!cut_before && !cut_after) break;
  }
  return at;
}

// Whether a message says what it must: every part of `what`, in that order, however it is put. Its parts stand between
// " ... ": "x.json:3: seed: ... 0 to 9 ... -1".
inline testing::AssertionResult says(const std::string& message, const std::string& what) {
  const std::string gap = " ... ";
  std::size_t at = 0;
  for (std::size_t begin = 0; begin <= what.size();) {
    const std::size_t end = std::min(what.find(gap, begin), what.size());
    const std::string part = what.substr(begin, end - begin);
    at = find_words(message, part, at);
    if (at == std::string::npos)
      return testing::AssertionFailure() << "no \"" << part << "\" in its place in: " << message;
    at += part.size();
    begin = end + gap.size();
  }
  return testing::AssertionSuccess();
}

inline void expect_words(const std::string& text, const std::vector<std::string>& words) {
  for (const std::string& word : words) EXPECT_NE(text.find(word), std::string::npos) << word << " in: " << text;
}

}  // namespace elbo::test
