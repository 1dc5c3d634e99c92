// Files that are replaced, by several at once, too, and what a killed process leaves of them.
#include "host/base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "tests/errors.h"
#include "tests/temporary_folder.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::says;
using test::TemporaryFolder;

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  return names;
}

TEST(Files, TheReasonIsThatOfTheCall) {
  errno = EINVAL;
  EXPECT_TRUE(says(error_of([] { check_call(::open("/nowhere/x", O_RDONLY), "x", "cannot be opened"); }),
                   "x: cannot be opened ... No such file or directory"));
  EXPECT_EQ(check_call(7, "x", "cannot be opened"), 7);
}

// One of many may be the last; a file that is whole is one of theirs. Meanwhile somebody clears up.
TEST(Files, ManyReplaceOneFileAtOnce) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.json";
  constexpr int writers = 4, times = 40;
  std::atomic<int> working{writers};
  std::vector<std::string> errors(writers);
  std::vector<std::thread> threads;
  for (int i = 0; i < writers; ++i)
    threads.emplace_back([&, i] {
      errors[static_cast<std::size_t>(i)] = error_of([&] {
        for (int n = 0; n < times; ++n) replace_file(path, std::string(10000, static_cast<char>('a' + i)));
      });
      --working;
    });
  threads.emplace_back([&] {
    while (working > 0)
      for (const std::string& name : names_in(folder.path()))
        if (!name_in_temporary(name).empty()) remove_leftover(folder / name);
  });
  threads.emplace_back([&] {
    while (working > 0) {
      if (!fs::exists(path)) continue;
      const std::string text = read_text(path);
      ASSERT_EQ(text, std::string(10000, text.at(0)));
    }
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(errors, std::vector<std::string>(writers));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"a.json"});
}

TEST(Files, TheNamesOfTemporaryFiles) {
  EXPECT_EQ(name_in_temporary("spec.json.a1b2c3.elbo-tmp"), "spec.json");
  EXPECT_EQ(name_in_temporary("x.a1b2c3.elbo-tmp.a1b2c3.elbo-tmp"), "x.a1b2c3.elbo-tmp");
  for (const char* other :
       {"spec.json", "spec.json.tmp", "spec.json.elbo-tmp", "spec.json.a1b2c.elbo-tmp", "spec.json.a1b2c3d.elbo-tmp",
        "spec.json.A1b2c3.elbo-tmp", "spec.jsonxa1b2c3.elbo-tmp", ".a1b2c3.elbo-tmp", "spec.json.a1b2c3.elbo-tmp2", ""})
    EXPECT_EQ(name_in_temporary(other), "") << other;
}

TEST(Files, ALeftoverIsRemovedAndOneThatIsBeingWrittenIsNot) {
  const TemporaryFolder folder;
  const std::string path = folder.write("x.a1b2c3.elbo-tmp", {}), mine = folder.write("mine", {});
  const int writer = ::open(path.c_str(), O_WRONLY);
  ASSERT_EQ(::flock(writer, LOCK_EX), 0);
  remove_leftover(path);
  EXPECT_TRUE(fs::exists(path));
  ::close(writer);
  remove_leftover(path);
  EXPECT_FALSE(fs::exists(path));
  fs::create_symlink(mine, path);
  remove_leftover(path);
  EXPECT_TRUE(fs::is_symlink(path)) << "no run makes links";
  EXPECT_TRUE(fs::exists(mine));
}

TEST(Files, ASecondNameIsOfTheFileAndNotOfALinkToIt) {
  const TemporaryFolder folder;
  replace_file(folder / "elsewhere", "1");
  fs::create_symlink(folder / "elsewhere", folder / "last");
  for (int i = 0; i < 2; ++i) replace_by_link(folder / "last", folder / "previous");  // the second changes nothing
  replace_file(folder / "last", "2");
  EXPECT_TRUE(fs::is_symlink(folder / "last"));
  EXPECT_EQ(read_text(folder / "elsewhere"), "2");
  EXPECT_EQ(read_text(folder / "previous"), "1");
  EXPECT_EQ(names_in(folder.path()).size(), 3u);
  EXPECT_TRUE(says(error_of([&] { replace_by_link(folder / "absent", folder / "x"); }), "absent: ... No such file"));
  fs::create_directory(folder / "full");
  folder.write("full/x", {});
  EXPECT_TRUE(says(error_of([&] { replace_by_link(folder / "last", folder / "full"); }),
                   (folder / "full") + ": cannot be written ... Is a directory"));
  EXPECT_EQ(names_in(folder.path()).size(), 4u) << "no temporary name is left";
}

}  // namespace
}  // namespace elbo
