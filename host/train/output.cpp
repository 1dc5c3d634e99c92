#include "host/train/output.h"

#include <algorithm>
#include <filesystem>

#include "elbo/error.h"
#include "host/base/files.h"
#include "host/train/run_folder.h"

namespace elbo {
namespace {

void check_place(const std::string& path, const OutputKind& kind) {
  const std::string place = place_of(path);
  require(!belongs_to_run(place), path, ": cannot be written: it belongs to the run in that folder");
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(place, ignored)) return;
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

void write_output(const std::string& path, const OutputKind& kind, std::string_view content) {
  if (path.empty()) return;
  check_place(path, kind);
  replace_file(path, content);
}

}  // namespace elbo
