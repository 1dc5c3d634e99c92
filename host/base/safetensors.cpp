#include "host/base/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "elbo/error.h"
#include "host/base/files.h"
#include "host/base/memory.h"
#include "host/base/sha256.h"

// The checksum is the SHA-256 of the whole file, its own 64 digits counted as zeros. A second entry of the
// metadata, "checksum": "sha256", says that it is there, so that damage to its name does not hide it.

namespace elbo {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie in memory");

constexpr std::uint64_t largest_header = 100'000'000;  // the format's own limit
constexpr const char* mark_key = "checksum";
constexpr const char* mark_value = "sha256";
constexpr const char* digits_key = "sha256";
const std::string no_digits(64, '0');

constexpr const char* dtype_names[] = {"U8", "BF16", "F16", "F32", "F64", "U64"};  // in the order of DType

// `"sha256":"<digits>"`, as it stands in the header.
std::string checksum_field(const std::string& digits) { return cat('"', digits_key, "\":\"", digits, '"'); }

// ---- The header ---------------------------------------------------------------------------------------

struct Entry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::uint64_t> shape, offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Takes the header's JSON apart as it is parsed, and stops at the first thing that does not belong there. So
// neither depth nor size of a hostile header costs more than the bytes it is made of.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}

  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
  bool has_metadata = false;

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::outside: place_ = Place::top; return true;
      case Place::metadata_value: place_ = Place::metadata; return true;
      case Place::tensor_value: place_ = Place::tensor; return true;
      default: unexpected("an object");
    }
  }

  bool key(std::string& key) override {
    if (place_ == Place::metadata) {
      require(!metadata.count(key), file_, ": its header has two metadata entries \"", key, "\"");
      key_ = key;
    } else if (place_ == Place::tensor) {
      Entry& e = entries.back();
      bool* seen = key == "dtype"          ? &e.has_dtype
                   : key == "shape"        ? &e.has_shape
                   : key == "data_offsets" ? &e.has_offsets
                                           : nullptr;
      expect(seen != nullptr, "unknown field \"", key, "\"; expected dtype, shape and data_offsets");
      expect(!*seen, "two fields \"", key, "\"");
      *seen = true;
      place_ = key == "dtype" ? Place::dtype_value : key == "shape" ? Place::shape_value : Place::offsets_value;
    } else if (key == "__metadata__") {
      require(!has_metadata, file_, ": its header has two entries __metadata__");
      has_metadata = true;
      place_ = Place::metadata_value;
    } else {
      entries.push_back({});
      entries.back().name = key;
      place_ = Place::tensor_value;
    }
    return true;
  }

  bool string(std::string& text) override {
    if (place_ == Place::metadata) {
      metadata[key_] = text;
    } else if (place_ == Place::dtype_value) {
      const auto found = std::find(std::begin(dtype_names), std::end(dtype_names), text);
      expect(found != std::end(dtype_names), "type ", text, "; known are U8, BF16, F16, F32, F64, U64");
      entries.back().dtype = static_cast<DType>(found - dtype_names);
      place_ = Place::tensor;
    } else {
      unexpected("a text");
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::shape_value)
      place_ = Place::shape;
    else if (place_ == Place::offsets_value)
      place_ = Place::offsets;
    else
      unexpected("an array");
    return true;
  }

  bool number_unsigned(std::uint64_t n) override {
    if (place_ == Place::shape) {
      expect(entries.back().shape.size() < Shape::max_rank, "more than ", Shape::max_rank, " dimensions");
      entries.back().shape.push_back(n);
    } else if (place_ == Place::offsets) {
      expect(entries.back().offsets.size() < 2, "more than two data_offsets");
      entries.back().offsets.push_back(n);
    } else {
      unexpected("a number");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::offsets) expect(entries.back().offsets.size() == 2, "fewer than two data_offsets");
    place_ = Place::tensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::top) {
      place_ = Place::outside;
      return true;
    }
    if (place_ == Place::tensor) {
      const Entry& e = entries.back();
      expect(e.has_dtype && e.has_shape && e.has_offsets, "no field ",
             !e.has_dtype   ? "dtype"
             : !e.has_shape ? "shape"
                            : "data_offsets");
    }
    place_ = Place::top;
    return true;
  }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a truth value"); }
  bool number_integer(std::int64_t) override { unexpected("a negative number"); }
  bool number_float(double, const std::string&) override { unexpected("a number that is no integer of 64 bits"); }
  bool binary(nlohmann::json::binary_t&) override { unexpected("binary data"); }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::json::exception&) override {
    fail(file_, ": its header is not JSON, near byte ", 7 + at);
  }

 private:
  enum class Place {
    outside,
    top,
    metadata_value,
    metadata,
    tensor_value,
    tensor,
    dtype_value,
    shape_value,
    shape,
    offsets_value,
    offsets
  };

  // require() for what is wrong with the last tensor.
  template <class... Args>
  void expect(bool condition, const Args&... args) const {
    if (!condition) fail(file_, ": tensor '", entries.back().name, "': ", args...);
  }

  [[noreturn]] void unexpected(const char* what) const {
    if (place_ == Place::outside) fail(file_, ": its header is ", what, ", expected an object");
    if (place_ == Place::metadata || place_ == Place::metadata_value)
      fail(file_, ": its metadata hold ", what, ", expected texts by name");
    const char* field = place_ == Place::dtype_value                                 ? "dtype: "
                        : place_ == Place::shape_value || place_ == Place::shape     ? "shape: "
                        : place_ == Place::offsets_value || place_ == Place::offsets ? "data_offsets: "
                                                                                     : "";
    fail(file_, ": tensor '", entries.back().name, "': ", field, "unexpected ", what);
  }

  const std::string& file_;
  Place place_ = Place::outside;
  std::string key_;
};

