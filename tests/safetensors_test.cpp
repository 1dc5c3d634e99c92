// Checkpoint files: whole or refused, at every bit; and written wholly or not at all.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "host/base/files.h"
#include "host/base/safetensors.h"
#include "tests/allocations.h"
#include "tests/data_files.h"
#include "tests/errors.h"
#include "tests/temporary_folder.h"

namespace elbo {
namespace {

using namespace elbo::test;
using testing::AllOf;
using testing::HasSubstr;

NamedTensor tensor(const std::string& name, DType dtype, Shape shape) {
  return {name, dtype, shape, counting(static_cast<std::size_t>(shape.count()) * size_of(dtype))};
}

// Every type, and shapes from none to five dimensions.
TensorFile sample() {
  TensorFile file;
  file.tensors = {tensor("u8", DType::u8, {3}),        tensor("encoder.0.weight", DType::f32, {2, 3}),
                  tensor("bf16", DType::bf16, {1, 3}), tensor("f16", DType::f16, {1, 1, 5}),
                  tensor("sum", DType::f64, {}),       tensor("step", DType::u64, {1, 1, 2, 1, 1}),
                  tensor("empty", DType::f32, {0, 4}), tensor("\"ä\\\n", DType::u8, {1})};
  file.metadata = {{"spec", "{\"sha256\":\"" + std::string(64, '0') + "\"}"}, {"note", "ä \" \\ \n"}};
  return file;
}

void expect_equal(const TensorFile& a, const TensorFile& b) {
  EXPECT_EQ(a.metadata, b.metadata);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const NamedTensor& t : a.tensors) {
    const NamedTensor* const same = b.find(t.name);
    ASSERT_TRUE(same) << t.name;
    EXPECT_EQ(same->dtype, t.dtype) << t.name;
    EXPECT_EQ(same->shape, t.shape) << t.name;
    EXPECT_EQ(same->bytes, t.bytes) << t.name;
  }
}

TensorFile parse(const Bytes& bytes) { return parse_safetensors(bytes.data(), bytes.size(), "the/file"); }

// A file made by hand: the length of its header, the header, and n bytes.
Bytes file_of(const std::string& header, std::size_t n) {
  const std::uint64_t length = header.size();
  Bytes bytes(8);
  std::memcpy(bytes.data(), &length, 8);
  return bytes + bytes_of(header) + counting(n);
}

std::ptrdiff_t files_in(const std::filesystem::path& folder) {
  return std::distance(std::filesystem::directory_iterator(folder), {});
}

// ---- Reading ------------------------------------------------------------------------------------------

TEST(Safetensors, WhatIsWrittenIsRead) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  write_safetensors(path, sample());
  expect_equal(sample(), read_safetensors(path));
  expect_equal(sample(), parse(read_file(path)));
  EXPECT_EQ(files_in(folder.path()), 1);

  write_safetensors(path, {});
  EXPECT_TRUE(read_safetensors(path).tensors.empty());
  EXPECT_EQ(read_safetensors(path).find("weight"), nullptr);
}

TEST(Safetensors, EveryTensorIsAligned) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", sample());
  const Bytes bytes = read_file(folder / "a");
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  EXPECT_EQ(header % 8, 0u);
  std::size_t at = 8 + header;
  for (const NamedTensor& t : parse(bytes).tensors) {
    EXPECT_EQ(at % size_of(t.dtype), 0u) << t.name;
    at += t.bytes.size();
  }
  EXPECT_EQ(at, bytes.size());
}

TEST(Safetensors, FilesOfOthersNeedNoChecksum) {
  const TensorFile file = parse(file_of(
      R"( {"b": {"shape": [2], "data_offsets": [4, 12], "dtype": "F32"}, "a": {"dtype":"U8","shape":[4],"data_offsets":[0,4]}} )" +
          1,
      12));
  EXPECT_EQ(file.find("b")->shape, Shape({2}));
  EXPECT_EQ(file.find("b")->bytes[0], std::byte{4});
  EXPECT_EQ(file.tensors[0].name, "a");
  EXPECT_TRUE(parse(file_of("{}", 0)).tensors.empty());
}

