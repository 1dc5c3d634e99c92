// The bytes of a file, one after the other, decompressed on the way where they are compressed.
// What a header claims is held against what the file can hold, and against the memory that there is, before room is
// made.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "host/base/files.h"

struct z_stream_s;

namespace elbo {

enum class Encoding : std::uint8_t { plain, gzip, zlib };

// gzip where the name ends in .gz.
Encoding encoding_of(const std::string& path);

// Bytes that can be read at any place: those of a file, or of memory, which must outlive it.
class ByteSource {
 public:
  explicit ByteSource(const InputFile& file) : file_(&file), size_(file.size()) {}
  explicit ByteSource(std::span<const std::byte> bytes) : memory_(bytes.data()), size_(bytes.size()) {}

  std::uint64_t size() const { return size_; }
  void read(std::uint64_t at, void* to, std::size_t n) const;
  // Bytes at .. at + n - 1 as a source of their own.
  ByteSource part(std::uint64_t at, std::uint64_t n) const;

 private:
  const InputFile* file_ = nullptr;
  const std::byte* memory_ = nullptr;
  std::uint64_t begin_ = 0, size_;
};

class ByteReader {
 public:
  // `name` says in errors what is being read.
  ByteReader(ByteSource, Encoding, std::string name);

  // The next n bytes. Fewer only where the content ends; an Error where its compressed form is damaged.
  std::size_t read(void* to, std::size_t n);
  // Exactly n bytes; an Error that says so where there are fewer.
  void read_all(void* to, std::size_t n, const std::string& what);
  std::vector<std::uint8_t> take(std::uint64_t n, const std::string& what);
  // The same, where they should be all that is left: then as finish().
  std::vector<std::uint8_t> take_rest(std::uint64_t n, const std::string& what);
  // An Error where the source cannot have n more bytes, by its size.
  void expect(std::uint64_t n, const std::string& what) const;
  // An Error unless everything has been read and, where the content is compressed, its checksum is right.
  void finish();

 private:
  struct Close {
    void operator()(z_stream_s*) const;
  };
  std::size_t inflate(std::byte* to, std::size_t n);
  void refill();
  bool begin_member();
  bool only_zeros_follow() const;
  std::uint64_t position() const;  // in the source, of the next byte
  std::uint64_t left() const { return source_.size() - position(); }
  std::uint64_t most_left() const;  // a bound of how many bytes may still come

  ByteSource source_;
  std::string name_;
  Encoding encoding_;
  std::uint64_t read_ = 0;                     // bytes of the source so far, those in the buffer included
  std::unique_ptr<z_stream_s, Close> stream_;  // none: plain
  std::vector<std::byte> buffer_;              // what the stream works on
  bool ended_ = false;                         // the compressed stream has come to its end
};

}  // namespace elbo
