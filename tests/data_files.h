// Made-up data files: IDX, gzip and MATLAB level 5.
#pragma once
#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "elbo/error.h"

namespace elbo::test {

using Bytes = std::vector<std::byte>;

inline Bytes bytes_of(const std::string& text) {
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return Bytes(begin, begin + text.size());
}

inline Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// n bytes 0, 1, ... 250, 0, ...
inline Bytes counting(std::size_t n) {
  Bytes bytes(n);
  for (std::size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>(i % 251);
  return bytes;
}

// `window_bits`: 15 makes a zlib stream, 31 a gzip file.
inline Bytes deflated(const Bytes& content, int window_bits) {
  z_stream stream{};
  require(deflateInit2(&stream, 9, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY) == Z_OK, "deflateInit2");
  Bytes out(deflateBound(&stream, content.size()));
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  require(deflate(&stream, Z_FINISH) == Z_STREAM_END, "deflate");
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline Bytes gzip(const Bytes& content) { return deflated(content, 31); }

inline Bytes idx_header(std::initializer_list<std::uint32_t> shape, int type = 8) {
  Bytes header = {std::byte{0}, std::byte{0}, static_cast<std::byte>(type), static_cast<std::byte>(shape.size())};
  for (const std::uint32_t n : shape)
    for (const int shift : {24, 16, 8, 0}) header.push_back(static_cast<std::byte>(n >> shift));
  return header;
}

inline Bytes idx(std::initializer_list<std::uint32_t> shape) {
  std::size_t count = 1;
  for (const std::uint32_t n : shape) count *= n;
  return idx_header(shape) + counting(count);
}

// A data element of a MAT-file: tag, data, padding.
template <class T>
Bytes mat_element(std::uint32_t type, const std::vector<T>& values) {
  const std::uint32_t tag[2] = {type, static_cast<std::uint32_t>(values.size() * sizeof(T))};
  Bytes element(8 + (tag[1] + 7) / 8 * 8);
  std::memcpy(element.data(), tag, 8);
  if (tag[1] > 0) std::memcpy(element.data() + 8, values.data(), tag[1]);
  return element;
}

struct MatVariable {
  std::string name = "ff";
  std::int32_t rows = 4, columns = 6;
  std::uint32_t flags = 9;      // class uint8
  std::uint32_t data_type = 2;  // miUINT8
  std::size_t bytes = 24;       // of data
  bool compressed = false;
};

inline Bytes mat_variable(const MatVariable& v) {
  const Bytes content = mat_element<std::uint32_t>(6, {v.flags, 0}) +
                        mat_element<std::int32_t>(5, {v.rows, v.columns}) + mat_element(1, bytes_of(v.name)) +
                        mat_element(v.data_type, counting(v.bytes));
  const Bytes matrix = mat_element(14, content);
  if (!v.compressed) return matrix;
  const Bytes packed = deflated(matrix, 15);
  Bytes element = mat_element(15, packed);
  element.resize(8 + packed.size());  // compressed variables are not padded
  return element;
}

inline Bytes mat_header() {
  std::string text = "MATLAB 5.0 MAT-file, made by a test";
  text.resize(124, ' ');
  return bytes_of(text + std::string("\0\1IM", 4));
}

}  // namespace elbo::test