TEST(Safetensors, RefusesByName) {
  const auto one = [](const std::string& entry) { return "{\"w\":" + entry + "}"; };
  const std::string good = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  ASSERT_EQ(error_of([&] { parse(file_of(one(good), 8)); }), "");
  const struct {
    std::string header;
    std::size_t data;
    const char* error;
  } cases[] = {
      {"", 0, "header ... not a JSON object"},
      {"[]", 0, "header ... not a JSON object"},
      {"\xef\xbb\xbf{}", 0, "header ... not a JSON object"},
      {std::string("{}\0x", 4), 0, "header ... not a JSON object"},
      {"{", 0, "header ... not JSON ... byte 9"},
      {"{}}", 0, "header ... not JSON"},
      {"{\"\xff\":1}", 0, "header ... not JSON"},
      {"{\"w\":1e999}", 0, "header ... not JSON"},
      {"{\"w\":" + std::string(200'000, '['), 0, "'w' ... an array"},
      {one("5"), 8, "'w' ... a number"},
      {one("null"), 8, "'w' ... null"},
      {one("{}"), 8, "'w' ... dtype"},
      {one(R"({"dtype":"F32","data_offsets":[0,8]})"), 8, "'w' ... shape"},
      {one(R"({"dtype":"F32","shape":[2]})"), 8, "'w' ... data_offsets"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"), 8, "'w' ... unknown ... \"x\""},
      {one(R"({"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})"), 8, "'w' ... two ... \"dtype\""},
      {one(R"({"dtype":"I64","shape":[1],"data_offsets":[0,8]})"), 8, "'w' ... I64 ... U8, BF16"},
      {one(R"({"dtype":4,"shape":[2],"data_offsets":[0,8]})"), 8, "'w' ... dtype: ... a number"},
      {one(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"), 8, "'w' ... shape: ... a number"},
      {one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), 8, "'w' ... shape: ... negative"},
      {one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), 8, "'w' ... shape: ... no integer"},
      {one(R"({"dtype":"F32","shape":[[2]],"data_offsets":[0,8]})"), 8, "'w' ... shape: ... an array"},
      {one(R"({"dtype":"F32","shape":[1,1,1,1,1,2],"data_offsets":[0,8]})"), 8, "'w' ... 5 dimensions"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"), 8, "'w' ... fewer than two data_offsets"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})"), 8, "'w' ... more than two data_offsets"},
      {one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"), 8, "'w' ... [0, 8] ... f32 [3]"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), 8, "'w' ends ... 0 ... begins ... 8"},
      {one(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]})"), 0,
       "'w' ... shape ... more elements"},
      {one(R"({"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})"), 0,
       "'w' ... shape ... more elements"},
      {one(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})"), 0, "'w' ... f64"},
      {one(R"({"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]})"), 8,
       "cut short ... 18446744073709551615"},
      {one(good), 7, "cut short ... 8 bytes ... 7"},
      {one(good), 9, "1 bytes follow"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[1,9]})"), 9, "'w' begins ... 1 ... 0 ... hole"},
      {"{\"v\":" + good + ",\"w\":" + good + "}", 8, "'w' begins ... 0 ... 8 ... overlaps"},
      {"{\"w\":" + good + R"(,"v":{"dtype":"U8","shape":[0],"data_offsets":[8,4]}})", 8, "'v' ends ... 4"},
      {"{\"w\":" + good + R"(,"w":{"dtype":"U8","shape":[1],"data_offsets":[8,9]}})", 9, "two tensors 'w'"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "two ... __metadata__"},
      {R"({"__metadata__":{"a":"1","a":"2"}})", 0, "two metadata ... \"a\""},
      {R"({"__metadata__":{"a":1}})", 0, "metadata ... a number ... texts"},
      {R"({"__metadata__":{"a":{}}})", 0, "metadata ... an object"},
      {R"({"__metadata__":5})", 0, "metadata ... a number"},
      {R"({"__metadata__":{"checksum":"sha256"}})", 0, "damaged ... checksum ... none"},
      {R"({"__metadata__":{"sha256":"123"}})", 0, "damaged ... checksum ... 64"},
      {R"({"__metadata__":{"sha256":")" + std::string(64, '0') + "\"}}", 0, "damaged ... SHA-256"},
  };
  for (const auto& c : cases) {
    const std::string error = error_of([&] { parse(file_of(c.header, c.data)); });
    EXPECT_TRUE(says(error, std::string("the/file ... ") + c.error)) << c.header.substr(0, 200);
  }
  EXPECT_THAT(error_of([] { parse({}); }), AllOf(HasSubstr("8 bytes or more"), HasSubstr(" 0")));
  EXPECT_THAT(error_of([] { parse(bytes_of("{\"w\":{}}")); }), HasSubstr("not a safetensors file"));
  Bytes lie = file_of("{}", 0);
  lie[0] = std::byte{3};
  EXPECT_TRUE(says(error_of([&] { parse(lie); }), "cut short ... header ... 3 bytes ... 2"));
}

