// A folder of its own for a test, gone when the test is over.
#pragma once
#include <stdlib.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "elbo/error.h"

namespace elbo::test {

class TemporaryFolder {
 public:
  TemporaryFolder() : path_((std::filesystem::temp_directory_path() / "elbo-test-XXXXXX").string()) {
    require(::mkdtemp(path_.data()) != nullptr, path_, ": cannot be made");
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  // Writes a file, and the folders on its way; returns its path.
  std::string write(const std::string& name, std::span<const std::byte> bytes) const {
    const std::filesystem::path path = *this / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    require(file.flush().good(), path.string(), ": cannot be written");
    return path.string();
  }

 private:
  std::string path_;
};

}  // namespace elbo::test
