// An environment variable of the tests.
#pragma once
#include <cstdlib>
#include <optional>
#include <string>

namespace elbo::test {

// It is set for as long as this lives, and is then what it was before: how the simulated device is told what to do.
class Setting {
 public:
  Setting(const char* name, const char* value) : name_(name) {
    if (const char* const before = std::getenv(name)) before_ = before;
    setenv(name, value, 1);
  }
  ~Setting() {
    if (before_) {
      setenv(name_, before_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;  // none: it was not set
};

}  // namespace elbo::test
