#pragma once

#include <string>

namespace elbo {

// What to do about the loader's words, if they are that a library of CUDA's or of the driver's is not where it looks:
// the line that sets LD_LIBRARY_PATH where the library is in one of the usual folders, else where it comes from. Begins
// with "; ". Empty for other words.
std::string advice_on(const std::string& loader_error);

// The same where CUDA finds no driver: that line, if the driver's library is in one of those folders. Empty where the
// loader finds it, or nobody does.
std::string advice_on_driver();

}  // namespace elbo
