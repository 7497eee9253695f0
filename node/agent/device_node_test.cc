#include "node/agent/device_node.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "common/base/files.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {
namespace {

namespace fs = std::filesystem;

class DeviceNodeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "device_node_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    paths_ = {dir_ + "/dev", dir_ + "/dev/ublk/by-name", dir_ + "/run/udev", dir_ + "/proc",
              dir_ + "/sys"};
    fs::create_directory(paths_.dev_dir);
    fs::create_directory(paths_.proc_dir);
  }
  void TearDown() override { fs::remove_all(dir_); }

  // A node of no driver: owner and mode can be looked at, it cannot be opened.
  [[nodiscard]] bool make_node(const std::string& name, mode_t kind) const {
    return ::mknod((paths_.dev_dir + "/" + name).c_str(), kind | 0600, makedev(0, 0)) == 0;
  }
  [[nodiscard]] struct stat stat_of(const std::string& name) const {
    struct stat info{};
    EXPECT_EQ(::stat((paths_.dev_dir + "/" + name).c_str(), &info), 0);
    return info;
  }
  [[nodiscard]] std::string target_of(const std::string& name) const {
    std::error_code failed;
    return fs::read_symlink(paths_.by_name_dir + "/" + name, failed).string();
  }

  std::string dir_;
  NodePaths paths_;
};

TEST_F(DeviceNodeTest, UdevIsToldNumbersForNames) {
  ASSERT_TRUE(announce_device(paths_, "vol", 3, DeviceAccess{0640, "root", "12"}).ok());
  EXPECT_EQ(read_file(paths_.udev_dir + "/ublkb3", 1000).value(),
            "UBLK_OPERATOR_MODE=0640\nUBLK_OPERATOR_OWNER=0\nUBLK_OPERATOR_GROUP=12\nUBLK_OPERATOR_"
            "NAME=vol\n");
}

TEST_F(DeviceNodeTest, UnknownOwnersAndGroupsAreNamed) {
  const auto owner = announce_device(paths_, "vol", 3, DeviceAccess{0660, "no-such-user", "root"});
  ASSERT_EQ(owner.err(), EINVAL);
  EXPECT_NE(owner.error().detail.find("user 'no-such-user' (device.owner)"), std::string::npos);
  const auto group = announce_device(paths_, "vol", 3, DeviceAccess{0660, "root", "no-such-group"});
  ASSERT_EQ(group.err(), EINVAL);
  EXPECT_NE(group.error().detail.find("group 'no-such-group' (device.group)"), std::string::npos);
  // -1 would mean "leave as it is" to chown.
  EXPECT_EQ(announce_device(paths_, "vol", 3, DeviceAccess{0660, "4294967295", "root"}).err(),
            EINVAL);
  EXPECT_FALSE(fs::exists(paths_.udev_dir + "/ublkb3"));
}

TEST_F(DeviceNodeTest, TheBlockDeviceGetsOwnerAndMode) {
  if (!make_node("ublkb3", S_IFBLK)) GTEST_SKIP() << "needs root for mknod";
  ASSERT_TRUE(apply_access(paths_, 3, DeviceAccess{0640, "1234", "5678"}).ok());
  const struct stat info = stat_of("ublkb3");
  EXPECT_EQ(info.st_uid, 1234U);
  EXPECT_EQ(info.st_gid, 5678U);
  EXPECT_EQ(info.st_mode & 07777U, 0640U);
}

TEST_F(DeviceNodeTest, OneServerGetsTheCharDeviceAlone) {
  if (!make_node("ublkc3", S_IFCHR)) GTEST_SKIP() << "needs root for mknod";
  ASSERT_EQ(::chmod((paths_.dev_dir + "/ublkc3").c_str(), 0666), 0);
  ASSERT_TRUE(give_char_device(paths_, 3, 4711).ok());
  EXPECT_EQ(stat_of("ublkc3").st_uid, 4711U);
  EXPECT_EQ(stat_of("ublkc3").st_gid, 0U);
  EXPECT_EQ(stat_of("ublkc3").st_mode & 07777U, 0600U);
  ASSERT_TRUE(give_char_device(paths_, 3, 0).ok());
  EXPECT_EQ(stat_of("ublkc3").st_uid, 0U);
}