// The tensor's shape, after checks that its size can be computed and is that of its bytes.
Shape check_entry(const Entry& e, const std::string& file) {
  std::int64_t count = 1;
  std::vector<std::int64_t> sizes;
  for (const std::uint64_t n : e.shape) {
    // An empty dimension must not hide an overflow of the others.
    const bool fits = n <= std::uint64_t{std::numeric_limits<std::int64_t>::max()} &&
                      !__builtin_mul_overflow(count, std::max<std::uint64_t>(n, 1), &count);
    require(fits, file, ": tensor '", e.name, "': its shape has more elements than any file can hold");
    sizes.push_back(static_cast<std::int64_t>(n));
  }
  const Shape shape{std::span<const std::int64_t>(sizes)};
  std::uint64_t bytes = 0;
  const bool fits = !__builtin_mul_overflow(static_cast<std::uint64_t>(shape.count()), size_of(e.dtype), &bytes);
  require(fits && e.offsets[1] - e.offsets[0] == bytes, file, ": tensor '", e.name, "': data_offsets [", e.offsets[0],
          ", ", e.offsets[1], "] do not fit ", name_of(e.dtype), " ", shape);
  return shape;
}

// The entries in the order of their bytes, which must fill the rest of the file without holes or overlap.
void check_layout(std::vector<Entry>& entries, std::uint64_t data_size, const std::string& file) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
  const auto twin = std::adjacent_find(entries.begin(), entries.end(),
                                       [](const Entry& a, const Entry& b) { return a.name == b.name; });
  if (twin != entries.end()) fail(file, ": its header has two tensors '", twin->name, "'");

  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.offsets < b.offsets; });
  std::uint64_t next = 0;
  for (const Entry& e : entries) {
    require(e.offsets[1] >= e.offsets[0], file, ": tensor '", e.name, "' ends at byte ", e.offsets[1],
            " of the data, before it begins at ", e.offsets[0]);
    require(e.offsets[0] == next, file, ": tensor '", e.name, "' begins at byte ", e.offsets[0],
            " of the data, expected ", next, e.offsets[0] < next ? " (it overlaps another)" : " (there is a hole)");
    next = e.offsets[1];
  }
  require(next <= data_size, file, ": is cut short: its tensors should be ", next, " bytes, there are ", data_size);
  require(next == data_size, file, ": ", data_size - next, " bytes follow its last tensor");
}

// The digits that the header gives for the checksum, taken out of the metadata and of `header`; empty where
// the file has none.
std::string take_checksum(std::map<std::string, std::string>& metadata, std::string& header, const std::string& file) {
  const auto mark = metadata.find(mark_key);
  const auto digits = metadata.find(digits_key);
  const bool marked = mark != metadata.end() && mark->second == mark_value;
  require(!marked || digits != metadata.end(), file, ": is damaged: its header promises a checksum and has none");
  if (digits == metadata.end()) return "";
  const std::string given = digits->second, field = checksum_field(given);
  const std::size_t at = header.find(field);
  require(given.size() == no_digits.size() && at != std::string::npos, file,
          ": is damaged: its checksum is not 64 plain digits");
  header.replace(at, field.size(), checksum_field(no_digits));
  metadata.erase(digits);
  if (marked) metadata.erase(mark);
  return given;
}

// ---- The file -----------------------------------------------------------------------------------------

// Copies bytes at .. at + n - 1 of the file to `to`.
using ReadAt = std::function<void(std::uint64_t at, void* to, std::size_t n)>;

