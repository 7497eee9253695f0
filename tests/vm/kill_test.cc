// Whoever is killed, and whenever: the volume comes back without a manual step, and every
// acknowledged write is there.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/base/files.h"
#include "tests/vm/application.h"
#include "tests/vm/disk.h"
#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {
namespace {

// Reissue promises most and is killed most.
int rounds(const std::string& mode) { return mode == "Reissue" ? 20 : 5; }

class KillTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam() == "FailIO" && !can_fail_io())
      GTEST_SKIP() << "this kernel has no UBLK_F_USER_RECOVERY_FAIL_IO (Linux 6.13)";
  }
  // In None the disk goes with its server, so an application has to open the new one: only the
  // volume is looked at.
  [[nodiscard]] static bool keeps_disk() { return GetParam() != "None"; }
  [[nodiscard]] static uint64_t recoveries(LabNode& node) {
    return node.get("vol").status.recovery_count;
  }
  // The volume works, under its name, whatever happened.
  static void expect_works(LabNode& node, uint64_t version) {
    const Disk disk(node.device("vol"));
    ASSERT_TRUE(disk.open());
    EXPECT_EQ(disk.write(3, version), 0);
    EXPECT_EQ(disk.verify(3, version), 0);
  }
};

TEST_P(KillTest, OfTheServerAgainAndAgain) {
  LabNode node;
  node.apply({.mode = GetParam()});
  ASSERT_TRUE(node.wait_ready("vol"));
  std::optional<Application> application;
  if (keeps_disk()) application.emplace(node.device("vol"));
  for (int i = 0; i < rounds(GetParam()); ++i) {
    const uint64_t before = recoveries(node);
    node.kill_server("vol");
    ASSERT_TRUE(node.wait_recovered("vol", before));
    if (application) {
      ASSERT_TRUE(application->progress(3));
    } else {
      expect_works(node, static_cast<uint64_t>(i) + 1);
    }
  }
  if (!application) return;
  application->stop();
  if (GetParam() == "Reissue") {
    EXPECT_EQ(application->errors(), 0U);
  }
  EXPECT_EQ(application->verify_all(), 0);
}

TEST_P(KillTest, OfTheAgentLeavesTheServerServing) {
  LabNode node;
  node.apply({.mode = GetParam()});
  ASSERT_TRUE(node.wait_ready("vol"));
  Application application(node.device("vol"));
  const pid_t server = node.server_pid("vol");
  for (int i = 0; i < rounds(GetParam()); ++i) {
    node.kill_agent();
    ASSERT_TRUE(application.progress(3));
    node.start_agent();
    ASSERT_TRUE(node.wait_ready("vol"));
    EXPECT_EQ(node.server_pid("vol"), server) << "the server was replaced for no reason";
  }
  application.stop();
  EXPECT_EQ(application.errors(), 0U) << "the death of an agent touches no I/O";
  EXPECT_EQ(application.verify_all(), 0);
}

TEST_P(KillTest, OfTheSpawnerTakesItsServersAndTheyComeBack) {
  LabNode node;
  node.apply({.mode = GetParam()});
  ASSERT_TRUE(node.wait_ready("vol"));
  for (int i = 0; i < rounds(GetParam()); ++i) {
    const uint64_t before = recoveries(node);
    node.kill_spawner();
    node.start_spawner();
    ASSERT_TRUE(node.wait_recovered("vol", before));
    expect_works(node, static_cast<uint64_t>(i) + 1);
  }
}

TEST_P(KillTest, OfAgentAndServerTogether) {
  LabNode node;
  node.apply({.mode = GetParam()});
  ASSERT_TRUE(node.wait_ready("vol"));
  for (int i = 0; i < rounds(GetParam()); ++i) {
    const pid_t server = node.server_pid("vol");
    node.kill_agent();
    kill_and_wait(server);
    node.start_agent();
    ASSERT_TRUE(node.wait_ready("vol"));
    EXPECT_NE(node.server_pid("vol"), server);
    expect_works(node, static_cast<uint64_t>(i) + 1);
  }
}

