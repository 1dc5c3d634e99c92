// An environment variable of the tests.
#pragma once
#include <cstdlib>

namespace elbo::test {

// It is set for as long as this lives: how the simulated device is told what to do.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Setting() { unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
};

}  // namespace elbo::test
