// The first process of a container, told with shell scripts as the program it keeps running.
#include "node/watchdog/watchdog.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "common/base/files.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;

TEST(RestartPaceTest, TheFirstTwentyOfAMinuteWaitForNothing) {
  RestartPace pace;
  const RestartPace::Clock::time_point start{1h};
  for (int i = 0; i < 20; ++i) EXPECT_EQ(pace.died(start + i * 1s), 0ms) << i;
  EXPECT_EQ(pace.died(start + 21s), 100ms);
  EXPECT_EQ(pace.died(start + 22s), 200ms);
  for (int i = 0; i < 20; ++i) (void)pace.died(start + 23s + i * 10ms);
  EXPECT_EQ(pace.died(start + 24s), 10s);
  EXPECT_EQ(pace.died(start + 2min), 0ms) << "a minute without a death";
}

TEST(SurviveOutOfMemoryTest, TheGroupsEndIsSwitchedOff) {
  char folder[] = "/tmp/watchdog_test.XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string path = std::string(folder) + "/memory.oom.group";
  EXPECT_EQ(survive_out_of_memory(folder).err(), ENOENT);
  EXPECT_NE(::access(path.c_str(), F_OK), 0) << "nothing was made";
  ASSERT_TRUE(write_file_atomically(path, "1\n").ok());
  EXPECT_TRUE(survive_out_of_memory(folder).ok());
  EXPECT_EQ(read_file(path, 16).value(), "0\n");
  ::unlink(path.c_str());
  ::rmdir(folder);
}

// A watchdog in a process of its own; what it runs writes lines into a pipe.
class WatchdogTest : public ::testing::Test {
 protected:
  void run(const std::string& script) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    lines_.reset(ends[0]);
    UniqueFd writer(ends[1]);
    watchdog_ = ::fork();
    ASSERT_GE(watchdog_, 0);
    if (watchdog_ != 0) return;
    ::dup2(writer.get(), STDOUT_FILENO);
    auto status = run_watchdog({"/bin/sh", "-c", script}, null_logger());
    ::_exit(status ? *status : 99);
  }
  void TearDown() override {
    if (watchdog_ <= 0) return;
    ::kill(watchdog_, SIGKILL);
    ::waitpid(watchdog_, nullptr, 0);
  }
  // Empty: nothing came for a long time.
  std::string line() {
    std::string text;
    pollfd fd{lines_.get(), POLLIN, 0};
    char c = 0;
    while (::poll(&fd, 1, 10'000) > 0 && ::read(lines_.get(), &c, 1) == 1 && c != '\n') text += c;
    return text;
  }
  int exit_status() {
    int status = 0;
    EXPECT_EQ(::waitpid(watchdog_, &status, 0), watchdog_);
    watchdog_ = -1;
    EXPECT_TRUE(WIFEXITED(status));
    return WEXITSTATUS(status);
  }

  pid_t watchdog_ = -1;
  UniqueFd lines_;
};

TEST_F(WatchdogTest, WhatIsKilledIsStartedAgainTenTimesInARow) {
  run("echo $$; exec sleep 1000");
  std::string before;
  for (int i = 0; i < 10; ++i) {
    const std::string pid = line();
    ASSERT_NE(pid, "");
    ASSERT_NE(pid, before);
    before = pid;
    ASSERT_EQ(::kill(std::stoi(pid), SIGKILL), 0);
  }
  EXPECT_NE(line(), "");
}

TEST_F(WatchdogTest, OneThatEndsByItselfIsStartedAgainToo) {
  run("echo up; exit 0");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(line(), "up");
}

TEST_F(WatchdogTest, SigtermReachesTheProgramAndItsStatusIsTheWatchdogs) {
  run("trap 'echo leaving; exit 7' TERM; echo up; while :; do sleep 0.05; done");
  ASSERT_EQ(line(), "up");
  ASSERT_EQ(::kill(watchdog_, SIGTERM), 0);
  EXPECT_EQ(line(), "leaving");
  EXPECT_EQ(exit_status(), 7);
}

TEST_F(WatchdogTest, TheProgramHasTheOomScoreThatTheWatchdogWasGiven) {
  const std::string given = read_file("/proc/self/oom_score_adj", 16).value();
  run("cat /proc/self/oom_score_adj; cat /proc/$PPID/oom_score_adj; exec sleep 1000");
  EXPECT_EQ(line() + "\n", given);
  // Only who has CAP_SYS_RESOURCE may set less than it was given.
  const std::string own = line();
  EXPECT_TRUE(own == "-1000" || own + "\n" == given) << own;
}

TEST_F(WatchdogTest, TheProgramDiesWithItsWatchdog) {
  run("echo $$; exec sleep 1000");
  const pid_t program = std::stoi(line());
  ASSERT_EQ(::kill(watchdog_, SIGKILL), 0);
  EXPECT_EQ(line(), "") << "the pipe is closed once nobody is left to write";
  EXPECT_TRUE(::kill(program, 0) != 0 || line().empty());
}

TEST_F(WatchdogTest, AProgramThatIsNotThereIsAnErrorAtOnce) {
  const auto status = [] {
    const pid_t pid = ::fork();
    if (pid == 0) {
      auto done = run_watchdog({"/nothing/here"}, null_logger());
      ::_exit(!done && done.err() == ENOENT ? 0 : 1);
    }
    int result = -1;
    ::waitpid(pid, &result, 0);
    return result;
  }();
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace ublk_operator
