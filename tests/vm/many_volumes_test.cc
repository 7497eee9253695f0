// 64 volumes on one node: none waits for another.
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "tests/vm/disk.h"
#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {
namespace {

constexpr int volumes = 64;
const std::string troubled = "vol0";

class Stopwatch {
 public:
  explicit Stopwatch(const char* what) : what_(what) {}
  ~Stopwatch() {
    std::printf("%s: %.1f s\n", what_,
                std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
    std::fflush(stdout);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  const char* what_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

class ManyVolumesTest : public ::testing::Test {
 protected:
  static std::string name(int i) { return "vol" + std::to_string(i); }
  static std::vector<std::string> modes() {
    std::vector<std::string> modes{"Reissue", "Queue", "None"};
    if (can_fail_io()) modes.emplace_back("FailIO");
    return modes;
  }

  static void apply_all(const LabNode& node) {
    const auto all = modes();
    for (int i = 0; i < volumes; ++i)
      node.apply({.name = name(i),
                  .mode = all[static_cast<size_t>(i) % all.size()],
                  .size = "4Mi",
                  .extra = "  queueDepth: 4\n  maxIOSize: 64Ki\n"});
  }
  struct Known {
    pid_t server = -1;
    uint64_t recoveries = 0;
  };
  static std::map<std::string, Known> known(LabNode& node) {
    std::map<std::string, Known> all;
    for (const Volume& volume : node.api().list())
      all[volume.metadata.name] = {static_cast<pid_t>(volume.status.server_pid.value_or(-1)),
                                   volume.status.recovery_count};
    return all;
  }
  static void expect_all_work(LabNode& node, uint64_t version, int first) {
    for (int i = first; i < volumes; ++i) {
      const Disk disk(node.device(name(i)));
      ASSERT_TRUE(disk.open()) << node.story(name(i));
      EXPECT_EQ(disk.write(3, version), 0) << name(i);
      EXPECT_EQ(disk.verify(3, version), 0) << name(i);
    }
  }
  static void expect_all_recovered(LabNode& node, const std::map<std::string, Known>& before,
                                   int first) {
    for (int i = first; i < volumes; ++i) {
      ASSERT_TRUE(node.wait_recovered(name(i), before.at(name(i)).recoveries));
      EXPECT_NE(node.get(name(i)).status.last_recovery_reason, "") << node.story(name(i));
    }
  }
};

TEST_F(ManyVolumesTest, StartAndRecoverWithoutWaitingForEachOther) {
  LabNode node;
  apply_all(node);
  {
    const Stopwatch watch("64 volumes started");
    for (int i = 0; i < volumes; ++i) ASSERT_TRUE(node.wait_ready(name(i)));
  }
  expect_all_work(node, 1, 0);

  // One whose servers die, or hang, before they serve: it backs off, and everybody else goes on.
  auto before = known(node);
  ASSERT_EQ(before.size(), static_cast<size_t>(volumes));
  node.hook(troubled, "before_open");
  kill_and_wait(before[troubled].server);
  for (int i = 0; i < 3; ++i) {
    const pid_t next = node.wait_hook(troubled, "before_open");
    ASSERT_GT(next, 0) << node.story(troubled);
    kill_and_wait(next);
  }
  {
    const Stopwatch watch("63 of 64 recovered, one in trouble");
    for (int i = 1; i < volumes; ++i) ASSERT_EQ(::kill(before.at(name(i)).server, SIGKILL), 0);
    expect_all_recovered(node, before, 1);
  }
  EXPECT_EQ(node.get(troubled).status.recovery_count, before[troubled].recoveries)
      << "that one was to be in trouble all the time";
  expect_all_work(node, 2, 1);
  const pid_t hanging = node.wait_hook(troubled, "before_open");
  node.unhook(troubled, "before_open");
  kill_and_wait(hanging);
  ASSERT_TRUE(node.wait_recovered(troubled, before[troubled].recoveries));

  before = known(node);
  {
    const Stopwatch watch("64 recovered");
    for (int i = 0; i < volumes; ++i) ASSERT_EQ(::kill(before.at(name(i)).server, SIGKILL), 0);
    expect_all_recovered(node, before, 0);
  }
  expect_all_work(node, 3, 0);

  before = known(node);
  {
    const Stopwatch watch("64 recovered after the spawner's death");
    node.kill_spawner();
    node.start_spawner();
    expect_all_recovered(node, before, 0);
  }
  expect_all_work(node, 4, 0);
}

}  // namespace
}  // namespace ublk_operator::lab
