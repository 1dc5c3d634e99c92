#include "host/data/byte_reader.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "elbo/error.h"

namespace elbo {
namespace {

// A deflate stream grows at most 1032-fold (258 bytes from 2 bits); the constant covers the window.
constexpr std::uint64_t largest_ratio = 1032, window = 1 << 16;

constexpr std::size_t most_at_once = std::size_t{1} << 30;  // zlib counts in 32 bits

}  // namespace

void ByteReader::Close::operator()(z_stream_s* stream) const {
  inflateEnd(stream);
  delete stream;
}

ByteReader::ByteReader(std::span<const std::byte> bytes, Encoding encoding, std::string name)
    : rest_(bytes), name_(std::move(name)), size_(bytes.size()) {
  if (encoding == Encoding::plain) return;
  if (encoding == Encoding::gzip) {
    const bool magic = bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b};
    require(magic, name_,
            ": is not a gzip file, which starts with the bytes 1f 8b; if it has been decompressed already, ",
            "take .gz off its name");
  }
  stream_.reset(new z_stream_s{});
  require(inflateInit2(stream_.get(), encoding == Encoding::gzip ? 16 + MAX_WBITS : MAX_WBITS) == Z_OK, name_,
          ": no memory to decompress it");
}

std::size_t ByteReader::inflate(std::byte* to, std::size_t n) {
  std::size_t done = 0;
  while (done < n && !ended_) {
    const std::size_t in = std::min(rest_.size(), most_at_once), out = std::min(n - done, most_at_once);
    stream_->next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(rest_.data()));
    stream_->avail_in = static_cast<uInt>(in);
    stream_->next_out = reinterpret_cast<Bytef*>(to + done);
    stream_->avail_out = static_cast<uInt>(out);
    const int status = ::inflate(stream_.get(), Z_NO_FLUSH);
    const std::size_t eaten = in - stream_->avail_in;
    rest_ = rest_.subspan(eaten);
    done += out - stream_->avail_out;
    ended_ = status == Z_STREAM_END;
    if (ended_ || status == Z_OK) continue;
    require(status != Z_BUF_ERROR, name_, ": is cut short: its compressed data stop at byte ", size_);
    fail(name_, ": its compressed data are damaged near byte ", size_ - rest_.size(), ": ",
         stream_->msg ? stream_->msg : zError(status));
  }
  return done;
}

std::size_t ByteReader::read(void* to, std::size_t n) {
  if (stream_) return inflate(static_cast<std::byte*>(to), n);
  n = std::min(n, rest_.size());
  if (n > 0) std::memcpy(to, rest_.data(), n);
  rest_ = rest_.subspan(n);
  return n;
}

void ByteReader::read_all(void* to, std::size_t n, const std::string& what) {
  const std::size_t got = read(to, n);
  require(got == n, name_, ": is cut short: ", what, " should be ", n, " bytes, there are ", got);
}

std::vector<std::uint8_t> ByteReader::take(std::uint64_t n, const std::string& what) {
  require(n <= most_left(), name_, ": is cut short: ", what, " should be ", n, " bytes, there are at most ",
          most_left());
  std::vector<std::uint8_t> bytes;
  while (bytes.size() < n) {
    const std::size_t had = bytes.size();
    bytes.resize(static_cast<std::size_t>(std::min<std::uint64_t>(n, stream_ ? 2 * had + window : n)));
    const std::size_t got = read(bytes.data() + had, bytes.size() - had);
    require(got == bytes.size() - had, name_, ": is cut short: ", what, " should be ", n, " bytes, there are ",
            had + got);
  }
  return bytes;
}

void ByteReader::finish() {
  std::byte extra;
  require(read(&extra, 1) == 0, name_, ": goes on where its header says that it ends");
  require(rest_.empty(), name_, ": ", rest_.size(), " bytes follow the end of its compressed data");
}

std::uint64_t ByteReader::most_left() const { return stream_ ? rest_.size() * largest_ratio + window : rest_.size(); }

}  // namespace elbo
