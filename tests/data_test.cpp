// Reading data sets: what is right is read right, and what is wrong is refused by name, at no cost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <set>

#include "host/base/files.h"
#include "host/base/sha256.h"
#include "host/data/catalog.h"
#include "host/data/freyface.h"
#include "host/data/idx.h"
#include "host/data/mat.h"
#include "tests/allocations.h"
#include "tests/data_files.h"
#include "tests/errors.h"
#include "tests/temporary_folder.h"

namespace elbo {
namespace {

using namespace elbo::test;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::vector<std::uint8_t> numbers(const Bytes& bytes) {
  std::vector<std::uint8_t> values(bytes.size());
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// ---- IDX ----------------------------------------------------------------------------------------------

TEST(Idx, ReadsPlainAndCompressedOfAnySize) {
  for (const Encoding encoding : {Encoding::plain, Encoding::gzip}) {
    const Bytes plain = idx({7, 3, 5});
    const IdxArray array = parse_idx(encoding == Encoding::gzip ? gzip(plain) : plain, encoding, 3, "file");
    EXPECT_EQ(array.shape, (std::vector<std::int64_t>{7, 3, 5}));
    EXPECT_EQ(array.values, numbers(counting(105)));
  }
  // more than one step of growth
  EXPECT_EQ(parse_idx(gzip(idx({1000, 29, 31})), Encoding::gzip, 3, "file").values, numbers(counting(1000 * 29 * 31)));
}

struct BadIdx {
  const char* what;
  Bytes file;
  Encoding encoding;
  const char* error;
};

Bytes without_last(Bytes bytes, std::size_t n) {
  bytes.resize(bytes.size() - n);
  return bytes;
}

Bytes flipped(Bytes bytes, std::size_t at, int bit = 0) {
  bytes[at] ^= static_cast<std::byte>(1 << bit);
  return bytes;
}

// A gzip file of two members, the first of `first` bytes.
Bytes split(const Bytes& content, std::size_t first) {
  const auto middle = content.begin() + static_cast<std::ptrdiff_t>(first);
  return gzip(Bytes(content.begin(), middle)) + gzip(Bytes(middle, content.end()));
}

// As gzip reads it: members one after the other, empty ones among them, are one content; zeros after them are padding.
TEST(Idx, ReadsAGzipFileOfSeveralMembers) {
  const Bytes plain = idx({1000, 9, 11});  // the reader's buffers end within a member and between two
  Bytes bytewise, large;
  for (const std::byte b : idx({2, 3, 4})) bytewise = bytewise + gzip({b});
  for (std::size_t at = 0; at < plain.size(); at += 4000)
    large = large + gzip(Bytes(plain.begin() + static_cast<std::ptrdiff_t>(at),
                               plain.begin() + static_cast<std::ptrdiff_t>(std::min(at + 4000, plain.size()))));
  EXPECT_EQ(parse_idx(bytewise, Encoding::gzip, 3, "file").values, numbers(counting(24)));
  EXPECT_EQ(parse_idx(large, Encoding::gzip, 3, "file").values, numbers(counting(99000)));
  for (std::size_t n = 0; n <= plain.size(); n += 3001) {
    EXPECT_EQ(parse_idx(split(plain, n), Encoding::gzip, 3, "file").values, numbers(counting(99000))) << n;
    EXPECT_EQ(parse_idx(split(plain, n) + gzip({}) + Bytes(10000), Encoding::gzip, 3, "file").values,
              numbers(counting(99000)))
        << n << " and padding";
  }
}

TEST(Idx, RefusesByName) {
  const Bytes good = idx({4, 3, 2}), packed = gzip(good), byte = bytes_of("x");
  const BadIdx cases[] = {
      {"empty", {}, Encoding::plain, "cut short ... header ... 4 bytes ... 0"},
      {"not IDX", bytes_of("hello world"), Encoding::plain, "not an IDX file ... 68 65 6c 6c ... 00 00 08 03"},
      {"shorts", idx_header({4, 3, 2}, 0x0b) + counting(48), Encoding::plain, "type 0b (16-bit integer) ... 08"},
      {"no type", idx_header({4, 3, 2}, 0x42) + counting(48), Encoding::plain, "type 42 ... 08"},
      {"labels for images", idx({24}), Encoding::plain, "1 dimensions ... 3 (images, rows, columns)"},
      {"colour", idx({2, 2, 2, 3}), Encoding::plain, "4 dimensions ... 3"},
      {"no images", idx({0, 3, 2}), Encoding::plain, "dimension 0 ... 0"},
      {"no columns", idx({4, 3, 0}), Encoding::plain, "dimension 2 ... 0"},
      {"header cut", without_last(idx_header({4, 3, 2}), 1), Encoding::plain, "dimension 2 ... 4 bytes ... 3"},
      {"cut", without_last(good, 1), Encoding::plain, "4 x 3 x 2 ... 24 bytes ... 23"},
      {"goes on", good + byte, Encoding::plain, "goes on"},
      {"one too many", idx_header({5, 3, 2}) + counting(24), Encoding::plain, "30 bytes ... 24"},
      {"one too few", idx_header({3, 3, 2}) + counting(24), Encoding::plain, "goes on ... 40 bytes ... 34"},
      {"2^96", idx_header({~0u, ~0u, ~0u}) + counting(24), Encoding::plain, "more elements"},
      {"2^63", idx_header({1u << 31, 1u << 31, 2}) + counting(24), Encoding::plain, "9223372036854775808 bytes"},
      {"packed without .gz", packed, Encoding::plain, "compressed ... .gz"},
      {"plain with .gz", good, Encoding::gzip, "not a gzip file ... 1f 8b ... if it has been decompressed"},
      {"empty with .gz", {}, Encoding::gzip, "not a gzip file"},
      {"gzip cut", without_last(packed, 9), Encoding::gzip, "cut short ... compressed data ... byte"},
      {"checksum cut", without_last(packed, 1), Encoding::gzip, "cut short ... compressed data ... byte"},
      {"CRC", flipped(packed, packed.size() - 8), Encoding::gzip, "incorrect data check"},
      {"length", flipped(packed, packed.size() - 4), Encoding::gzip, "incorrect length check"},
      {"garbage after it", packed + byte, Encoding::gzip, "1 bytes follow"},
      {"garbage after zeros", packed + Bytes(5000) + byte, Encoding::gzip, "5001 bytes follow"},
      {"a second member that goes on", packed + gzip(byte), Encoding::gzip, "goes on"},
      {"a second member, cut", without_last(split(good, 20), 9), Encoding::gzip,
       "cut short ... compressed data ... byte"},
      {"a second member, damaged", flipped(split(good, 20), gzip(without_last(good, good.size() - 20)).size() + 12),
       Encoding::gzip, "damaged ... byte"},
      {"packed, cut inside", gzip(without_last(good, 1)), Encoding::gzip, "24 bytes ... 23"},
      {"packed, goes on", gzip(good + byte), Encoding::gzip, "goes on"},
      {"packed, impossible", gzip(idx_header({60000, 5000, 5000})), Encoding::gzip, "1500000000000 bytes ... at most"},
  };
  for (const BadIdx& c : cases) {
    const std::string error = error_of([&] { parse_idx(c.file, c.encoding, 3, "the/file"); });
    EXPECT_TRUE(says(error, std::string("the/file: ... ") + c.error)) << c.what;
  }
}

TEST(Idx, RefusesEveryTruncation) {
  const Bytes plain = idx({4, 3, 2}), packed = gzip(plain);
  for (std::size_t n = 0; n < plain.size(); ++n)
    EXPECT_THROW(parse_idx(std::span(plain).first(n), Encoding::plain, 3, "file"), Error) << n;
  for (std::size_t n = 0; n < packed.size(); ++n)
    EXPECT_THROW(parse_idx(std::span(packed).first(n), Encoding::gzip, 3, "file"), Error) << n;
}

TEST(Idx, NoFlippedBitOfACompressedFileChangesAnImage) {
  const Bytes plain = idx({4, 3, 2}), packed = gzip(plain);
  int refused = 0;
  for (std::size_t at = 0; at < packed.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      try {
        const IdxArray array = parse_idx(flipped(packed, at, bit), Encoding::gzip, 3, "file");
        EXPECT_EQ(array.values, numbers(counting(24))) << "byte " << at << ", bit " << bit;
      } catch (const Error&) {
        ++refused;
      }
    }
  // May change unseen: gzip's time stamp and its like, 10 bytes, and up to 7 bits after the last block.
  EXPECT_GE(refused, static_cast<int>(packed.size() - 11) * 8);
}

TEST(Idx, MemoryGrowsWithTheBytesNotWithTheClaim) {
  constexpr std::size_t megabyte = 1 << 20;
  const Bytes bomb = gzip(idx_header({2, 2, 2}) + Bytes(16 * megabyte));
  ASSERT_LT(bomb.size(), megabyte / 8);
  const Bytes lie = gzip(idx_header({60, 1000, 1000}) + Bytes(megabyte)) + Bytes(megabyte / 8);
  const Bytes plain_lie = idx_header({60, 1000, 1000}) + Bytes(1000);
  constexpr std::size_t once = 61 * megabyte;  // what the lie could hold; untouched, it takes none
  const struct {
    const Bytes& file;
    Encoding encoding;
    std::size_t limit;
  } cases[] = {{bomb, Encoding::gzip, megabyte / 8}, {lie, Encoding::gzip, once}, {plain_lie, Encoding::plain, 4096}};
  for (const auto& c : cases) {
    watch_allocations();
    EXPECT_THROW(parse_idx(c.file, c.encoding, 3, "file"), Error);
    EXPECT_LT(peak_allocation(), c.limit);
  }
  // a good file of 4 MB takes them once
  const Bytes plain = idx({4, 1024, 1024}), packed = gzip(plain);
  const TemporaryFolder folder;
  const std::string path = folder.write("images", plain), packed_path = folder.write("images.gz", packed);
  for (const auto& read : std::initializer_list<std::function<void()>>{
           [&] { parse_idx(packed, Encoding::gzip, 3, "file"); },
           [&] { read_idx_images(path, ""); },
           [&] { read_idx_images(packed_path, ""); },
       }) {
    watch_allocations();
    read();
    EXPECT_GT(peak_allocation(), 4 * megabyte);
    EXPECT_LT(peak_allocation(), 9 * megabyte / 2);
  }
}

// Files of many gigabytes, of which next to nothing is on the disk: refused by their headers, not read.
TEST(Idx, RefusesWhatIsTooLargeAtOnce) {
  constexpr std::uint64_t terabyte = std::uint64_t{1} << 40;
  const TemporaryFolder folder;
  const auto sparse = [&](const std::string& name, const Bytes& begin, std::uint64_t size) {
    const std::string path = folder.write(name, begin);
    std::filesystem::resize_file(path, size);
    return path;
  };
  const Bytes header = idx_header({1 << 20, 1 << 10, 1 << 11}), small = idx_header({60000, 28, 28});
  const struct {
    std::string path, error;
  } cases[] = {
      {sparse("all", header, 2 * terabyte + 16),
       "1048576 x 1024 x 2048 ... 2199023255552 bytes of memory ... this process may use"},
      {sparse("goes-on", small, terabyte), "goes on ... 1099511627776 bytes ... 47040016"},
      {sparse("cut", header, terabyte), "cut short ... content"},
      {sparse("nothing", {}, terabyte), "type 00"},
      {sparse("packed.gz", gzip(header), terabyte / 64), "2199023255552 bytes of memory"},
      {sparse("not-packed.gz", {}, terabyte), "not a gzip file"},
  };
  for (const auto& c : cases) {
    watch_allocations();
    EXPECT_TRUE(says(error_of([&] { read_idx_images(c.path, ""); }), c.path + ": ... " + c.error));
    EXPECT_LT(peak_allocation(), std::size_t{1} << 20);
  }
  const std::string mat = sparse("freyface/frey_rawface.mat", mat_header(), terabyte);
  EXPECT_THAT(error_of([&] { load_freyface(mat, Split::none, 0); }), AllOf(HasSubstr(mat), HasSubstr("byte 128")));
  EXPECT_THAT(error_of([&] { read_text(mat); }), AllOf(HasSubstr(mat), HasSubstr("1099511627776 bytes of memory")));
}

TEST(Idx, RefusesWhatDoesNotFitIntoWhatIsLeftOfTheAddressSpace) {
  constexpr std::uint64_t gigabyte = std::uint64_t{1} << 30;
  const TemporaryFolder folder;
  const std::string path = folder.write("images", idx_header({1 << 11, 1 << 10, 1 << 10}));
  std::filesystem::resize_file(path, 2 * gigabyte + 16);
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  const rlimit set{pages * static_cast<std::uint64_t>(sysconf(_SC_PAGE_SIZE)) + gigabyte, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_AS, &set), 0);
  const std::string error = error_of([&] { read_idx_images(path, ""); });
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_THAT(error, AllOf(HasSubstr(path), HasSubstr("2147483648 bytes of memory")));
}

// ---- MATLAB -------------------------------------------------------------------------------------------

TEST(Mat, ReadsPlainAndCompressedVariables) {
  for (const bool compressed : {false, true}) {
    MatVariable other, ff;
    other.name = "other";
    other.flags = 6;  // double
    other.data_type = 9;
    other.compressed = ff.compressed = compressed;
    const MatMatrix m = parse_mat(mat_header() + mat_variable(other) + mat_variable(ff), "ff", "file");
    EXPECT_EQ(m.rows, 4);
    EXPECT_EQ(m.columns, 6);
    EXPECT_EQ(m.values, numbers(counting(24)));
  }
}

TEST(Mat, ReadsPackedElements) {
  // the name `ff` and a 2 x 1 matrix, both packed with their tags into 8 bytes, as MATLAB writes what is that short
  const Bytes packed_name = {std::byte{1},   std::byte{0},   std::byte{2}, std::byte{0},
                             std::byte{'f'}, std::byte{'f'}, {},           {}};
  const Bytes packed_data = {std::byte{2}, std::byte{0}, std::byte{2}, std::byte{0},
                             std::byte{7}, std::byte{9}, {},           {}};
  const Bytes content =
      mat_element<std::uint32_t>(6, {9, 0}) + mat_element<std::int32_t>(5, {2, 1}) + packed_name + packed_data;
  EXPECT_EQ(parse_mat(mat_header() + mat_element(14, content), "ff", "file").values, (std::vector<std::uint8_t>{7, 9}));
}

MatVariable variable(std::function<void(MatVariable&)> change) {
  MatVariable v;
  change(v);
  return v;
}

TEST(Mat, RefusesByName) {
  const Bytes header = mat_header();
  const auto file = [&](std::function<void(MatVariable&)> change) {
    return header + mat_variable(variable(std::move(change)));
  };
  Bytes hdf5 = header, big_endian = header, no_mat = header;
  hdf5[125] = std::byte{2};
  std::swap(big_endian[126], big_endian[127]);
  no_mat[126] = std::byte{'X'};
  const Bytes packed = file([](MatVariable& v) { v.compressed = true; });
  const struct {
    const char* what;
    Bytes file;
    const char* error;
  } cases[] = {
      {"empty", {}, "header ... 128 bytes ... 0"},
      {"no MAT-file", no_mat, "not a MATLAB level 5 file ... IM"},
      {"version 7.3", hdf5, "7.3, HDF5 ... version 1"},
      {"big-endian", big_endian, "big-endian"},
      {"nothing in it", header, "no variable ff"},
      {"another variable", file([](MatVariable& v) { v.name = "gg"; }), "no variable ff"},
      {"double", file([](MatVariable& v) { v.flags = 6; }), "ff ... class 6 ... 9 (uint8)"},
      {"complex", file([](MatVariable& v) { v.flags = 0x809; }), "ff ... class 9, complex ... real"},
      {"data of another type", file([](MatVariable& v) { v.data_type = 3; }), "ff ... type 3 ... 2"},
      {"too few", file([](MatVariable& v) { v.bytes = 23; }), "ff ... 4 x 6 ... 23 bytes"},
      {"too many", file([](MatVariable& v) { v.bytes = 25; }), "ff ... 25 bytes ... 24"},
      {"negative", file([](MatVariable& v) { v.rows = -4; }), "ff ... -4 x 6"},
      {"huge", file([](MatVariable& v) { v.rows = v.columns = 0x7fffffff; }), "ff ... 24 bytes"},
      {"long name", file([](MatVariable& v) { v.name.assign(64, 'f'); }), "name ... 64 bytes ... 63"},
      {"no variable", header + mat_element(2, counting(8)), "byte 128 ... type 2 ... 14 or 15"},
      {"rest", file([](MatVariable& v) { v.name = "gg"; }) + Bytes(4), "cut short ... byte 216 ... 4 bytes ... 0"},
      {"claims more",
       header + Bytes{std::byte{14}, {}, {}, {}, std::byte{255}, std::byte{255}, std::byte{255}, std::byte{255}},
       "byte 128 ... 4294967295 bytes ... 0"},
      {"compressed, damaged", flipped(packed, packed.size() - 1), "damaged ... byte"},
      {"compressed, of another type",
       header +
           [] {
             const Bytes inner = deflated(mat_element(2, counting(8)), 15);
             Bytes e = mat_element(15, inner);
             e.resize(8 + inner.size());
             return e;
           }(),
       "compressed ... byte 128 ... type 2"},
  };
  for (const auto& c : cases)
    EXPECT_TRUE(says(error_of([&] { parse_mat(c.file, "ff", "the/file"); }), std::string("the/file: ... ") + c.error))
        << c.what;
}

TEST(Mat, RefusesEveryTruncation) {
  for (const bool compressed : {false, true}) {
    const Bytes whole = mat_header() + mat_variable(variable([&](MatVariable& v) { v.compressed = compressed; }));
    for (std::size_t n = 0; n < whole.size(); ++n)
      EXPECT_THROW(parse_mat(std::span(whole).first(n), "ff", "file"), Error) << n;
  }
}

TEST(Mat, MemoryGrowsWithTheBytesNotWithTheClaim) {
  for (const bool compressed : {false, true}) {
    // 1 GB claimed by the dimensions, 24 bytes there
    const Bytes lie = mat_header() + mat_variable(variable([&](MatVariable& v) {
                        v.rows = v.columns = 1 << 15;
                        v.compressed = compressed;
                      }));
    watch_allocations();
    EXPECT_THROW(parse_mat(lie, "ff", "file"), Error);
    EXPECT_LT(peak_allocation(), 1u << 18);
  }
}

// ---- Frey Face ----------------------------------------------------------------------------------------

// 260 images of one grey value each: image i is i % 251.
std::string write_faces(const TemporaryFolder& folder) {
  MatVariable v;
  v.rows = 560;
  v.columns = 260;
  v.bytes = 560 * 260;
  Bytes file = mat_header() + mat_variable(v);
  for (std::size_t i = 0; i < v.bytes; ++i) file[file.size() - v.bytes + i] = static_cast<std::byte>(i / 560 % 251);
  return folder.write("freyface/frey_rawface.mat", file);
}

std::vector<int> greys(const ImageSet& set) {
  std::vector<int> values;
  for (std::int64_t i = 0; i < set.count; ++i) values.push_back(set.image(i)[0]);
  return values;
}

TEST(FreyFace, HoldsOut200ImagesChosenBySeed) {
  const TemporaryFolder folder;
  const std::string path = write_faces(folder);
  const Dataset data = load_freyface(path, Split::holdout, 1);
  EXPECT_EQ(data.train.count, 60);
  EXPECT_EQ(data.test.count, 200);
  EXPECT_EQ(data.train.height, 28);
  EXPECT_EQ(data.train.width, 20);
  EXPECT_EQ(data.train.pixels.size(), 60u * 560u);
  EXPECT_TRUE(data.train.labels.empty());

  std::vector<int> all = greys(data.train), test = greys(data.test), expected;
  all.insert(all.end(), test.begin(), test.end());
  std::sort(all.begin(), all.end());
  for (int i = 0; i < 260; ++i) expected.push_back(i % 251);
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(all, expected) << "every image is in one of the two sets";

  EXPECT_EQ(greys(load_freyface(path, Split::holdout, 1).test), test);
  EXPECT_NE(greys(load_freyface(path, Split::holdout, 2).test), test);
}

TEST(FreyFace, NoneTrainsAndTestsOnAllInOrder) {
  const TemporaryFolder folder;
  const Dataset data = load_freyface(write_faces(folder), Split::none, 1);
  EXPECT_EQ(data.train.count, 260);
  EXPECT_EQ(data.test.pixels, data.train.pixels);
  EXPECT_EQ(greys(data.train)[250], 250);
}

TEST(FreyFace, RefusesAnotherMatrix) {
  EXPECT_THAT(error_of([] { parse_freyface(mat_header() + mat_variable({}), "file"); }),
              AllOf(HasSubstr("file: "), HasSubstr("4 rows"), HasSubstr("560 (images of 28 x 20)")));
  const Bytes few = mat_header() + mat_variable(variable([](MatVariable& v) {
                      v.rows = 560;
                      v.columns = 200;
                      v.bytes = 560 * 200;
                    }));
  EXPECT_THAT(error_of([&] { parse_freyface(few, "file"); }),
              AllOf(HasSubstr("200 columns"), HasSubstr("more than 200")));
}

// ---- Data sets ----------------------------------------------------------------------------------------

Spec named(const std::string& name, Split split = Split::holdout) {
  Spec spec;
  spec.data.dataset = name;
  spec.data.split = split;
  spec.given["data.dataset"] = "x.json:3";
  return spec;
}

// A set of 5 training and 3 test images of 3 x 4 pixels.
void write_set(const TemporaryFolder& folder, const std::string& name) {
  folder.write(name + "/train-images-idx3-ubyte.gz", gzip(idx({5, 3, 4})));
  folder.write(name + "/train-labels-idx1-ubyte.gz", gzip(idx({5})));
  folder.write(name + "/t10k-images-idx3-ubyte", idx({3, 3, 4}));
  folder.write(name + "/t10k-labels-idx1-ubyte", idx({3}));
}

TEST(Dataset, ReadsAnySetInIdxForm) {
  const TemporaryFolder folder;
  write_set(folder, "mine");
  const Dataset data = load_dataset(named("mine"), {folder / "absent", folder.path()});
  EXPECT_EQ(data.name, "mine");
  EXPECT_EQ(data.train.count, 5);
  EXPECT_EQ(data.train.height, 3);
  EXPECT_EQ(data.train.width, 4);
  EXPECT_EQ(data.train.labels, (std::vector<std::uint8_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(data.test.labels, (std::vector<std::uint8_t>{0, 1, 2}));
  EXPECT_EQ(data.test.pixels, numbers(counting(36)));

  const Dataset whole = load_dataset(named("mine", Split::none), {folder.path()});
  EXPECT_EQ(whole.train.count, 8);
  EXPECT_EQ(whole.train.labels, (std::vector<std::uint8_t>{0, 1, 2, 3, 4, 0, 1, 2}));
  EXPECT_EQ(whole.test.pixels, whole.train.pixels);
}

TEST(Dataset, TakesTheFirstDirectoryThatHasIt) {
  const TemporaryFolder first, second;
  write_set(first, "mine");
  write_set(second, "mine");
  first.write("mine/t10k-images-idx3-ubyte", idx({2, 3, 4}));
  first.write("mine/t10k-labels-idx1-ubyte", idx({2}));
  EXPECT_EQ(load_dataset(named("mine"), {first.path(), second.path()}).test.count, 2);
  EXPECT_EQ(load_dataset(named("mine"), {second.path(), first.path()}).test.count, 3);
}

TEST(Dataset, LabelsAreOptional) {
  const TemporaryFolder folder;
  write_set(folder, "mine");
  std::filesystem::remove(folder / "mine/train-labels-idx1-ubyte.gz");
  EXPECT_THAT(error_of([&] { load_dataset(named("mine"), {folder.path()}); }),
              AllOf(HasSubstr("mine: "), HasSubstr("labels of the test images only")));
  std::filesystem::remove(folder / "mine/t10k-labels-idx1-ubyte");
  EXPECT_TRUE(load_dataset(named("mine"), {folder.path()}).train.labels.empty());
}

TEST(Dataset, KnownSetsHaveSizesWhereTheyAreNotThere) {
  const TemporaryFolder folder;
  EXPECT_EQ(measure_or_look_up(named("mnist"), {folder.path()}).count, 60000);
  EXPECT_EQ(measure_or_look_up(named("freyface", Split::none), {folder.path()}).count, 1965);
  write_set(folder, "mine");
  EXPECT_EQ(measure_or_look_up(named("mine"), {folder.path()}).count, 5);
  write_set(folder, "mnist");
  EXPECT_EQ(measure_or_look_up(named("mnist"), {folder.path()}).count, 5);
  std::filesystem::remove(folder / "mnist/t10k-images-idx3-ubyte");
  EXPECT_THAT(error_of([&] { measure_or_look_up(named("mnist"), {folder.path()}); }),
              HasSubstr("t10k-images-idx3-ubyte"));
  EXPECT_THAT(error_of([&] { measure_or_look_up(named("yours"), {folder.path()}); }), HasSubstr("data set 'yours'"));
}

TEST(Dataset, IsMeasuredByItsHeaders) {
  const TemporaryFolder folder;
  write_set(folder, "mine");
  for (const Split split : {Split::holdout, Split::none}) {
    const Dataset loaded = load_dataset(named("mine", split), {folder.path()});
    const Dataset measured = measure_dataset(named("mine", split), {folder.path()});
    for (const auto& [there, sizes] :
         {std::pair{loaded.train, measured.train}, std::pair{loaded.test, measured.test}}) {
      EXPECT_EQ(sizes.count, there.count);
      EXPECT_EQ(sizes.image_shape(), there.image_shape());
      EXPECT_EQ(sizes.bytes(), there.pixels.size());
      EXPECT_EQ(sizes.pixels.capacity() + sizes.labels.capacity(), 0u);
    }
  }
  // A header that claims more than the file can hold.
  const std::string path = folder.write("mine/train-images-idx3-ubyte", idx_header({1 << 20, 1 << 10, 1 << 10}));
  EXPECT_THAT(error_of([&] { measure_dataset(named("mine"), {folder.path()}); }),
              AllOf(HasSubstr(path), HasSubstr("is cut short"), HasSubstr("1099511627776 bytes")));
}

TEST(Dataset, RefusesByName) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& name) {
    return error_of([&] { load_dataset(named(name), {folder.path()}); });
  };
  EXPECT_THAT(error("mnist"),
              AllOf(HasSubstr("x.json:3: data.dataset: "), HasSubstr("'mnist'"), HasSubstr(folder.path()),
                    HasSubstr("http://yann.lecun.com/exdb/mnist/"), HasSubstr("ba891046e6505d7aadcbbe25680a0738")));
  EXPECT_THAT(error("mine"), HasSubstr("folder with the four IDX files"));
  EXPECT_THAT(error("../mine"),
              AllOf(HasSubstr("x.json:3: data.dataset: "), HasSubstr("'../mine'"), HasSubstr("name of a folder")));
  EXPECT_THAT(error(""), HasSubstr("name of a folder"));

  std::filesystem::create_directory(folder / "freyface");
  EXPECT_THAT(error("freyface"),
              AllOf(HasSubstr("freyface: "), HasSubstr("no frey_rawface.mat"), HasSubstr("Sam Roweis")));
  write_set(folder, "mine");
  folder.write("mine/t10k-labels-idx1-ubyte", idx({4}));
  EXPECT_THAT(error("mine"), AllOf(HasSubstr("mine/t10k-labels-idx1-ubyte: "), HasSubstr("4 labels"),
                                   HasSubstr("t10k-images-idx3-ubyte"), HasSubstr("3 images")));
  folder.write("mine/t10k-labels-idx1-ubyte", idx({3, 1}));
  EXPECT_THAT(error("mine"), AllOf(HasSubstr("2 dimensions"), HasSubstr("1 (labels)")));
  folder.write("mine/t10k-labels-idx1-ubyte", idx_header({3}, 0x0c) + counting(12));
  EXPECT_THAT(error("mine"), HasSubstr("type 0c (32-bit integer)"));
  write_set(folder, "mine");
  folder.write("mine/t10k-images-idx3-ubyte", idx({3, 4, 4}));
  EXPECT_THAT(error("mine"), AllOf(HasSubstr("4 x 4"), HasSubstr("3 x 4")));
  std::filesystem::remove(folder / "mine/t10k-images-idx3-ubyte");
  EXPECT_THAT(error("mine"), AllOf(HasSubstr("mine: "), HasSubstr("no t10k-images-idx3-ubyte")));
  std::filesystem::create_directory(folder / "mine/t10k-images-idx3-ubyte");
  EXPECT_THAT(error("mine"), AllOf(HasSubstr("t10k-images-idx3-ubyte: "), HasSubstr("folder")));
}

TEST(Dataset, DirectoriesInOrder) {
  const char* before = std::getenv("ELBO_DATA");
  const std::optional<std::string> saved = before ? std::optional<std::string>(before) : std::nullopt;
  ::setenv("ELBO_DATA", "/from/variable", 1);
  EXPECT_EQ(data_directories("/usr"), std::vector<std::string>{"/usr"});
  EXPECT_THROW(data_directories("/given"), Error) << "is not there";
  EXPECT_EQ(data_directories(""), (std::vector<std::string>{"/from/variable", "data", "/usr/share/datasets"}));
  ::unsetenv("ELBO_DATA");
  EXPECT_EQ(data_directories(""), (std::vector<std::string>{"data", "/usr/share/datasets"}));
  if (saved) ::setenv("ELBO_DATA", saved->c_str(), 1);
}

// ---- The catalogue ------------------------------------------------------------------------------------

TEST(Sha256, KnownAnswers) {  // FIPS 180-4's examples
  Sha256 empty, abc;
  EXPECT_EQ(empty.hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  abc.update("a", 1);
  abc.update("bc", 2);
  EXPECT_EQ(abc.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Catalog, NamesClasses) {
  EXPECT_EQ(class_names("mnist").size(), 10u);
  EXPECT_EQ(class_names("fashion-mnist").at(9), "Ankle boot");
  EXPECT_TRUE(class_names("freyface").empty());
  EXPECT_TRUE(class_names("mine").empty());
}

TEST(Catalog, SaysWhatIsThereAndWhatIsNot) {
  const TemporaryFolder folder;
  bool ok = true;
  EXPECT_THAT(verify_data({folder.path()}, ok), HasSubstr("mnist: not here"));
  EXPECT_FALSE(ok) << "nothing is there";

  write_set(folder, "mine");
  const std::string mine = "mine: " + folder / "mine";
  EXPECT_THAT(list_data({folder.path()}),
              AllOf(HasSubstr(mine), HasSubstr("freyface: not here"), HasSubstr("Sam Roweis")));
  EXPECT_THAT(verify_data({folder.path()}, ok),
              AllOf(HasSubstr(mine), HasSubstr("readable: 5 images of 3 x 4, with labels"), Not(HasSubstr("WRONG"))));
  EXPECT_TRUE(ok);

  write_faces(folder);  // another file of the right name
  EXPECT_THAT(list_data({folder.path()}), HasSubstr("freyface: " + folder / "freyface"));
  EXPECT_THAT(verify_data({folder.path()}, ok),
              AllOf(HasSubstr("frey_rawface.mat: "), HasSubstr("145792 bytes"), HasSubstr("1100584")));
  EXPECT_FALSE(ok);
  folder.write("freyface/frey_rawface.mat", Bytes(1100584));
  EXPECT_THAT(verify_data({folder.path()}, ok), AllOf(HasSubstr("frey_rawface.mat: "), HasSubstr("SHA-256")));
  EXPECT_FALSE(ok);
  std::filesystem::remove_all(folder / "freyface");

  folder.write("mnist/train-images-idx3-ubyte.gz", bytes_of("hello"));
  EXPECT_THAT(list_data({folder.path()}),
              AllOf(HasSubstr("train-labels-idx1-ubyte  missing"), HasSubstr("yann.lecun.com")));
  EXPECT_THAT(verify_data({folder.path()}, ok),
              AllOf(HasSubstr("WRONG"), HasSubstr("not a gzip file"), HasSubstr("train-labels-idx1-ubyte: missing")));
  EXPECT_FALSE(ok);
  std::filesystem::remove_all(folder / "mnist");

  folder.write("mine/train-labels-idx1-ubyte.gz", gzip(idx({6})));
  EXPECT_THAT(verify_data({folder.path()}, ok), HasSubstr("holds 6 labels"));
  EXPECT_FALSE(ok);
}

// Whatever is wrong with a set, `run` and `data verify` say the same of it.
TEST(Catalog, VerifiesWhatARunRefuses) {
  const std::string images = "mine/t10k-images-idx3-ubyte", labels = "mine/t10k-labels-idx1-ubyte";
  const struct {
    const char* what;
    std::function<void(const TemporaryFolder&)> spoil;
    const char* error;  // none: it is right
  } cases[] = {
      {"right", [](const TemporaryFolder&) {}, ""},
      {"no labels",
       [&](const TemporaryFolder& f) {
         std::filesystem::remove(f / labels);
         std::filesystem::remove(f / "mine/train-labels-idx1-ubyte.gz");
       },
       ""},
      {"two members",
       [&](const TemporaryFolder& f) {
         std::filesystem::remove(f / images);
         f.write(images + ".gz", split(idx({3, 3, 4}), 21));
       },
       ""},
      {"labels of one part", [&](const TemporaryFolder& f) { std::filesystem::remove(f / labels); },
       "mine: ... labels of the training images only"},
      {"another size",
       [&](const TemporaryFolder& f) {
         f.write(images, idx({3, 4, 3}));
       },
       "t10k-images-idx3-ubyte: ... 4 x 3"},
      {"another number", [&](const TemporaryFolder& f) { f.write(labels, idx({4})); }, "4 labels"},
      {"cut",
       [&](const TemporaryFolder& f) {
         f.write(images, without_last(idx({3, 3, 4}), 1));
       },
       "t10k-images-idx3-ubyte: ... cut short"},
      {"goes on", [&](const TemporaryFolder& f) { f.write(labels, idx({3}) + Bytes(1)); },
       "t10k-labels-idx1-ubyte: goes on"},
      {"missing", [&](const TemporaryFolder& f) { std::filesystem::remove(f / images); }, "t10k-images-idx3-ubyte"},
  };
  for (const auto& c : cases) {
    const TemporaryFolder folder;
    write_set(folder, "mine");
    c.spoil(folder);
    bool ok = false;
    const std::string error = error_of([&] { load_dataset(named("mine"), {folder.path()}); });
    const std::string verified = verify_data({folder.path()}, ok);
    EXPECT_EQ(ok, *c.error == 0) << c.what;
    EXPECT_EQ(error.empty(), *c.error == 0) << c.what << ": " << error;
    EXPECT_TRUE(says(error, c.error)) << c.what;
    EXPECT_TRUE(says(verified, c.error)) << c.what;
    EXPECT_EQ(verified.find("WRONG") == std::string::npos, ok) << c.what;
  }
}

// The sets themselves, where they are installed.
TEST(Catalog, InstalledSetsAreRight) {
  const std::vector<std::string> directories = data_directories("");
  int found = 0;
  for (const KnownSet& set : known_sets()) {
    if (find_set(set.name, directories).empty()) {
      EXPECT_EQ(std::getenv("ELBO_REQUIRE_DATA"), nullptr) << set.name << " is missing";
      continue;
    }
    ++found;
    const Dataset data = load_dataset(named(set.name), directories);
    const bool frey = set.name == "freyface";
    EXPECT_EQ(data.train.count, frey ? 1765 : 60000);
    EXPECT_EQ(data.test.count, frey ? 200 : 10000);
    EXPECT_EQ(data.train.width, frey ? 20 : 28);
    EXPECT_EQ(data.train.channels, 1);
    for (const Split split : {Split::holdout, Split::none}) {
      const ImageSet there = measure_or_look_up(named(set.name, split), directories);
      const ImageSet known = measure_or_look_up(named(set.name, split), {"/nowhere"});
      EXPECT_EQ(there.bytes(), load_dataset(named(set.name, split), directories).train.pixels.size());
      EXPECT_EQ(known.count, there.count);
      EXPECT_EQ(known.height, there.height);
      EXPECT_EQ(known.width, there.width);
      EXPECT_EQ(known.channels, there.channels);
    }
    EXPECT_EQ(std::set<int>(data.train.labels.begin(), data.train.labels.end()).size(), set.classes.size());
  }
  if (found == 0) GTEST_SKIP() << "no data set is installed (Debian's package dataset-fashion-mnist is one)";
  bool ok = false;
  const std::string text = verify_data(directories, ok);
  EXPECT_TRUE(ok) << text;
}

}  // namespace
}  // namespace elbo