// ---- Damage -------------------------------------------------------------------------------------------

TEST(Safetensors, EveryFlippedBitIsSeen) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", sample());
  Bytes bytes = read_file(folder / "a");
  for (std::size_t at = 0; at < bytes.size(); ++at)
    for (int bit = 0; bit < 8; ++bit) {
      bytes[at] ^= static_cast<std::byte>(1 << bit);
      EXPECT_THROW(parse(bytes), Error) << "byte " << at << ", bit " << bit;
      bytes[at] ^= static_cast<std::byte>(1 << bit);
    }
  EXPECT_NO_THROW(parse(bytes));
}

TEST(Safetensors, EveryTruncationIsSeen) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", sample());
  const Bytes whole = read_file(folder / "a");
  for (std::size_t n = 0; n < whole.size(); ++n) EXPECT_THROW(parse_safetensors(whole.data(), n, "file"), Error) << n;
  EXPECT_THROW(parse(whole + Bytes(1)), Error);

  const std::string path = folder.write("cut", std::span(whole).first(whole.size() - 1));
  EXPECT_TRUE(says(error_of([&] { read_safetensors(path); }), path + ": ... cut short"));
}

TEST(Safetensors, ChangedWeightsAreNamedAsDamage) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", sample());
  Bytes bytes = read_file(folder / "a");
  bytes.back() ^= std::byte{1};
  const std::string path = folder.write("b", bytes);
  EXPECT_TRUE(says(error_of([&] { read_safetensors(path); }), path + ": ... damaged ... SHA-256"));
}

