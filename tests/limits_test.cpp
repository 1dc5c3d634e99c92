// The limits of control groups, in made-up /proc and /sys, and those of a process.
#include "cpu/limits.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
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

// ---- Version 2 ----------------------------------------------------------------------------------------

const char* const mount_2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

TEST_F(Limits, NoLimitIsNone) {
  write("proc/self/cgroup", "0::/\n");
  write("proc/self/mountinfo", mount_2);
  write("sys/fs/cgroup/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  EXPECT_EQ(usable_cores(root()), all_cores);
  EXPECT_EQ(usable_memory(root()), usable_memory(root() + "/nowhere"));
}

TEST_F(Limits, TheSmallestOfTheGroupsAboveCounts) {
  write("proc/self/cgroup", "12:cpu:/old\n0::/a/b\n");
  write("proc/self/mountinfo", mount_2);
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
  write("proc/self/mountinfo", mount_2);
  write("sys/fs/cgroup/cpu.max", "110000 100000\n");
  EXPECT_EQ(usable_cores(root()), std::min(2, all_cores));
}

// ---- Version 1 ----------------------------------------------------------------------------------------

const char* const mounts_1 =
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
const char* const groups_1 = "4:memory:/job/7\n3:cpuset:/\n2:cpu,cpuacct:/job/7\n1:name=systemd:/\n";

TEST_F(Limits, OfVersionOneToo) {
  write("proc/self/cgroup", groups_1);
  write("proc/self/mountinfo", mounts_1);
  write("sys/fs/cgroup/cpu,cpuacct/job/7/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu,cpuacct/job/7/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "50000\n");
  write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/memory/job/7/memory.limit_in_bytes", "300000000\n");
  EXPECT_EQ(usable_cores(root()), 1);
  EXPECT_EQ(usable_memory(root()), 300000000u);
  write("sys/fs/cgroup/memory/job/7/memory.stat", "cache 5\nhierarchical_memory_limit 200000000\ntotal_cache 5\n");
  EXPECT_EQ(usable_memory(root()), 200000000u) << "a group above has less";
}

TEST_F(Limits, OfVersionOneThatAreNone) {
  write("proc/self/cgroup", groups_1);
  write("proc/self/mountinfo", mounts_1);
  write("sys/fs/cgroup/cpu,cpuacct/job/7/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu,cpuacct/job/7/cpu.cfs_period_us", "100000\n");
  write("sys/fs/cgroup/memory/job/7/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/memory/job/7/memory.stat", "hierarchical_memory_limit 9223372036854771712\n");
  EXPECT_EQ(usable_cores(root()), all_cores);
  EXPECT_EQ(usable_memory(root()), usable_memory(root() + "/nowhere"));
}

// ---- Both, and where they are mounted -----------------------------------------------------------------

TEST_F(Limits, OfAHybridTheSmallerCounts) {
  write("proc/self/cgroup", std::string(groups_1) + "0::/job.slice\n");
  write("proc/self/mountinfo", std::string(mounts_1) + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  write("sys/fs/cgroup/unified/job.slice/cpu.max", "30000 100000\n");
  write("sys/fs/cgroup/unified/job.slice/memory.max", "500000000\n");
  write("sys/fs/cgroup/memory/job/7/memory.limit_in_bytes", "300000000\n");
  EXPECT_EQ(usable_cores(root()), 1);
  EXPECT_EQ(usable_memory(root()), 300000000u);
}

TEST_F(Limits, AContainerSeesItsOwnGroupAsTheRoot) {
  // Of version 1: named as on the host, mounted from there on.
  write("proc/self/cgroup", "4:memory:/docker/7\n2:cpu:/docker/7/inner\n");
  write("proc/self/mountinfo",
        "35 31 0:32 /docker/7 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
        "32 31 0:29 /docker/7 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "200000000\n");
  write("sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "50000\n");
  write("sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(usable_memory(root()), 200000000u);
  EXPECT_EQ(usable_cores(root()), 1);
  // Of version 2, with a name that leads nowhere here; at another place, with a space in it.
  write("proc/self/cgroup", "0::/../../elsewhere\n");
  write("proc/self/mountinfo", "29 23 0:26 / /mnt/control\\040groups rw - cgroup2 cgroup2 rw\n");
  write("mnt/control groups/memory.max", "100000000\n");
  EXPECT_EQ(usable_memory(root()), 100000000u);
}

TEST_F(Limits, WhatTheProcessHasTakenOfItsGroupIsGone) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
  write("proc/self/cgroup", "0::/\n");
  write("proc/self/mountinfo", mount_2);
  write("sys/fs/cgroup/memory.max", std::to_string(1000 * page) + "\n");
  write("proc/self/statm", "9000 700 400 10 0 8000 0\n");  // 400 of the 700 are files'
  EXPECT_EQ(usable_memory(root()), 700 * page);
  write("proc/self/statm", "9000 1500 400 10 0 8000 0\n");
  EXPECT_EQ(usable_memory(root()), 0u);
}

// ---- A shell's limits ---------------------------------------------------------------------------------

TEST_F(Limits, WhatIsLeftOfTheAddressSpace) {
  constexpr std::size_t limit = std::size_t{1} << 46;  // more than the sanitizers take
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGE_SIZE));
  write("proc/self/statm", std::to_string((limit - 100'000'000) / page) + " 500 400 10 0 " +
                               std::to_string((limit - 200'000'000) / page) + " 0\n");
  for (const auto& [kind, left] : {std::pair{RLIMIT_AS, 1e8}, std::pair{RLIMIT_DATA, 2e8}}) {
    rlimit before{};
    ASSERT_EQ(getrlimit(kind, &before), 0);
    const rlimit set{limit, before.rlim_max};
    ASSERT_EQ(setrlimit(kind, &set), 0);
    const std::size_t usable = usable_memory(root());
    ASSERT_EQ(setrlimit(kind, &before), 0);
    EXPECT_NEAR(static_cast<double>(usable), left, static_cast<double>(page));
  }
}

}  // namespace
}  // namespace elbo
