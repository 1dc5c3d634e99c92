// The bytes of a file in memory, one after the other, decompressed on the way where they are compressed.
// Nothing that a header claims is believed: memory grows only as bytes arrive.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

struct z_stream_s;

namespace elbo {

enum class Encoding : std::uint8_t { plain, gzip, zlib };

class ByteReader {
 public:
  // `name` says in errors what is being read. `bytes` must outlive the reader.
  ByteReader(std::span<const std::byte> bytes, Encoding, std::string name);

  // The next n bytes. Fewer only where the content ends; an Error where its compressed form is damaged.
  std::size_t read(void* to, std::size_t n);
  // Exactly n bytes; an Error that says so where there are fewer.
  void read_all(void* to, std::size_t n, const std::string& what);
  std::vector<std::uint8_t> take(std::uint64_t n, const std::string& what);
  // An Error unless everything has been read and, where the content is compressed, its checksum is right.
  void finish();
  // A bound of how many bytes may still come.
  std::uint64_t most_left() const;

 private:
  struct Close {
    void operator()(z_stream_s*) const;
  };
  std::size_t inflate(std::byte* to, std::size_t n);

  std::span<const std::byte> rest_;
  std::string name_;
  std::unique_ptr<z_stream_s, Close> stream_;  // none: plain
  std::uint64_t size_;                         // of `bytes`
  bool ended_ = false;                         // the compressed stream has come to its end
};

}  // namespace elbo
