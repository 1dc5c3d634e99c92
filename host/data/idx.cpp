#include "host/data/idx.h"

#include <cstdio>

#include "elbo/error.h"

namespace elbo {
namespace {

std::string hex(const std::uint8_t* bytes, int n) {
  std::string text;
  char digits[4];
  for (int i = 0; i < n; ++i) {
    std::snprintf(digits, sizeof digits, i ? " %02x" : "%02x", bytes[i]);
    text += digits;
  }
  return text;
}

const char* element_type(std::uint8_t code) {
  switch (code) {
    case 0x08: return "unsigned byte";
    case 0x09: return "signed byte";
    case 0x0b: return "16-bit integer";
    case 0x0c: return "32-bit integer";
    case 0x0d: return "float";
    case 0x0e: return "double";
    default: return "unknown";
  }
}

struct Header {
  std::vector<std::int64_t> shape;
  std::uint64_t count = 1;  // of elements
  std::string content;      // what they are called in an error
};

Header parse_header(ByteReader& reader, int rank, const std::string& name) {
  std::uint8_t magic[4];
  reader.read_all(magic, sizeof magic, "the header's first part");
  require(!(magic[0] == 0x1f && magic[1] == 0x8b), name, ": is compressed; add .gz to its name");
  if (magic[0] != 0 || magic[1] != 0)
    fail(name, ": is not an IDX file: it starts with ", hex(magic, 4), ", expected 00 00 08 0", rank);
  if (magic[2] != 0x08)
    fail(name, ": holds elements of type ", hex(magic + 2, 1), " (", element_type(magic[2]),
         "), expected 08 (unsigned byte)");
  require(magic[3] == rank, name, ": has ", int{magic[3]}, " dimensions, expected ", rank,
          rank == 3 ? " (images, rows, columns)" : " (labels)");

  Header header;
  std::string shape;
  for (int i = 0; i < rank; ++i) {
    std::uint8_t b[4];
    reader.read_all(b, sizeof b, cat("the size of dimension ", i));
    const std::uint32_t size = std::uint32_t{b[0]} << 24 | std::uint32_t{b[1]} << 16 | std::uint32_t{b[2]} << 8 | b[3];
    require(size > 0, name, ": its header says that dimension ", i, " is 0");
    require(!__builtin_mul_overflow(header.count, std::uint64_t{size}, &header.count), name,
            ": its header claims more elements than any file can hold");
    header.shape.push_back(size);
    shape += (i ? " x " : "") + std::to_string(size);
  }
  header.content = "the content (" + shape + " by the header)";
  return header;
}

IdxArray parse(ByteReader reader, int rank, const std::string& name) {
  Header header = parse_header(reader, rank, name);
  return {std::move(header.shape), reader.take_rest(header.count, header.content)};
}

IdxArray read_idx(const std::string& path, int rank) {
  const InputFile file(path);
  return parse(ByteReader(ByteSource(file), encoding_of(path), path), rank, path);
}

}  // namespace

IdxArray parse_idx(std::span<const std::byte> file, Encoding encoding, int rank, const std::string& name) {
  return parse(ByteReader(ByteSource(file), encoding, name), rank, name);
}

ImageSet read_idx_images(const std::string& image_path, const std::string& label_path) {
  IdxArray images = read_idx(image_path, 3);
  ImageSet set{images.shape[0], images.shape[1], images.shape[2], 1, std::move(images.values), {}};
  if (label_path.empty()) return set;
  IdxArray labels = read_idx(label_path, 1);
  require(labels.shape[0] == set.count, label_path, ": holds ", labels.shape[0], " labels, but ", image_path, " holds ",
          set.count, " images");
  set.labels = std::move(labels.values);
  return set;
}

ImageSet measure_idx_images(const std::string& path) {
  const InputFile file(path);
  ByteReader reader(ByteSource(file), encoding_of(path), path);
  const Header header = parse_header(reader, 3, path);
  reader.expect(header.count, header.content);
  return {header.shape[0], header.shape[1], header.shape[2], 1, {}, {}};
}

}  // namespace elbo