TEST_P(KillTest, OfAllServersAtOnce) {
  LabNode node;
  for (const auto& name : {"a", "b", "c"})
    node.apply({.name = name, .mode = GetParam(), .size = "16Mi"});
  for (const auto& name : {"a", "b", "c"}) ASSERT_TRUE(node.wait_ready(name));
  for (int i = 0; i < rounds(GetParam()); ++i) {
    std::vector<pid_t> servers;
    std::vector<uint64_t> before;
    for (const auto& name : {"a", "b", "c"}) {
      servers.push_back(node.server_pid(name));
      before.push_back(node.get(name).status.recovery_count);
    }
    for (const pid_t pid : servers) kill_and_wait(pid);
    size_t n = 0;
    for (const auto& name : {"a", "b", "c"}) {
      ASSERT_TRUE(node.wait_recovered(name, before[n++]));
      const Disk disk(node.device(name));
      EXPECT_EQ(disk.write(1, static_cast<uint64_t>(i) + 1), 0);
    }
  }
}

TEST_P(KillTest, OfTheServerDuringStartDev) {
  LabNode node;
  for (int i = 0; i < rounds(GetParam()); ++i) {
    const std::string name = "start" + std::to_string(i);
    node.hook(name, "half_fetched");  // START_DEV waits for the other half
    // Linux 6.12 warns when a queue of which a part was fetched loses its server; there one of two
    // queues is the half.
    node.apply({.name = name,
                .mode = GetParam(),
                .size = "16Mi",
                .extra = repeats_recovery() ? "" : "  queues: 2\n"});
    ASSERT_TRUE(node.kill_at(name, "half_fetched"));
    ASSERT_TRUE(node.wait_ready(name));
    const Disk disk(node.device(name));
    EXPECT_EQ(disk.write(1, 1), 0);
    node.remove_manifest(name + ".yaml");
  }
}

std::string mode_name(const ::testing::TestParamInfo<std::string>& mode) { return mode.param; }
INSTANTIATE_TEST_SUITE_P(FourModes, KillTest,
                         ::testing::Values("Reissue", "Queue", "FailIO", "None"), mode_name);

// --- a recovery that itself dies half way --------------------------------------------------------

struct HalfWay {
  std::string mode;
  std::string point;
};
void PrintTo(const HalfWay& story, std::ostream* out) { *out << story.mode << " " << story.point; }

class HalfWayPointTest : public ::testing::TestWithParam<HalfWay> {};

TEST_P(HalfWayPointTest, IsFinishedByTheNextServer) {
  const std::string& mode = GetParam().mode;
  const std::string& point = GetParam().point;
  if (mode == "FailIO" && !can_fail_io())
    GTEST_SKIP() << "this kernel has no UBLK_F_USER_RECOVERY_FAIL_IO (Linux 6.13)";
  if (!repeats_recovery() && (point == "after_mmap" || point == "half_fetched"))
    GTEST_SKIP() << "Linux 6.12 cannot repeat START_USER_RECOVERY once a server mapped the device "
                    "and died: the "
                    "volume says Recoverable=False there (see LegacyKernelTest)";
  LabNode node;
  node.apply({.mode = mode});
  ASSERT_TRUE(node.wait_ready("vol"));
  const Disk disk(node.device("vol"));
  ASSERT_EQ(disk.write_range(0, 64, 1), 0);
  for (int i = 0; i < rounds(mode); ++i) {
    const uint64_t before = node.get("vol").status.recovery_count;
    node.hook("vol", point);
    node.kill_server("vol");
    ASSERT_TRUE(node.kill_at("vol", point));
    ASSERT_TRUE(node.wait_recovered("vol", before));
    ASSERT_EQ(disk.verify_range(0, 64, 1), 0);
  }
}