TEST(Safetensors, MemoryGrowsWithTheFileNotWithTheClaim) {
  const TemporaryFolder folder;
  const std::string claims[] = {
      R"({"w":{"dtype":"U8","shape":[4000000000],"data_offsets":[0,4000000000]}})",
      R"({"w":{"dtype":"F32","shape":[0,2147483647],"data_offsets":[0,0]}})",
      R"({"__metadata__":)" + std::string(50'000, '{'),
  };
  for (const std::string& header : claims) {
    const Bytes file = file_of(header, 0);
    watch_allocations();
    error_of([&] { parse(file); });
    EXPECT_LT(peak_allocation(), 4 * file.size() + (1 << 16)) << header.substr(0, 100);
  }
  Bytes length = file_of("{}", 0);
  length[3] = std::byte{5};  // a header of 84 MB
  watch_allocations();
  EXPECT_THROW(parse(length), Error);
  EXPECT_LT(peak_allocation(), 1u << 16);

  // Many empty tensors are what costs most: a name, a shape and a place for 55 bytes of the file.
  std::string header = "{";
  for (int i = 0; i < 10'000; ++i)
    header += cat(i ? ",\"" : "\"", i, R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
  const Bytes many = file_of(header + "}", 0);
  watch_allocations();
  EXPECT_EQ(parse(many).tensors.size(), 10'000u);
  EXPECT_LT(peak_allocation(), 12 * many.size());

  // A large file costs its own size, not twice.
  TensorFile large;
  large.tensors = {tensor("a", DType::f32, {1 << 20}), tensor("b", DType::f32, {1 << 20})};
  write_safetensors(folder / "large", large);
  watch_allocations();
  const TensorFile read = read_safetensors(folder / "large");
  EXPECT_GT(peak_allocation(), 8u << 20);
  EXPECT_LT(peak_allocation(), (8u << 20) + (1 << 16));
}

// ---- Writing ------------------------------------------------------------------------------------------

TEST(Safetensors, RefusesToWriteNonsense) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  const auto error = [&](std::vector<NamedTensor> tensors) {
    return error_of([&] { write_safetensors(path, {tensors, {}}); });
  };
  const NamedTensor w = tensor("w", DType::f32, {2});
  EXPECT_TRUE(says(error({w, w}), path + ": ... two tensors 'w'"));
  EXPECT_THAT(error({tensor("__metadata__", DType::u8, {1})}), HasSubstr("a reserved name"));
  EXPECT_TRUE(says(error({{"w", DType::f32, {3}, Bytes(8)}}), "'w' ... f32 [3] ... 8 bytes"));
  EXPECT_THAT(error({tensor("\xff", DType::u8, {1})}), HasSubstr("UTF-8"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

// A file that is to be replaced, and the check that it was not.
class FailedWrite : public testing::Test {
 protected:
  FailedWrite() {
    old_.tensors = {tensor("old", DType::f32, {2})};
    new_.tensors = {tensor("new", DType::u8, {1 << 20})};
    write_safetensors(path_, old_);
  }
  void expect_refused(const char* reason) {
    EXPECT_THAT(error_of([&] { write_safetensors(path_, new_); }),
                AllOf(HasSubstr(path_ + ": cannot be written: "), HasSubstr(reason)));
    expect_equal(old_, read_safetensors(path_));
    EXPECT_EQ(files_in(std::filesystem::path(path_).parent_path()), 1);
  }
  TemporaryFolder folder_;
  std::string path_ = folder_ / "a.safetensors";
  TensorFile old_, new_;
};

TEST_F(FailedWrite, FileSystemIsFull) {
  const std::string small = folder_ / "small";
  std::filesystem::create_directory(small);
  if (::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=64k") != 0) GTEST_SKIP() << "this user may not mount a tmpfs";
  path_ = small + "/a.safetensors";
  write_safetensors(path_, old_);
  expect_refused("No space left on device");
  ::umount(small.c_str());
}

TEST_F(FailedWrite, FileSizeIsLimited) {
  rlimit before;
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{100'000, before.rlim_max};
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  expect_refused("File too large");
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
}

TEST_F(FailedWrite, FolderIsReadOnly) {
  ::chmod(folder_.path().c_str(), 0555);
  const uid_t user = ::geteuid();
  ASSERT_EQ(::seteuid(user == 0 ? 65534 : user), 0);  // root may write anywhere
  expect_refused("Permission denied");
  ASSERT_EQ(::seteuid(user), 0);
  ::chmod(folder_.path().c_str(), 0755);
}

TEST_F(FailedWrite, FolderIsMissing) {
  const std::string path = folder_ / "absent/a.safetensors";
  EXPECT_THAT(error_of([&] { write_safetensors(path, new_); }),
              AllOf(HasSubstr(path + ": cannot be written"), HasSubstr("No such file")));
}

// Both lie in the test's own folder: were one replaced, no device of the machine would be.
TEST_F(FailedWrite, WhatIsNoRegularFileIsNotReplaced) {
  const std::string device = folder_ / "device", pipe = folder_ / "pipe";
  std::filesystem::create_symlink("/dev/full", device);
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const std::string& path : {device, pipe, folder_.path()}) {
    EXPECT_THAT(error_of([&] { write_safetensors(path, new_); }),
                AllOf(HasSubstr(path + ": cannot be written"), HasSubstr("not a regular file")));
    EXPECT_FALSE(std::filesystem::is_regular_file(path));
  }
}

TEST(Safetensors, NamesWhatCannotBeRead) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_of([&] { read_safetensors(folder / "absent"); }),
              AllOf(HasSubstr("absent: "), HasSubstr("No such file or directory")));
  EXPECT_THAT(error_of([&] { read_safetensors(folder.path()); }), HasSubstr("folder"));
  EXPECT_THAT(error_of([] { read_safetensors("/dev/full"); }),
              AllOf(HasSubstr("/dev/full: "), HasSubstr("not a regular file")));
  const std::string pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { read_safetensors(pipe); }), HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace elbo
