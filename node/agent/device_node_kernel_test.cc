// find_disk_users against the kernel, with loop devices in the role of ublk's: only claims, mounts
// and open files matter, and those are the same for every disk.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "common/base/unique_fd.h"
#include "node/agent/device_node.h"

namespace ublk_operator {
namespace {

class DiskUsersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "disk_users_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    paths_.dev_dir = dir_;
    paths_.by_name_dir = dir_ + "/by-name";
    paths_.udev_dir = dir_ + "/udev";
    (void)!std::system("modprobe loop >/dev/null 2>&1");  // built in, or loaded, or skipped below
    const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    if (!control.valid()) GTEST_SKIP() << "needs root and loop devices: /dev/loop-control";
    image_.reset(::open((dir_ + "/image").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_TRUE(image_.valid());
    ASSERT_EQ(::ftruncate(image_.get(), 1 << 20), 0);
    // Another program may take the free one first.
    for (int attempt = 0; attempt < 16 && !loop_.valid(); ++attempt) {
      const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
      if (number < 0) break;
      const std::string path = "/dev/loop" + std::to_string(number);
      loop_.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
      if (loop_.valid() && ::ioctl(loop_.get(), LOOP_SET_FD, image_.get()) < 0) loop_.reset();
    }
    if (!loop_.valid()) GTEST_SKIP() << "no loop device is to be had";
    // Detaches by itself with its last close.
    struct loop_info64 info{};
    info.lo_flags = LO_FLAGS_AUTOCLEAR;
    ASSERT_EQ(::ioctl(loop_.get(), LOOP_SET_STATUS64, &info), 0);
    struct stat node{};
    ASSERT_EQ(::fstat(loop_.get(), &node), 0);
    ASSERT_EQ(::mknod(node_path().c_str(), S_IFBLK | 0600, node.st_rdev), 0);
  }
  void TearDown() override {
    loop_.reset();
    std::filesystem::remove_all(dir_);
  }
  [[nodiscard]] std::string node_path() const { return dir_ + "/ublkb7"; }

  std::string dir_;
  NodePaths paths_;
  UniqueFd image_;
  UniqueFd loop_;  // keeps the loop device alive, and is a user of it
};

TEST_F(DiskUsersTest, AnOpenFileIsFoundWithItsProcess) {
  const auto users = find_disk_users(paths_, 7);
  ASSERT_TRUE(users.ok()) << users.error().to_string();
  EXPECT_TRUE(users->in_use);
  // Beside others, perhaps: udev looks at a new device too.
  EXPECT_NE(users->who.find("process " + std::to_string(::getpid()) + " ("), std::string::npos)
      << users->who;
}

TEST_F(DiskUsersTest, AnExclusiveClaimIsFoundEvenWhereProcessesAreNotSeen) {
  const UniqueFd claim(::open(node_path().c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
  ASSERT_TRUE(claim.valid());
  paths_.proc_dir = dir_;  // no process in it
  const auto users = find_disk_users(paths_, 7);
  ASSERT_TRUE(users.ok()) << users.error().to_string();
  EXPECT_TRUE(users->in_use);
  EXPECT_EQ(users->who, "claimed exclusively");
}

TEST_F(DiskUsersTest, ADiskThatNobodyHasOpenIsUnused) {
  paths_.proc_dir = dir_;  // our own descriptor is the only user
  const auto users = find_disk_users(paths_, 7);
  ASSERT_TRUE(users.ok()) << users.error().to_string();
  EXPECT_FALSE(users->in_use) << users->who;
}

TEST_F(DiskUsersTest, AMountInAnotherMountNamespaceIsFound) {
  const std::string mount_point = dir_ + "/a place";
  std::filesystem::create_directory(mount_point);
  if (std::system(("mkfs.ext4 -q -F " + node_path() + " >/dev/null 2>&1").c_str()) != 0)
    GTEST_SKIP() << "needs mkfs.ext4";
  int ready[2];
  int done[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(done), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::close(done[1]);
    char word = 'x';
    if (::unshare(CLONE_NEWNS) < 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
        ::mount(node_path().c_str(), mount_point.c_str(), "ext4", 0, nullptr) < 0)
      word = 'f';
    (void)!::write(ready[1], &word, 1);
    (void)!::read(done[0], &word, 1);  // until the test is over
    ::_exit(0);
  }
  ::close(done[0]);
  char word = 0;
  ASSERT_EQ(::read(ready[0], &word, 1), 1);
  const auto users = find_disk_users(paths_, 7);
  ::close(done[1]);
  ::close(ready[0]);
  ::close(ready[1]);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  if (word == 'f') GTEST_SKIP() << "cannot mount ext4 here";
  ASSERT_TRUE(users.ok()) << users.error().to_string();
  EXPECT_TRUE(users->in_use);
  EXPECT_EQ(users->who, "mounted at " + mount_point);
}

}  // namespace
}  // namespace ublk_operator
