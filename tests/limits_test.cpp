// A container's limits, in made-up /proc and /sys.
#include "cpu/limits.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace elbo {
namespace {

namespace fs = std::filesystem;

class Limits : public testing::Test {
 protected:
  Limits() : root_(fs::temp_directory_path() / ("elbo-limits-" + std::to_string(::getpid()))) {}
  ~Limits() override { fs::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::string root() const { return root_.string(); }

 private:
  fs::path root_;
};

const int all_cores = static_cast<int>(allowed_cores().size());

TEST_F(Limits, WithoutControlGroupsItIsTheMachine) {
  EXPECT_EQ(usable_cores(root()), all_cores);
  EXPECT_GT(usable_memory(root()), std::size_t{1} << 28);
}

TEST_F(Limits, NoLimitIsNone) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(usable_cores(root()), all_cores);
  EXPECT_EQ(usable_memory(root()), usable_memory(root() + "/nowhere"));
}

TEST_F(Limits, TheSmallestOfTheGroupsAboveCounts) {
  write("proc/self/cgroup", "12:cpu:/old\n0::/a/b\n");
  write("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/a/b/memory.max", "300000000\n");
  write("sys/fs/cgroup/a/cpu.max", "50000 100000\n");  // half a core
  write("sys/fs/cgroup/a/memory.max", "200000000\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(usable_cores(root()), 1);
  EXPECT_EQ(usable_memory(root()), 200000000u);
}

TEST_F(Limits, PartOfACoreCountsAsOneMore) {
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "110000 100000\n");
  EXPECT_EQ(usable_cores(root()), std::min(2, all_cores));
}

}  // namespace
}  // namespace elbo
