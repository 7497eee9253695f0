#include "node/agent/pool.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "common/base/unique_fd.h"

namespace ublk_operator {
namespace {

TEST(ParsePoolTest, ANameAFolderAndPerhapsThatItIsAMount) {
  auto pool = parse_pool("fast=/srv/fast");
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ(pool->first, "fast");
  EXPECT_EQ(pool->second, Pool("/srv/fast"));
  pool = parse_pool("fast=/srv/fast,require-mount");
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ(pool->second, Pool("/srv/fast", true));
  for (const char* wrong : {"fast", "=/srv", "fast=", "fast=srv", "fast=,require-mount",
                            "fast=/srv,require-mounts", "fast=/srv,"})
    EXPECT_EQ(parse_pool(wrong).err(), EINVAL) << wrong;
}

class MountedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "pool_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = std::filesystem::canonical(pattern);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  // What the machine's table of mounts says is mounted.
  std::string table(const std::string& path) const {
    const std::string file = dir_ + "/mounts";
    std::ofstream(file) << "22 1 0:20 / / rw - ext4 /dev/vda rw\n"
                        << "23 22 0:21 / " << path << " rw,relatime shared:3 - xfs /dev/vdb rw\n";
    return file;
  }
  static int check(const Pool& pool, const std::string& mounts) {
    const UniqueFd folder(::open(pool.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    return check_mounted(pool, folder.get(), mounts).err();
  }
  std::string dir_;
};

TEST_F(MountedTest, OnlyAPoolThatRequiresItIsLookedAt) {
  EXPECT_EQ(check(Pool(dir_), "/nothing/here"), 0);
  EXPECT_EQ(check(Pool(dir_, true), table("/elsewhere")), ENOMEDIUM);
}

TEST_F(MountedTest, HereItMustBeAMountToo) {
  EXPECT_EQ(check(Pool(dir_, true), table(dir_)), ENOMEDIUM);
}

TEST_F(MountedTest, TheMachineHasSomethingMountedThere) {
  // /proc is a mount wherever this runs.
  EXPECT_EQ(check(Pool("/proc", true), table("/proc")), 0);
  EXPECT_EQ(check(Pool("/proc/", true), table("/proc")), 0);
  EXPECT_EQ(check(Pool("/proc", true), table("/proc\\040")), ENOMEDIUM);
  EXPECT_NE(check(Pool("/proc", true), "/nothing/here"), 0) << "not known is not mounted";
  const auto space = look_at_pool(Pool("/proc", true), table("/elsewhere"));
  EXPECT_EQ(space.err(), ENOMEDIUM);
}

TEST_F(MountedTest, WhatIsNotThereSaysSo) {
  EXPECT_EQ(look_at_pool(Pool(dir_ + "/nothing")).err(), ENOENT);
  const auto space = look_at_pool(Pool(dir_));
  ASSERT_TRUE(space.ok()) << space.error().to_string();
  EXPECT_GT(space->capacity_bytes, 0U);
}

}  // namespace
}  // namespace ublk_operator