TensorFile parse(const ReadAt& read, std::uint64_t size, const std::string& file) {
  std::uint64_t header_size = 0;
  require(size >= sizeof header_size, file, ": is cut short: a safetensors file has 8 bytes or more, this one ", size);
  read(0, &header_size, sizeof header_size);
  require(header_size <= largest_header, file, ": its header claims ", header_size, " bytes; at most ", largest_header,
          " are possible: this is not a safetensors file, or it is damaged");
  require(header_size <= size - 8, file, ": is cut short: its header should be ", header_size, " bytes, there are ",
          size - 8);
  std::string header(header_size, '\0');
  read(8, header.data(), header_size);

  // A NUL would end the JSON for the parser, and hide what follows.
  require(header.starts_with('{') && header.find('\0') == std::string::npos, file, ": its header is not a JSON object");
  HeaderReader reader(file);
  nlohmann::json::sax_parse(header, &reader);
  const std::uint64_t data_at = 8 + header_size;
  check_layout(reader.entries, size - data_at, file);
  const std::string checksum = take_checksum(reader.metadata, header, file);

  Sha256 hash;
  hash.update(&header_size, sizeof header_size);
  hash.update(header.data(), header.size());
  require_memory(size, file);
  TensorFile result;
  result.metadata = std::move(reader.metadata);
  for (const Entry& e : reader.entries) {
    NamedTensor t{e.name, e.dtype, check_entry(e, file), {}};
    reserve_memory(t.bytes, e.offsets[1] - e.offsets[0], cat(file, ": tensor '", e.name, "'"));
    t.bytes.resize(e.offsets[1] - e.offsets[0]);
    read(data_at + e.offsets[0], t.bytes.data(), t.bytes.size());
    hash.update(t.bytes.data(), t.bytes.size());
    result.tensors.push_back(std::move(t));
  }
  require(checksum.empty() || hash.hex() == checksum, file,
          ": is damaged: its SHA-256 is not the one that it was written with");
  return result;
}

// The header's text, with zeros for the checksum, padded so that the tensors' bytes start at a multiple of 8.
std::string make_header(const std::vector<const NamedTensor*>& tensors, std::map<std::string, std::string> metadata) {
  metadata[mark_key] = mark_value;
  metadata[digits_key] = no_digits;
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  std::uint64_t at = 0;
  for (const NamedTensor* t : tensors) {
    nlohmann::ordered_json shape = nlohmann::ordered_json::array();
    for (int i = 0; i < t->shape.rank(); ++i) shape.push_back(t->shape[i]);
    header[t->name] = {{"dtype", dtype_names[static_cast<int>(t->dtype)]},
                       {"shape", shape},
                       {"data_offsets", {at, at + t->bytes.size()}}};
    at += t->bytes.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

}  // namespace

const NamedTensor* TensorFile::find(const std::string& name) const {
  for (const NamedTensor& t : tensors)
    if (t.name == name) return &t;
  return nullptr;
}

void write_safetensors(const std::string& path, const TensorFile& file) {
  std::vector<const NamedTensor*> tensors;
  std::set<std::string> names = {"__metadata__"};
  for (const NamedTensor& t : file.tensors) {
    require(names.insert(t.name).second, path, ": two tensors '", t.name, "', or a reserved name");
    require(t.bytes.size() == static_cast<std::size_t>(t.shape.count()) * size_of(t.dtype), path, ": tensor '", t.name,
            "' is ", name_of(t.dtype), " ", t.shape, " but has ", t.bytes.size(), " bytes");
    tensors.push_back(&t);
  }
  // The largest elements first: so every tensor starts at a multiple of its element's size.
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const NamedTensor* a, const NamedTensor* b) { return size_of(a->dtype) > size_of(b->dtype); });

  std::string header;
  try {
    header = make_header(tensors, file.metadata);
  } catch (const nlohmann::json::exception&) {
    fail(path, ": a name or text for its header is not valid UTF-8");
  }
  const std::uint64_t header_size = header.size();
  std::vector<std::span<const std::byte>> pieces = {std::as_bytes(std::span(&header_size, 1)),
                                                    std::as_bytes(std::span(header))};
  for (const NamedTensor* t : tensors) pieces.emplace_back(t->bytes);

  Sha256 hash;
  for (const auto& piece : pieces) hash.update(piece.data(), piece.size());
  const std::size_t field = header.find(checksum_field(no_digits));
  header.replace(field, checksum_field(no_digits).size(), checksum_field(hash.hex()));
  replace_file(path, pieces);
}

TensorFile read_safetensors(const std::string& path) {
  const InputFile file(path);
  return parse([&](std::uint64_t at, void* to, std::size_t n) { file.read(at, to, n); }, file.size(), path);
}

TensorFile parse_safetensors(const std::byte* data, std::size_t size, const std::string& name) {
  const auto read = [&](std::uint64_t at, void* to, std::size_t n) {
    if (n > 0) std::memcpy(to, data + at, n);
  };
  return parse(read, size, name);
}

}  // namespace elbo
