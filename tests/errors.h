// What the tests of errors share.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
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

// Whether a message says what it must: every part of `what`, in that order, however it is put. Its parts stand between
// " ... ": "x.json:3: seed: ... 0 to 9 ... -1".
inline testing::AssertionResult says(const std::string& message, const std::string& what) {
  const std::string gap = " ... ";
  std::size_t at = 0;
  for (std::size_t begin = 0; begin <= what.size();) {
    const std::size_t end = std::min(what.find(gap, begin), what.size());
    const std::string part = what.substr(begin, end - begin);
    at = message.find(part, at);
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
