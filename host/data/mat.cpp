#include "host/data/mat.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "elbo/error.h"
#include "host/data/byte_reader.h"

namespace elbo {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are read as they lie in the file");

enum ElementType : std::uint32_t { int8 = 1, uint8 = 2, int32 = 5, uint32 = 6, matrix = 14, compressed = 15 };

constexpr std::uint32_t class_uint8 = 9, complex_flag = 0x800;
constexpr std::size_t header_size = 128, tag_size = 8;  // bytes
constexpr std::size_t longest_name = 63;                // MATLAB's namelengthmax

// A data element: its type and length, in 8 bytes with the data after them, or packed into 8 bytes with the data.
struct Tag {
  std::uint32_t type = 0, bytes = 0;
  bool packed = false;

  // Elements start at multiples of 8 bytes.
  std::uint32_t padding() const { return packed ? 4 - bytes : (8 - bytes % 8) % 8; }
};

Tag read_tag(ByteReader& reader, const std::string& name, const std::string& what) {
  std::uint32_t word;
  reader.read_all(&word, 4, what);
  if (word >> 16) {
    require(word >> 16 <= 4, name, ": ", what, " is packed, with ", word >> 16, " bytes; at most 4 are possible");
    return {word & 0xffff, word >> 16, true};
  }
  Tag tag{word, 0, false};
  reader.read_all(&tag.bytes, 4, what);
  return tag;
}

// The data of an element that should be of this type, and at most `most` bytes.
std::vector<std::uint8_t> read_element(ByteReader& reader, ElementType type, std::uint64_t most,
                                       const std::string& name, const std::string& what) {
  const Tag tag = read_tag(reader, name, what);
  require(tag.type == type, name, ": ", what, " is of type ", tag.type, ", expected ", static_cast<int>(type));
  require(tag.bytes <= most, name, ": ", what, " is ", tag.bytes, " bytes, expected ", most, " or fewer");
  std::vector<std::uint8_t> data = reader.take(tag.bytes, what);
  std::uint8_t padding[8];
  reader.read_all(padding, tag.padding(), what + "'s padding");
  return data;
}

// The content of a matrix element, if it is the variable that is looked for.
std::optional<MatMatrix> read_matrix(ByteReader& reader, const std::string& variable, const std::string& name) {
  const auto flags = read_element(reader, uint32, 8, name, "a variable's flags");
  const auto sizes = read_element(reader, int32, 4 * 64, name, "a variable's dimensions");
  const auto text = read_element(reader, int8, longest_name, name, "a variable's name");
  if (std::string(text.begin(), text.end()) != variable) return std::nullopt;

  const std::string what = "variable " + variable;
  std::uint32_t flag = 0;
  require(flags.size() == 8, name, ": ", what, " has ", flags.size(), " bytes of flags, expected 8");
  std::memcpy(&flag, flags.data(), 4);
  require((flag & 0xff) == class_uint8 && !(flag & complex_flag), name, ": ", what, " is of class ", flag & 0xff,
          flag & complex_flag ? ", complex" : "", "; expected ", class_uint8, " (uint8), real");
  std::int32_t size[2];
  require(sizes.size() == sizeof size, name, ": ", what, " has ", sizes.size() / 4, " dimensions, expected 2");
  std::memcpy(size, sizes.data(), sizeof size);
  require(size[0] >= 0 && size[1] >= 0, name, ": ", what, " is ", size[0], " x ", size[1]);

  MatMatrix result{size[0], size[1], {}};
  const std::int64_t count = result.rows * result.columns;
  result.values = read_element(reader, uint8, static_cast<std::uint64_t>(count), name, what);
  require(result.values.size() == static_cast<std::size_t>(count), name, ": ", what, " is ", size[0], " x ", size[1],
          " by its header, but holds ", result.values.size(), " bytes");
  reader.finish();
  return result;
}

void check_header(const ByteSource& file, const std::string& name) {
  require(file.size() >= header_size, name, ": is cut short: a MAT-file's header is ", header_size,
          " bytes, there are ", file.size());
  char header[header_size];
  file.read(0, header, header_size);
  const char* mark = header + 126;
  require(std::memcmp(mark, "MI", 2) != 0, name, ": was written on a big-endian machine, which is not read");
  require(std::memcmp(mark, "IM", 2) == 0, name, ": is not a MATLAB level 5 file: bytes 126 and 127 should be IM");
  std::uint16_t version;
  std::memcpy(&version, header + 124, 2);
  require(version == 0x0100, name, ": is of MATLAB's version ", version >> 8, " format",
          version == 0x0200 ? " (7.3, HDF5)" : "", ", expected version 1 (level 5; save with -v6 or -v7)");
}

MatMatrix parse(const ByteSource& file, const std::string& variable, const std::string& name) {
  check_header(file, name);
  for (std::uint64_t at = header_size; at < file.size();) {
    const std::uint64_t left = file.size() - at;
    ByteReader outer(file.part(at, left), Encoding::plain, name);
    const Tag tag = read_tag(outer, name, cat("the element at byte ", at));
    require((tag.type == matrix || tag.type == compressed) && !tag.packed, name, ": the element at byte ", at,
            " is of type ", tag.type, ", expected a variable (14 or 15)");
    require(tag.bytes <= left - tag_size, name, ": is cut short: the variable at byte ", at, " should be ", tag.bytes,
            " bytes, there are ", left - tag_size);
    ByteReader inner(file.part(at + tag_size, tag.bytes), tag.type == matrix ? Encoding::plain : Encoding::zlib, name);
    if (tag.type == compressed) {
      const Tag wrapped = read_tag(inner, name, cat("the compressed variable at byte ", at));
      require(wrapped.type == matrix, name, ": the compressed element at byte ", at, " is of type ", wrapped.type,
              ", expected a variable (14)");
    }
    if (auto found = read_matrix(inner, variable, name)) return *std::move(found);
    at += tag_size + tag.bytes;
  }
  fail(name, ": holds no variable ", variable);
}

}  // namespace

MatMatrix read_mat(const std::string& path, const std::string& variable) {
  const InputFile file(path);
  return parse(ByteSource(file), variable, path);
}

MatMatrix parse_mat(std::span<const std::byte> file, const std::string& variable, const std::string& name) {
  return parse(ByteSource(file), variable, name);
}

}  // namespace elbo
