// Linux 6.12: what it cannot do is said, what it does badly is bounded, and nothing that would
// break it is ever sent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/strings.h"
#include "tests/vm/disk.h"
#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {
namespace {

using ::testing::HasSubstr;

class LegacyKernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (repeats_recovery())
      GTEST_SKIP()
          << "this kernel has what is missing in Linux 6.12 (UBLK_F_USER_RECOVERY_FAIL_IO)";
  }
  static Condition condition(LabNode& node, const std::string& volume, const std::string& type) {
    const Volume seen = node.get(volume);
    const auto* found = find_condition(seen.status.conditions, type);
    return found != nullptr ? *found : Condition{};
  }
};

TEST_F(LegacyKernelTest, SaysWhichKernelFailIONeedsAndLeavesOtherVolumesAlone) {
  LabNode node;
  node.apply({.name = "other", .size = "16Mi"});
  ASSERT_TRUE(node.wait_ready("other"));
  const pid_t server = node.server_pid("other");
  node.apply({.mode = "FailIO", .size = "16Mi"});
  ASSERT_TRUE(node.wait_condition("vol", "Ready", "False", "UnsupportedByKernel"));
  EXPECT_THAT(condition(node, "vol", "Ready").message, HasSubstr("Linux 6.13"));
  EXPECT_FALSE(node.get("vol").status.device_id) << "no device is made that would be a Queue";
  EXPECT_TRUE(node.has_event("vol", "UnsupportedByKernel"));

  EXPECT_EQ(node.server_pid("other"), server);
  EXPECT_EQ(node.get("other").status.recovery_count, 0U);
  const Disk disk(node.device("other"));
  EXPECT_EQ(disk.write(1, 1), 0);

  // What the message says to do works.
  node.apply({.mode = "Queue", .size = "16Mi"});
  ASSERT_TRUE(node.wait_ready("vol"));
}

// The kernel notices the death of a server that held every tag only when a request times out.
TEST_F(LegacyKernelTest, RecoversFromADeathWithAllTagsInFlightAfterTheRequestTimeout) {
  constexpr unsigned queues = 2;
  constexpr unsigned depth = 4;
  LabNode node;
  node.apply({.size = "16Mi", .extra = "  queues: 2\n  queueDepth: 4\n"});
  ASSERT_TRUE(node.wait_ready("vol"));
  const std::string name = "ublkb" + std::to_string(*node.get("vol").status.device_id);
  const auto timeout = read_file("/sys/block/" + name + "/queue/io_timeout", 64);
  ASSERT_TRUE(timeout.ok());
  EXPECT_EQ(trim(*timeout), std::to_string(limits::legacy_request_timeout.count()));

  // A slow server, so that all tags are with it when it dies.
  node.apply({.size = "16Mi",
              .extra = "  queues: 2\n  queueDepth: 4\n  faultInjection:\n    latency: 1500ms\n"});
  ASSERT_TRUE(node.wait("vol", "made anew with a slow server", [](const auto& volume) {
    const auto* recreate =
        volume ? find_condition(volume->status.conditions, "NeedsRecreate") : nullptr;
    const auto* ready = volume ? find_condition(volume->status.conditions, "Ready") : nullptr;
    return recreate != nullptr && recreate->status == ConditionStatus::no &&
           volume->metadata.generation == 2 && ready != nullptr &&
           ready->status == ConditionStatus::yes;
  }));
  const Disk disk(node.device("vol"));
  ASSERT_TRUE(disk.open());
  std::vector<std::future<int>> held;
  for (unsigned i = 0; i < queues * depth; ++i)
    held.push_back(disk.start_write(i, 1, static_cast<int>(i % queues)));
  ASSERT_TRUE(disk.wait_in_flight(queues * depth));
  node.kill_server("vol");
  ASSERT_TRUE(node.wait_recovered("vol", 0));
  const auto pause = node.get("vol").status.last_recovery_duration;
  ASSERT_TRUE(pause);
  std::printf(
      "all tags in flight: pause %lld ms\n",
      static_cast<long long>(std::chrono::round<std::chrono::milliseconds>(*pause).count()));
  constexpr auto kernel_default = 30s;
  EXPECT_LT(*pause, kernel_default);
  for (auto& io : held) EXPECT_EQ(io.get(), 0);
  EXPECT_EQ(disk.verify_range(0, held.size(), 1), 0);
}