TEST_F(DeviceNodeTest, WhatIsNoDeviceIsNotTouched) {
  const std::string victim = dir_ + "/victim";
  ASSERT_TRUE(write_file_atomically(victim, "", 0600).ok());
  fs::create_symlink(victim, paths_.dev_dir + "/ublkc3");
  ASSERT_TRUE(write_file_atomically(paths_.dev_dir + "/ublkb3", "", 0600).ok());
  EXPECT_EQ(give_char_device(paths_, 3, 4711).err(), EINVAL);
  EXPECT_EQ(apply_access(paths_, 3, DeviceAccess{0666, "4711", "0"}).err(), EINVAL);
  EXPECT_EQ(find_disk_users(paths_, 3).err(), EINVAL);
  struct stat info{};
  ASSERT_EQ(::stat(victim.c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, ::getuid());
  EXPECT_EQ(stat_of("ublkb3").st_mode & 07777U, 0600U);
}

TEST_F(DeviceNodeTest, AMissingNodeIsENOENT) {
  EXPECT_EQ(give_char_device(paths_, 3, 0).err(), ENOENT);
  EXPECT_EQ(apply_access(paths_, 3, DeviceAccess{0660, "0", "0"}).err(), ENOENT);
  EXPECT_EQ(find_disk_users(paths_, 3).err(), ENOENT);
}

TEST_F(DeviceNodeTest, TheLinkMovesToANewDevice) {
  ASSERT_TRUE(link_device(paths_, "pg.data-1", 3).ok());
  EXPECT_EQ(target_of("pg.data-1"), "../../ublkb3");
  ASSERT_TRUE(link_device(paths_, "pg.data-1", 4).ok());
  EXPECT_EQ(target_of("pg.data-1"), "../../ublkb4");
  size_t entries = 0;
  for (const auto& entry : fs::directory_iterator(paths_.by_name_dir)) {
    EXPECT_EQ(entry.path().filename(), "pg.data-1");
    ++entries;
  }
  EXPECT_EQ(entries, 1U);
}

TEST_F(DeviceNodeTest, ANameOfTheGreatestLengthCanBeLinked) {
  const std::string name(253, 'x');
  ASSERT_TRUE(link_device(paths_, name, 3).ok());
  EXPECT_EQ(target_of(name), "../../ublkb3");
}

TEST_F(DeviceNodeTest, ALinkLeftByAnInterruptedWriteIsNoObstacle) {
  fs::create_directories(paths_.by_name_dir);
  fs::create_symlink("../../ublkb9", paths_.by_name_dir + "/.ublkb3.tmp");
  ASSERT_TRUE(link_device(paths_, "a", 3).ok());
  EXPECT_EQ(target_of("a"), "../../ublkb3");
}

TEST_F(DeviceNodeTest, OnlyTheLinkToThisDeviceIsRemoved) {
  ASSERT_TRUE(announce_device(paths_, "vol", 3, DeviceAccess{0660, "0", "0"}).ok());
  ASSERT_TRUE(link_device(paths_, "a", 4).ok());
  ASSERT_TRUE(unlink_device(paths_, "a", 3).ok());
  EXPECT_EQ(target_of("a"), "../../ublkb4") << "it points at a newer device";
  EXPECT_FALSE(fs::exists(paths_.udev_dir + "/ublkb3"));
  ASSERT_TRUE(unlink_device(paths_, "a", 4).ok());
  EXPECT_FALSE(fs::exists(fs::symlink_status(paths_.by_name_dir + "/a")));
  EXPECT_TRUE(unlink_device(paths_, "a", 4).ok()) << "missing is fine";
}

TEST_F(DeviceNodeTest, NamesThatWouldLeaveTheFolderAreRefused) {
  for (const std::string name : {"", "..", "../x", "a/b", ".hidden"}) {
    EXPECT_EQ(link_device(paths_, name, 3).err(), EINVAL) << name;
    EXPECT_EQ(unlink_device(paths_, name, 3).err(), EINVAL) << name;
  }
}

}  // namespace
}  // namespace ublk_operator
