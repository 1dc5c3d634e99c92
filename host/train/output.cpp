#include "host/train/output.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "elbo/error.h"
#include "host/base/files.h"
#include "host/train/run_folder.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

void check_place(const std::string& path, const OutputKind& kind) {
  const std::string place = place_of(path);
  require(!belongs_to_run(place), path, ": cannot be written: it belongs to the run in that folder");
  std::error_code ignored;
  if (!fs::is_regular_file(place, ignored)) return;
  const InputFile file(path);
  std::string begin(std::min<std::uint64_t>(file.size(), kind.begin.size()), '\0');
  file.read(0, begin.data(), begin.size());
  require(begin.empty() || begin == kind.begin, path, ": cannot be written: there is a file that is no earlier ",
          kind.name, "; remove it, or choose another name");
}

}  // namespace

void require_output(const std::string& path, const OutputKind& kind, std::initializer_list<std::string> others) {
  if (path.empty()) return;
  for (const std::string& other : others)
    require(other.empty() || place_of(path) != place_of(other), path,
            ": cannot be written: it is the experiment, or another output");
  check_place(path, kind);
  require_writable(path);
}

void require_output_folder(const std::string& path) {
  std::error_code error;
  const fs::path folder = fs::absolute(path, error);
  fs::path there = folder;
  while (!error && !fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
  require(!error, path, ": cannot be made: ", error.message());
  // The last "/" makes the name of a file that of no folder.
  check_call(::access((there / "").c_str(), W_OK | X_OK), path,
             there == folder ? "cannot be written" : "cannot be made");
}

void write_output(const std::string& path, const OutputKind& kind, std::string_view content) {
  if (path.empty()) return;
  check_place(path, kind);
  replace_file(path, content);
}

}  // namespace elbo
