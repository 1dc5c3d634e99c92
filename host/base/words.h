// Names in messages: which there are, and which was meant.
#pragma once
#include <string>
#include <vector>

namespace elbo {

using Words = std::vector<std::string>;

// "a", "b" or "c"
std::string any_of(const Words&);

// `; did you mean "x"?` where one of `words` is near to what was written, else nothing.
std::string suggestion(const std::string& written, const Words& words);

}  // namespace elbo
