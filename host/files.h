// Files, read and replaced whole, with errors that name the file and the reason.
#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace elbo {

// Owns an open file.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

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

// Makes `pieces`, one after the other, the content of the file `path`. At every moment, a power cut included,
// `path` is either the old file or the whole new one: the bytes go to `path`.tmp, are synced, and are renamed.
// On an Error (no space, no such folder, ...) `path` is untouched and nothing else is left. A link is followed.
void replace_file(const std::string& path, std::span<const std::span<const std::byte>> pieces);
void replace_file(const std::string& path, std::string_view text);

// For the time before long work: the Error of a replace_file() that could not begin, or where `path` is one of
// `others`. Nothing where `path` is empty.
void require_writable(const std::string& path, std::initializer_list<std::string> others = {});

// Brings a folder's names to the disk, after a file in it was renamed.
void sync_folder(const std::string& folder);

// Appends a line (the newline is added). It survives the process at once, a power cut after sync_file().
void append_line(const std::string& path, std::string_view line);

// Brings a file's content to the disk.
void sync_file(const std::string& path);

}  // namespace elbo
