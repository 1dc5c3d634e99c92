#include "host/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "elbo/error.h"
#include "host/memory.h"

namespace elbo {
namespace {

constexpr std::size_t most_at_once = std::size_t{1} << 30;  // one call transfers less than 2 GiB

std::string reason() { return std::generic_category().message(errno); }

void write_all(int fd, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), std::min(bytes.size(), most_at_once));
    if (n < 0 && errno == EINTR) continue;
    require(n >= 0, path, ": cannot be written: ", reason());
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

// Where `path` leads, links followed: a file that is replaced by its link's name would leave the link's place.
std::filesystem::path target_of(const std::string& path) {
  std::error_code error, ignored;
  std::filesystem::path target = std::filesystem::absolute(path, error);
  constexpr int most_links = 40;  // as Linux follows
  for (int i = 0; i < most_links && !error && std::filesystem::is_symlink(target, ignored); ++i)
    target = target.parent_path() / std::filesystem::read_symlink(target, error);
  if (!error) target = std::filesystem::weakly_canonical(target, error);
  require(!error, path, ": cannot be written: ", error.message());
  return target;
}

// What shall become the file `path`. Removed at the end of its life, unless it has been renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& path) : path_(target_of(path).string()), file_(open_beside(path)) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (!renamed_) ::unlink(temporary(path_).c_str());
  }
  int get() const { return file_.get(); }
  void rename() {
    require(::rename(temporary(path_).c_str(), path_.c_str()) == 0, path_, ": cannot be written: ", reason());
    renamed_ = true;
  }

 private:
  static std::string temporary(const std::string& path) { return path + ".tmp"; }
  int open_beside(const std::string& path) const {
    // A device, a pipe or what /dev/stdout leads to would be replaced by a file, not written to.
    std::error_code ignored;
    const std::filesystem::path folder = std::filesystem::absolute(path, ignored).lexically_normal().parent_path();
    const bool is_device = folder == "/dev" || folder == "/dev/fd" || folder.string().starts_with("/proc/");
    const bool is_other = std::filesystem::exists(path_, ignored) && !std::filesystem::is_regular_file(path_, ignored);
    require(!is_device && !is_other, path, ": cannot be written: there is something that is not a regular file");
    const int file = ::open(temporary(path_).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    require(file >= 0, path, ": cannot be written: ", temporary(path), ": ", reason());
    return file;
  }
  std::string path_;
  Descriptor file_;
  bool renamed_ = false;
};

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

// Non-blocking: opening a pipe by mistake must not wait for its other end.
InputFile::InputFile(const std::string& path)
    : path_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  require(file_.get() >= 0, path, ": cannot be opened: ", reason());
  struct stat info {};
  require(::fstat(file_.get(), &info) == 0, path, ": cannot be read: ", reason());
  require(S_ISREG(info.st_mode), path, S_ISDIR(info.st_mode) ? ": is a folder" : ": is not a regular file");
  size_ = static_cast<std::uint64_t>(info.st_size);
}

void InputFile::read(std::uint64_t at, void* to, std::size_t n) const {
  auto* next = static_cast<std::byte*>(to);
  while (n > 0) {
    const ssize_t got = ::pread(file_.get(), next, std::min(n, most_at_once), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    require(got >= 0, path_, ": cannot be read: ", reason());
    require(got > 0, path_, ": was cut short while it was being read, at byte ", at);
    next += got;
    at += static_cast<std::uint64_t>(got);
    n -= static_cast<std::size_t>(got);
  }
}

std::vector<std::byte> read_file(const std::string& path) {
  const InputFile file(path);
  std::vector<std::byte> bytes;
  reserve_memory(bytes, file.size(), path);
  bytes.resize(file.size());
  file.read(0, bytes.data(), bytes.size());
  return bytes;
}

std::string read_text(const std::string& path) {
  const InputFile file(path);
  std::string text;
  reserve_memory(text, file.size(), path);
  text.resize(file.size());
  file.read(0, text.data(), text.size());
  return text;
}

void replace_file(const std::string& path, std::span<const std::span<const std::byte>> pieces) {
  TemporaryFile file(path);
  for (const auto& piece : pieces) write_all(file.get(), piece, path);
  require(::fsync(file.get()) == 0, path, ": cannot be written: ", reason());
  file.rename();
  sync_folder(target_of(path).parent_path().string());
}

void sync_folder(const std::string& folder) {
  const Descriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some network file systems cannot sync a folder (EINVAL); the file is in place all the same.
  require(directory.get() >= 0 && (::fsync(directory.get()) == 0 || errno == EINVAL), folder,
          ": the folder cannot be synced: ", reason());
}

void replace_file(const std::string& path, std::string_view text) {
  const std::span<const std::byte> piece = std::as_bytes(std::span(text));
  replace_file(path, {&piece, 1});
}

void require_writable(const std::string& path, std::initializer_list<std::string> others) {
  if (path.empty()) return;
  for (const std::string& other : others)
    require(other.empty() || target_of(path) != target_of(other), path,
            ": cannot be written: it is the experiment, or another output");
  TemporaryFile{path};
}

void append_line(const std::string& path, std::string_view line) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  require(file.get() >= 0, path, ": cannot be opened: ", reason());
  const std::string bytes = std::string(line) + "\n";
  write_all(file.get(), std::as_bytes(std::span(bytes)), path);
}

void sync_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  require(file.get() >= 0, path, ": cannot be opened: ", reason());
  require(::fsync(file.get()) == 0, path, ": cannot be written: ", reason());
}

}  // namespace elbo
