#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <thread>

#include "common/base/file_lock.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/pidfd.h"
#include "common/base/run_first.h"
#include "common/base/strings.h"

namespace ublk_operator {
namespace {

class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "base_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

class FileLockTest : public FilesTest {
 protected:
  // Another process that has the lock until it is killed.
  pid_t owner() const {
    int ready[2];
    EXPECT_EQ(::pipe2(ready, O_CLOEXEC), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
      auto lock = FileLock::take(path_(), "");
      (void)!::write(ready[1], lock ? "y" : "n", 1);
      while (true) ::pause();
    }
    char answer = 0;
    EXPECT_EQ(::read(ready[0], &answer, 1), 1);
    EXPECT_EQ(answer, 'y');
    ::close(ready[0]);
    ::close(ready[1]);
    return pid;
  }
  [[nodiscard]] std::string path_() const { return dir_ + "/lock"; }
};

TEST_F(FileLockTest, HasOneOwnerUntilThatOneDies) {
  const pid_t first = owner();
  const auto refused = FileLock::take(path_(), "stop it");
  ASSERT_EQ(refused.err(), EWOULDBLOCK);
  EXPECT_NE(refused.error().detail.find("process " + std::to_string(first) + " has it: stop it"),
            std::string::npos);
  // A process, not a thread: the wait forks, and a thread that has just ended is a leak to the
  // child's sanitizer.
  const pid_t killer = ::fork();
  if (killer == 0) {
    ::kill(first, SIGKILL);
    ::_exit(0);
  }
  const EventFd never = EventFd::must_create();
  auto lock = FileLock::wait(path_(), never.fd());
  for (const pid_t ended : {killer, first}) ::waitpid(ended, nullptr, 0);
  ASSERT_TRUE(lock.ok()) << lock.error().to_string();
  EXPECT_EQ(FileLock::take(path_(), "").err(), EWOULDBLOCK) << "it is this process's now";
}

TEST_F(FileLockTest, AWaitCanBeEnded) {
  const pid_t first = owner();
  const EventFd stop = EventFd::must_create();
  stop.signal();
  EXPECT_EQ(FileLock::wait(path_(), stop.fd()).err(), ECANCELED);
  EXPECT_EQ(FileLock::take(path_(), "").err(), EWOULDBLOCK) << "and leaves nothing behind";
  ::kill(first, SIGKILL);
  ::waitpid(first, nullptr, 0);
  EXPECT_TRUE(FileLock::take(path_(), "").ok());
}

TEST(ErrorTest, SaysWhatFailedOnWhatAndWhy) {
  const Error with_detail{EBUSY, "start_user_recovery", "ublk3", "the old server still holds it"};
  EXPECT_EQ(with_detail.to_string(),
            "EBUSY start_user_recovery ublk3: the old server still holds it");
  const Error bare{ENOENT, "open", "/nowhere", ""};
  EXPECT_EQ(bare.to_string(), "ENOENT open /nowhere: No such file or directory");
  EXPECT_EQ(errno_name(4711), "errno 4711");
}

TEST(ResultDeathTest, TheValueOfAnErrorAborts) {
  const Result<int> result = Error{EIO, "read", "disk", ""};
  EXPECT_EQ(result.err(), EIO);
  EXPECT_DEATH((void)result.value(), "EIO read disk");
}

TEST_F(FilesTest, AtomicWriteReplacesTheWholeFile) {
  const std::string path = dir_ + "/state.json";
  ASSERT_TRUE(write_file_atomically(path, "first, and longer"));
  ASSERT_TRUE(write_file_atomically(path, "second"));
  EXPECT_EQ(read_file(path, 100).value(), "second");
  EXPECT_FALSE(std::filesystem::exists(path + ".tmp"));
}

TEST_F(FilesTest, AFailedWriteLeavesTheOldFile) {
  const std::string path = dir_ + "/state.json";
  ASSERT_TRUE(write_file_atomically(path, "old"));
  std::filesystem::create_directory(path + ".tmp");  // the temporary cannot be made
  EXPECT_EQ(write_file_atomically(path, "new").err(), EISDIR);
  EXPECT_EQ(read_file(path, 100).value(), "old");
}

TEST_F(FilesTest, ReadingIsBounded) {
  const std::string path = dir_ + "/big";
  ASSERT_TRUE(write_file_atomically(path, std::string(101, 'x')));
  EXPECT_EQ(read_file(path, 100).err(), EFBIG);
}

TEST_F(FilesTest, RemovingWhatIsNotThereIsFine) {
  EXPECT_TRUE(remove_file_durably(dir_ + "/nothing"));
  EXPECT_EQ(make_directories(dir_ + "/a/b/c").err(), 0);
  EXPECT_TRUE(std::filesystem::is_directory(dir_ + "/a/b/c"));
}

TEST(PidfdTest, TellsThatAProcessHasExited) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  auto pidfd = Pidfd::open(child);
  ASSERT_TRUE(pidfd.ok());
  EXPECT_FALSE(pidfd->exited());
  EXPECT_TRUE(process_start_ticks(child).ok());
  EXPECT_TRUE(pidfd->kill(SIGKILL).ok());
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(pidfd->exited());
  EXPECT_EQ(pidfd->kill(SIGKILL).err(), ESRCH);
  EXPECT_EQ(process_start_ticks(child).err(), ENOENT);
}

// The nice value of this process while a test runs.
class RunFirstTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::setpriority(PRIO_PROCESS, 0, -5) != 0) GTEST_SKIP() << "needs CAP_SYS_NICE";
  }
  void TearDown() override { (void)::setpriority(PRIO_PROCESS, 0, before_); }
  const int before_ = ::getpriority(PRIO_PROCESS, 0);
};

