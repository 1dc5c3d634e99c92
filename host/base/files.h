// Files, read and replaced whole, with errors that name the file and the reason.
#pragma once
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace elbo {

// The Error "PATH: WHAT: REASON", the reason of a system call that has left `error` in errno.
[[noreturn]] void fail_call(int error, std::string_view path, std::string_view what);

// A system call's result, which is negative where the call has failed: an Error then. errno is read in here, when the
// call is over; among the arguments of require() it may be read before, as the compiler likes.
template <class T>
T check_call(T result, std::string_view path, std::string_view what) {
  if (result < 0) fail_call(errno, path, what);
  return result;
}

// Owns an open file.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  // For a file that was written: some file systems tell only now that there was no space. `path` is for the Error.
  void close(const std::string& path);

 private:
  int fd_;
};

// What came of asking for the lock of an open file or folder. Where there can be none, as on some network file systems,
// errno says why.
enum class Locking : std::uint8_t { done, taken_by_another, impossible };
enum class IfTaken : std::uint8_t { wait, leave };
// The lock is held until the file is closed.
Locking lock(int fd, IfTaken);

// A regular file, open for reading at any place.
class InputFile {
 public:
  explicit InputFile(const std::string& path);

  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }
  // Bytes at .. at + n - 1. An Error where the file has become shorter meanwhile.
  void read(std::uint64_t at, void* to, std::size_t n) const;

 private:
  std::string path_;
  Descriptor file_;
  std::uint64_t size_ = 0;
};

std::vector<std::byte> read_file(const std::string& path);
std::string read_text(const std::string& path);

// Makes `pieces`, one after the other, the content of the file `path`. At every moment, a power cut included, `path` is
// either the old file or the whole new one: the bytes go to a temporary file beside it, are synced, and it is renamed.
// Several processes may do so at once; the last one's file stays. On an Error (no space, no such folder, ...) `path` is
// untouched and nothing else is left. A link is followed.
void replace_file(const std::string& path, std::span<const std::span<const std::byte>> pieces);
void replace_file(const std::string& path, std::string_view text);

// Makes `to`, in the same way, a second name of the file `from`, or a copy on a file system without such names.
void replace_by_link(const std::string& from, const std::string& to);

// Throws the Error of a replace_file() that could not begin.
void require_writable(const std::string& path);

// Where `path` leads, links followed. What is not there yet has a place, too.
std::string place_of(const std::string& path);

// Temporary files are called NAME.XXXXXX.elbo-tmp, with six random characters, and locked while they are written. This
// is the NAME; empty where the file is none of them.
std::string name_in_temporary(const std::string& file_name);
// Removes one that a killed process has left. One that is being written stays.
void remove_leftover(const std::string& path);

// Brings a folder's names to the disk, after a file in it was renamed.
void sync_folder(const std::string& folder);

// Appends a line (the newline is added). It survives the process at once, a power cut after sync_file().
void append_line(const std::string& path, std::string_view line);

// Brings a file's content to the disk.
void sync_file(const std::string& path);

}  // namespace elbo
