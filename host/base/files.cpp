#include "host/base/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <random>
#include <system_error>
#include <utility>

#include "elbo/error.h"
#include "host/base/memory.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t most_at_once = std::size_t{1} << 30;  // one call transfers less than 2 GiB
constexpr const char* unwritten = "cannot be written";

void write_all(int fd, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), std::min(bytes.size(), most_at_once));
    if (n < 0 && errno == EINTR) continue;
    check_call(n, path, unwritten);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

// ---- Temporary files -----------------------------------------------------------------------------------------------

constexpr std::string_view temporary_suffix = ".elbo-tmp", letters = "abcdefghijklmnopqrstuvwxyz0123456789";
constexpr std::size_t letters_in_name = 6;

struct NewName {
  int result = 0, error = 0;  // of the call that made it
  std::string name;
};

// Calls make(NAME) with names beside `place` until one is new.
template <class Make>
NewName make_temporary(const std::string& place, Make make) {
  std::random_device random;  // not the process's number: another machine may write the same file
  for (int attempt = 1;; ++attempt) {
    NewName made{.name = place + "."};
    for (std::size_t i = 0; i < letters_in_name; ++i) made.name += letters[random() % letters.size()];
    made.name += temporary_suffix;
    made.result = make(made.name.c_str());
    made.error = errno;
    if (made.result >= 0 || made.error != EEXIST || attempt == 100) return made;
  }
}

bool has_a_name(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) != 0 || info.st_nlink > 0;
}

// What shall become the file `path`. Removed at the end of its life, unless it has been renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& path)
      : path_(path), place_(place_of(path)), file_(open_beside()), lock_(::fcntl(file_.get(), F_DUPFD_CLOEXEC, 0)) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    if (!renamed_) ::unlink(name_.c_str());
  }

  void write(std::span<const std::byte> bytes) { write_all(file_.get(), bytes, path_); }
  // All that was written is on the disk when the file gets its name. Meanwhile lock_ keeps it locked.
  void rename() {
    check_call(::fsync(file_.get()), path_, unwritten);
    file_.close(path_);
    check_call(::rename(name_.c_str(), place_.c_str()), path_, unwritten);
    renamed_ = true;
    sync_folder(fs::path(place_).parent_path().string());
  }

 private:
  int open_beside() {
    // A device, a pipe or what /dev/stdout leads to would be replaced by a file, not written to.
    std::error_code ignored;
    const fs::path folder = fs::absolute(path_, ignored).lexically_normal().parent_path();
    const bool is_device = folder == "/dev" || folder == "/dev/fd" || folder.string().starts_with("/proc/");
    const bool is_other = fs::exists(place_, ignored) && !fs::is_regular_file(place_, ignored);
    require(!is_device && !is_other, path_, ": cannot be written: there is something that is not a regular file");
    for (;;) {
      const auto [fd, error, name] = make_temporary(place_, [](const char* file) {
        return ::open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);  // O_EXCL: no link is followed
      });
      if (fd < 0) fail_call(error, cat(path_, ": ", unwritten), name);
      lock(fd, IfTaken::wait);  // where it cannot be locked, it is written all the same
      if (has_a_name(fd)) {
        name_ = name;
        return fd;
      }
      ::close(fd);  // remove_leftover() was quicker than the lock
    }
  }

  std::string path_, place_, name_;
  Descriptor file_, lock_;
  bool renamed_ = false;
};

}  // namespace