// The agent dies with the server that it had granted the device to: the next agent asks the kernel
// anew whether the device is released.
TEST(HalfWayTest, WithTheAgentIsFinishedByTheNextAgent) {
  if (!repeats_recovery())
    GTEST_SKIP() << "Linux 6.12 cannot repeat START_USER_RECOVERY (see LegacyKernelTest)";
  LabNode node;
  node.apply({});
  ASSERT_TRUE(node.wait_ready("vol"));
  const Disk disk(node.device("vol"));
  ASSERT_EQ(disk.write_range(0, 64, 1), 0);
  for (int i = 0; i < rounds("None"); ++i) {
    node.hook("vol", "half_fetched");
    node.kill_server("vol");
    const pid_t second = node.wait_hook("vol", "half_fetched");
    ASSERT_GT(second, 0) << node.story("vol");
    node.kill_agent();
    node.unhook("vol", "half_fetched");
    kill_and_wait(second);
    node.start_agent();
    ASSERT_TRUE(node.wait_ready("vol"));
    EXPECT_FALSE(node.has_event("vol", "ServerFailed")) << "granted before it was released";
    ASSERT_EQ(disk.verify_range(0, 64, 1), 0);
  }
}

// The switch is the whole machine's: on while a device waits for its next server, and not for long.
TEST(GracePeriodsTest, AreExpeditedUntilTheNextServerServesOrTheirTimeIsOver) {
  const std::string path = expedited_path;
  const auto value = [&] { return read_file(path, 16)->substr(0, 1); };
  const auto becomes = [&](const std::string& wanted) {
    return comes_true([&] { return value() == wanted; });
  };
  std::ofstream(path) << '0';
  LabNode node;
  node.apply({});
  ASSERT_TRUE(node.wait_ready("vol"));
  EXPECT_EQ(value(), "0");
  const uint64_t before = node.get("vol").status.recovery_count;
  node.kill_server("vol");
  ASSERT_TRUE(node.wait_recovered("vol", before));
  EXPECT_EQ(value(), "0") << "the next server serves";

  // A recovery that goes no further does not hold the machine up.
  node.hook("vol", "before_end");
  node.kill_server("vol");
  EXPECT_TRUE(becomes("1"));
  ASSERT_GT(node.wait_hook("vol", "before_end"), 0) << node.story("vol");
  EXPECT_TRUE(becomes("0"));
  node.kill_agent();

  // As an agent leaves it that dies with the switch on.
  std::ofstream(node.dir("run") + "/rcu-expedited") << '1';
  std::ofstream(path) << '1';
  node.unhook("vol", "before_end");
  node.start_agent();
  ASSERT_TRUE(node.wait_ready("vol"));
  EXPECT_TRUE(becomes("0"));
}

// Some thread of the process runs at a real-time priority; not counted: those that the kernel makes
// for its rings.
bool any_runs_first(pid_t pid) {
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    const auto name = read_file(task.path() / "comm", 64);
    if (name && !name->starts_with("iou-wrk") &&
        ::sched_getscheduler(std::stoi(task.path().filename())) == SCHED_RR)
      return true;
  }
  return false;
}

// Whether each thread has the nice value of its process.
bool all_as_their_process(pid_t pid) {
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  const int nice = ::getpriority(PRIO_PROCESS, static_cast<id_t>(pid));
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    const auto name = read_file(task.path() / "comm", 64);
    const auto thread = static_cast<id_t>(std::stoi(task.path().filename()));
    if (name && !name->starts_with("iou-wrk") && ::getpriority(PRIO_PROCESS, thread) != nice)
      return false;
  }
  return true;
}

// Applications that try again and again, or just use the CPUs, do not hold up what brings their
// disk back; nor does that hold up anybody once it is back.
TEST(SchedulingTest, WhatBringsADeviceBackRunsFirstUntilItServes) {
  LabNode node;
  node.apply({});
  ASSERT_TRUE(node.wait_ready("vol"));
  EXPECT_FALSE(any_runs_first(node.server_pid("vol")));
  // The server, until it has its tags; the agent, until only that is waited for.
  for (const std::string point : {"before_open", "before_end"}) {
    SCOPED_TRACE(point);
    // A server that has to be started first may take longer than what runs first may run.
    ASSERT_TRUE(comes_true([] { return shell_output("pgrep -xc ublk-server") == "2\n"; }))
        << "no standby";
    const uint64_t before = node.get("vol").status.recovery_count;
    node.hook("vol", point);
    node.kill_server("vol");
    const pid_t halted = node.wait_hook("vol", point);
    ASSERT_GT(halted, 0) << node.story("vol");
    if (point == "before_open") {
      EXPECT_TRUE(any_runs_first(halted));
      EXPECT_TRUE(comes_true([&] { return !any_runs_first(node.agent_pid()); }));
    } else {
      EXPECT_FALSE(any_runs_first(halted));
      EXPECT_TRUE(any_runs_first(node.agent_pid()));
    }
    node.unhook("vol", point);
    kill_and_wait(halted);
    ASSERT_TRUE(node.wait_recovered("vol", before));
    EXPECT_FALSE(any_runs_first(node.server_pid("vol")));
    EXPECT_FALSE(any_runs_first(node.agent_pid()));
    EXPECT_TRUE(comes_true([&] { return all_as_their_process(node.agent_pid()); }));
  }
}