TEST_F(RunFirstTest, AThreadGivesWayAndGoesBackToWhereItsProcessIs) {
  int given = -1;
  int policy = -1;
  int back = 0;
  std::thread([&] {
    (void)run_first(pthread_self());  // forbidden here and there; what follows holds all the same
    give_way();
    given = ::getpriority(PRIO_PROCESS, 0);
    policy = ::sched_getscheduler(0);
    run_as_others();
    back = ::getpriority(PRIO_PROCESS, 0);
  }).join();
  EXPECT_EQ(given, 0);
  EXPECT_EQ(policy, SCHED_OTHER);
  EXPECT_EQ(back, -5);
}

TEST_F(RunFirstTest, WhoIsBehindOthersAlreadyGivesNoMoreWay) {
  ASSERT_EQ(::setpriority(PRIO_PROCESS, 0, 3), 0);
  int given = -1;
  std::thread([&] {
    give_way();
    given = ::getpriority(PRIO_PROCESS, 0);
  }).join();
  EXPECT_EQ(given, 3);
}

TEST(EventFdTest, ManySignalsAreOneWakeUp) {
  auto event = EventFd::create();
  ASSERT_TRUE(event.ok());
  event->signal();
  event->signal();
  uint64_t count = 0;
  EXPECT_EQ(::read(event->fd(), &count, sizeof count), 8);
  EXPECT_EQ(count, 2U);
  EXPECT_EQ(::read(event->fd(), &count, sizeof count), -1);
  EXPECT_EQ(errno, EAGAIN);
}

TEST(StringsTest, NearestFindsTyposAndNothingElse) {
  const std::vector<std::string> modes{"None", "Queue", "Reissue", "FailIO"};
  EXPECT_EQ(nearest("reisue", modes), "Reissue");
  EXPECT_EQ(nearest("failio", modes), "FailIO");
  EXPECT_EQ(nearest("Something", modes), "");
}

TEST(StringsTest, SplitKeepsEmptyParts) {
  EXPECT_EQ(split("a,,b", ',').size(), 3U);
  EXPECT_EQ(split("", ',').size(), 1U);
  EXPECT_EQ(trim("  x \n"), "x");
  EXPECT_EQ(join({"a", "b"}, ", "), "a, b");
}

TEST(LogTest, AnUnknownLevelNamesThePossibleOnes) {
  const auto logger = make_logger("test", "loud");
  ASSERT_FALSE(logger.ok());
  EXPECT_NE(logger.error().to_string().find("debug, info, warn or error"), std::string::npos);
}

}  // namespace
}  // namespace ublk_operator