void fail_call(int error, std::string_view path, std::string_view what) {
  fail(path, ": ", what, ": ", std::generic_category().message(error));
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

void Descriptor::close(const std::string& path) { check_call(::close(std::exchange(fd_, -1)), path, unwritten); }

Locking lock(int fd, IfTaken if_taken) {
  while (::flock(fd, if_taken == IfTaken::wait ? LOCK_EX : LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return Locking::taken_by_another;
    if (errno != EINTR) return Locking::impossible;
  }
  return Locking::done;
}

// Non-blocking: opening a pipe by mistake must not wait for its other end.
InputFile::InputFile(const std::string& path)
    : path_(path),
      file_(check_call(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK), path, "cannot be opened")) {
  struct stat info {};
  check_call(::fstat(file_.get(), &info), path, "cannot be read");
  require(S_ISREG(info.st_mode), path, S_ISDIR(info.st_mode) ? ": is a folder" : ": is not a regular file");
  size_ = static_cast<std::uint64_t>(info.st_size);
}

void InputFile::read(std::uint64_t at, void* to, std::size_t n) const {
  auto* next = static_cast<std::byte*>(to);
  while (n > 0) {
    const ssize_t got = ::pread(file_.get(), next, std::min(n, most_at_once), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    check_call(got, path_, "cannot be read");
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
  for (const auto& piece : pieces) file.write(piece);
  file.rename();
}

void replace_file(const std::string& path, std::string_view text) {
  const std::span<const std::byte> piece = std::as_bytes(std::span(text));
  replace_file(path, {&piece, 1});
}

void replace_by_link(const std::string& from, const std::string& to) {
  const NewName made = make_temporary(
      to, [&](const char* name) { return ::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, name, AT_SYMLINK_FOLLOW); });
  if (made.result < 0) {
    const std::vector<std::byte> bytes = read_file(from);
    const std::span<const std::byte> piece = bytes;
    return replace_file(to, {&piece, 1});
  }
  const int renamed = ::rename(made.name.c_str(), to.c_str()), error = errno;
  ::unlink(made.name.c_str());  // still there where that failed, and where both names were the same file's already
  if (renamed != 0) fail_call(error, to, unwritten);
  sync_folder(fs::path(to).parent_path().string());
}

void require_writable(const std::string& path) { TemporaryFile{path}; }

// A file that is replaced by its link's name would leave the link's place.
std::string place_of(const std::string& path) {
  std::error_code error, ignored;
  fs::path place = fs::absolute(path, error);
  constexpr int most_links = 40;  // as Linux follows
  for (int i = 0; i < most_links && !error && fs::is_symlink(place, ignored); ++i)
    place = place.parent_path() / fs::read_symlink(place, error);
  if (!error) place = fs::weakly_canonical(place, error);
  require(!error, path, ": cannot be written: ", error.message());
  return place.string();
}

std::string name_in_temporary(const std::string& file_name) {
  constexpr std::size_t added = 1 + letters_in_name + temporary_suffix.size();
  if (file_name.size() <= added || !file_name.ends_with(temporary_suffix)) return "";
  const std::size_t end = file_name.size() - added;
  const std::string_view random = std::string_view(file_name).substr(end + 1, letters_in_name);
  if (file_name[end] != '.' || random.find_first_not_of(letters) != std::string_view::npos) return "";
  return file_name.substr(0, end);
}

void remove_leftover(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (file.get() < 0 || lock(file.get(), IfTaken::leave) == Locking::taken_by_another) return;
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail_call(errno, path, "cannot be removed");
}

void sync_folder(const std::string& folder) {
  const Descriptor directory(
      check_call(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), folder, "the folder cannot be synced"));
  // Some network file systems cannot sync a folder (EINVAL); the file is in place all the same.
  if (::fsync(directory.get()) != 0 && errno != EINVAL) fail_call(errno, folder, "the folder cannot be synced");
}

void append_line(const std::string& path, std::string_view line) {
  Descriptor file(
      check_call(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666), path, "cannot be opened"));
  const std::string bytes = std::string(line) + "\n";
  write_all(file.get(), std::as_bytes(std::span(bytes)), path);
  file.close(path);
}

void sync_file(const std::string& path) {
  Descriptor file(check_call(::open(path.c_str(), O_WRONLY | O_CLOEXEC), path, "cannot be opened"));
  check_call(::fsync(file.get()), path, unwritten);
  file.close(path);
}

}  // namespace elbo