// A spawner is no part of a recovery when there is a standby, and may be the last to hear of it.
class LateSpawnerTest : public ::testing::Test {
 protected:
  static constexpr const char* killed = "was killed by SIGKILL (9)";

  void SetUp() override {
    node_.apply({});
    ASSERT_TRUE(node_.wait_ready("vol"));
    ASSERT_TRUE(comes_true([] { return shell_output("pgrep -xc ublk-server") == "3\n"; }))
        << "no standbys";
    application_.emplace(node_.device("vol"));
    before_ = status().recovery_count;
    ASSERT_EQ(::kill(node_.spawner_pid(), SIGSTOP), 0);
  }
  void TearDown() override { spawner_goes_on(); }
  void spawner_goes_on() const { EXPECT_EQ(::kill(node_.spawner_pid(), SIGCONT), 0); }
  // The application's I/O goes on, whatever is known of how the server ended.
  void kill_server() {
    const pid_t server = node_.kernel_server_pid("vol");
    ASSERT_GT(server, 0);
    kill_and_wait(server);
    ASSERT_TRUE(application_->progress(3));
    ASSERT_NE(node_.kernel_server_pid("vol"), server);
  }
  [[nodiscard]] VolumeStatus status() { return node_.get("vol").status; }
  [[nodiscard]] uint64_t recoveries() { return status().recovery_count - before_; }

  LabNode node_{{.standbys = 2}};
  std::optional<Application> application_;
  uint64_t before_ = 0;
};

TEST_F(LateSpawnerTest, SaysHowAServerEndedWhenTheNextOneServesAlready) {
  kill_server();
  EXPECT_EQ(recoveries(), 0U) << "without its reason";
  spawner_goes_on();
  ASSERT_TRUE(node_.wait_recovered("vol", before_));
  EXPECT_EQ(status().last_recovery_reason, killed);
}

TEST_F(LateSpawnerTest, TheNextDeathNeedNotWaitForTheWordOnTheLastOne) {
  kill_server();
  kill_server();
  spawner_goes_on();
  ASSERT_TRUE(node_.wait_recovered("vol", before_ + 1));
  EXPECT_EQ(recoveries(), 2U);
  EXPECT_EQ(status().last_recovery_reason, killed);
}

TEST_F(LateSpawnerTest, AnAgentThatDiesMeanwhileLeavesTheCountToTheNextOne) {
  kill_server();
  node_.kill_agent();
  spawner_goes_on();
  node_.start_agent();
  ASSERT_TRUE(node_.wait_recovered("vol", before_));
  EXPECT_EQ(recoveries(), 1U);
}

TEST_F(LateSpawnerTest, AServerReplacedMeanwhileIsARecoveryOfItsOwn) {
  kill_server();
  ASSERT_TRUE(node_.api().recover("vol", true).ok());
  ASSERT_TRUE(node_.wait_recovered("vol", before_ + 1));
  EXPECT_EQ(recoveries(), 2U);
  EXPECT_EQ(status().last_recovery_reason, "was replaced");
}

std::vector<HalfWay> half_ways() {
  std::vector<HalfWay> all;
  for (const auto& mode : {"Reissue", "Queue", "FailIO"})
    for (const auto& point : {"before_open", "after_mmap", "half_fetched", "before_end"})
      all.push_back({mode, point});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Points, HalfWayPointTest, ::testing::ValuesIn(half_ways()),
                         [](const auto& story) {
                           return story.param.mode + "_" + story.param.point;
                         });

}  // namespace
}  // namespace ublk_operator::lab