struct HalfWay {
  const char* point;
  unsigned queues;
};
void PrintTo(const HalfWay& story, std::ostream* out) { *out << story.point << story.queues; }

class HalfFinishedRecoveryTest : public LegacyKernelTest,
                                 public ::testing::WithParamInterface<HalfWay> {};

// START_USER_RECOVERY cannot be repeated here, and with some queues fetched and some not it would
// break the kernel.
TEST_P(HalfFinishedRecoveryTest, IsSaidAndEndsByAForcedStopWithTheDataKept) {
  const auto& [point, queues] = GetParam();
  LabNode node;
  node.apply({.size = "16Mi", .extra = "  queues: " + std::to_string(queues) + "\n"});
  node.apply({.name = "other", .size = "16Mi"});
  ASSERT_TRUE(node.wait_ready("vol"));
  ASSERT_TRUE(node.wait_ready("other"));
  std::future<int> waiting;
  {
    const Disk disk(node.device("vol"));
    ASSERT_EQ(disk.write_range(0, 64, 1), 0);
    ASSERT_EQ(disk.flush(), 0);

    node.hook("vol", point);
    node.kill_server("vol");
    ASSERT_TRUE(node.kill_at("vol", point));
    ASSERT_TRUE(node.wait_condition("vol", "Recoverable", "False", "HalfFinishedRecovery"));
    const std::string advice = condition(node, "vol", "Recoverable").message;
    EXPECT_THAT(advice, HasSubstr("ublkctl stop --force vol"));
    EXPECT_THAT(advice, HasSubstr("ublkctl start vol"));
    EXPECT_EQ(node.kernel_state("vol"), "QUIESCED") << "the disk is not taken from its users";

    // Nor is it sent because a person asks for it, or because a new agent does not know better.
    ASSERT_TRUE(node.api().recover("vol", false).ok());
    ASSERT_TRUE(node.wait_condition("vol", "Recoverable", "False", "HalfFinishedRecovery"));
    const auto generation = node.get("vol").status.lease_generation;
    node.kill_agent();
    node.start_agent();
    ASSERT_TRUE(node.wait_condition("vol", "Recoverable", "False", "HalfFinishedRecovery"));
    EXPECT_EQ(node.get("vol").status.lease_generation, generation)
        << "a server was let to a device that is not reset";

    waiting = disk.start_write(100, 2);
    EXPECT_FALSE(done(waiting, 200ms));
    const auto stopped = node.api().stop("vol", true, true);
    ASSERT_TRUE(stopped.ok()) << stopped.error().to_string() << "\n" << node.story("vol");
    EXPECT_EQ(waiting.get(), EIO);
  }
  ASSERT_TRUE(node.api().stop("vol", false, false).ok());
  ASSERT_TRUE(node.wait_ready("vol"));
  const Disk again(node.device("vol"));
  EXPECT_EQ(again.verify_range(0, 64, 1), 0);
  EXPECT_EQ(again.write(100, 3), 0);
  EXPECT_EQ(node.get("other").status.recovery_count, 0U);
}

// half_fetched with one queue is missing: that kernel warns about it in its log, and the lab takes
// a warning for a bug.
INSTANTIATE_TEST_SUITE_P(Points, HalfFinishedRecoveryTest,
                         ::testing::Values(HalfWay{"after_mmap", 1}, HalfWay{"after_mmap", 2},
                                           HalfWay{"half_fetched", 2}),
                         [](const auto& story) {
                           return std::string(story.param.point) + "_queues_" +
                                  std::to_string(story.param.queues);
                         });

}  // namespace
}  // namespace ublk_operator::lab
