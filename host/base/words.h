// Names in messages: which there are, and which was meant; words for a shell.
#pragma once
#include <string>
#include <vector>

namespace elbo {

using Words = std::vector<std::string>;

// "a", "b" or "c"
std::string any_of(const Words&);

// `; did you mean "x"?` where one of `words` is near to what was written, in whatever case, else nothing.
std::string suggestion(const std::string& written, const Words& words);

// In small letters.
std::string lower(std::string);

// The word, in quotes where a shell would not read it as it is.
std::string shell_word(const std::string& word);

}  // namespace elbo
