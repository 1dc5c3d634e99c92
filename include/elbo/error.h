// Errors for people: what was wrong, where, what was expected. What elbo finds wrong is one of these; beside them there
// are only the standard library's own (no memory).
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace elbo {

// Both pass from a plug-in to the program, so that their type information is visible in either.
class [[gnu::visibility("default")]] Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A device that this machine does not have: no plug-in, no driver, no GPU. Any other Error of a device means that it is
// there and does not work.
class [[gnu::visibility("default")]] DeviceAbsent : public Error {
 public:
  using Error::Error;
};

// Joins its arguments into one string, as an ostream would print them.
template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

template <class... Args>
[[noreturn]] void fail(const Args&... args) {
  throw Error(cat(args...));
}

// Throws an Error made of `args` unless `condition` holds.
template <class... Args>
void require(bool condition, const Args&... args) {
  if (!condition) fail(args...);
}

}  // namespace elbo
