#include "host/data/byte_reader.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "elbo/error.h"
#include "host/base/memory.h"

namespace elbo {
namespace {

// A deflate stream grows at most 1032-fold (258 bytes from 2 bits); the constant covers the window.
constexpr std::uint64_t largest_ratio = 1032, window = 1 << 16;

constexpr std::size_t buffer_size = 1 << 16, step = 1 << 20;  // bytes read, bytes made room for at a time

constexpr std::array gzip_mark = {std::byte{0x1f}, std::byte{0x8b}};

bool starts_as_gzip(const ByteSource& source) {
  std::array<std::byte, gzip_mark.size()> mark;
  if (source.size() < mark.size()) return false;
  source.read(0, mark.data(), mark.size());
  return mark == gzip_mark;
}

}  // namespace

Encoding encoding_of(const std::string& path) { return path.ends_with(".gz") ? Encoding::gzip : Encoding::plain; }

void ByteSource::read(std::uint64_t at, void* to, std::size_t n) const {
  if (n == 0) return;
  if (file_)
    file_->read(begin_ + at, to, n);
  else
    std::memcpy(to, memory_ + begin_ + at, n);
}

ByteSource ByteSource::part(std::uint64_t at, std::uint64_t n) const {
  ByteSource part = *this;
  part.begin_ += at;
  part.size_ = n;
  return part;
}

void ByteReader::Close::operator()(z_stream_s* stream) const {
  inflateEnd(stream);
  delete stream;
}

ByteReader::ByteReader(ByteSource source, Encoding encoding, std::string name)
    : source_(source), name_(std::move(name)), encoding_(encoding) {
  if (encoding == Encoding::plain) return;
  if (encoding == Encoding::gzip)
    require(starts_as_gzip(source_), name_,
            ": is not a gzip file, which starts with the bytes 1f 8b; if it has been decompressed already, ",
            "take .gz off its name");
  buffer_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(source_.size(), buffer_size)));
  stream_.reset(new z_stream_s{});
  require(inflateInit2(stream_.get(), encoding == Encoding::gzip ? 16 + MAX_WBITS : MAX_WBITS) == Z_OK, name_,
          ": no memory to decompress it");
}

std::uint64_t ByteReader::position() const { return read_ - (stream_ ? stream_->avail_in : 0); }

void ByteReader::refill() {
  if (stream_->avail_in > 0) return;
  const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(buffer_.size(), source_.size() - read_));
  source_.read(read_, buffer_.data(), n);
  read_ += n;
  stream_->next_in = reinterpret_cast<Bytef*>(buffer_.data());
  stream_->avail_in = static_cast<uInt>(n);
}

std::size_t ByteReader::inflate(std::byte* to, std::size_t n) {
  std::size_t done = 0;
  while (done < n && (!ended_ || begin_member())) {
    refill();
    const std::size_t out = std::min(n - done, step);
    stream_->next_out = reinterpret_cast<Bytef*>(to + done);
    stream_->avail_out = static_cast<uInt>(out);
    const int status = ::inflate(stream_.get(), Z_NO_FLUSH);
    done += out - stream_->avail_out;
    ended_ = status == Z_STREAM_END;
    if (ended_ || status == Z_OK) continue;
    require(status != Z_BUF_ERROR, name_, ": is cut short: its compressed data stop at byte ", source_.size());
    fail(name_, ": its compressed data are damaged near byte ", position(), ": ",
         stream_->msg ? stream_->msg : zError(status));
  }
  return done;
}

// A gzip file may be several, one after the other (RFC 1952, 2.2), and may be padded with zeros, which gzip passes
// over.
bool ByteReader::begin_member() {
  if (encoding_ != Encoding::gzip) return false;
  if (starts_as_gzip(source_.part(position(), left()))) {
    ended_ = false;
    return inflateReset(stream_.get()) == Z_OK;
  }
  if (only_zeros_follow()) {
    read_ = source_.size();
    stream_->avail_in = 0;
  }
  return false;
}

bool ByteReader::only_zeros_follow() const {
  std::array<std::byte, buffer_size> bytes;
  for (std::uint64_t at = position(); at < source_.size();) {
    const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), source_.size() - at));
    source_.read(at, bytes.data(), n);
    if (std::any_of(bytes.begin(), bytes.begin() + n, [](std::byte b) { return b != std::byte{0}; })) return false;
    at += n;
  }
  return true;
}

std::size_t ByteReader::read(void* to, std::size_t n) {
  if (stream_) return inflate(static_cast<std::byte*>(to), n);
  n = static_cast<std::size_t>(std::min<std::uint64_t>(n, left()));
  source_.read(read_, to, n);
  read_ += n;
  return n;
}

void ByteReader::read_all(void* to, std::size_t n, const std::string& what) {
  const std::size_t got = read(to, n);
  require(got == n, name_, ": is cut short: ", what, " should be ", n, " bytes, there are ", got);
}

void ByteReader::expect(std::uint64_t n, const std::string& what) const {
  const std::uint64_t most = most_left();
  require(n <= most, name_, ": is cut short: ", what, " should be ", n, " bytes, there are at most ", most);
}

std::vector<std::uint8_t> ByteReader::take(std::uint64_t n, const std::string& what) {
  expect(n, what);
  std::vector<std::uint8_t> bytes;
  reserve_memory(bytes, n, cat(name_, ": ", what));
  while (bytes.size() < n) {  // so memory is touched only as bytes arrive
    const std::size_t had = bytes.size();
    bytes.resize(static_cast<std::size_t>(std::min<std::uint64_t>(n, had + step)));
    const std::size_t got = read(bytes.data() + had, bytes.size() - had);
    require(got == bytes.size() - had, name_, ": is cut short: ", what, " should be ", n, " bytes, there are ",
            had + got);
  }
  return bytes;
}

std::vector<std::uint8_t> ByteReader::take_rest(std::uint64_t n, const std::string& what) {
  if (!stream_)
    require(n >= left(), name_, ": goes on where its header says that it ends: it is ", source_.size(),
            " bytes, expected ", position() + n);
  std::vector<std::uint8_t> bytes = take(n, what);
  finish();
  return bytes;
}

void ByteReader::finish() {
  std::byte extra;
  require(read(&extra, 1) == 0, name_, ": goes on where its header says that it ends");
  require(left() == 0, name_, ": ", left(), " bytes follow the end of its compressed data");
}

std::uint64_t ByteReader::most_left() const {
  if (!stream_) return left();
  constexpr std::uint64_t all = std::numeric_limits<std::uint64_t>::max();
  return left() > (all - window) / largest_ratio ? all : left() * largest_ratio + window;
}

}  // namespace elbo
