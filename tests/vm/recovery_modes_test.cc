// The four behaviours, as the kernel patch "ublk: support device recovery without I/O queueing"
// names them: what happens to I/O in flight when the server dies, and to I/O that comes while there
// is none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

#include "tests/vm/disk.h"
#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {
namespace {

struct Story {
  std::string mode;
  bool all_tags;      // every tag of every queue is in the server's hands when it dies; else one
  int in_flight;      // errno of those; 0: they complete after recovery
  bool waits;         // I/O sent while no server is there
  std::string state;  // the kernel's word while no server is there
};

void PrintTo(const Story& story, std::ostream* out) {
  *out << story.mode << (story.all_tags ? ", all tags" : ", one tag");
}

class RecoveryModesTest : public ::testing::TestWithParam<Story> {};

TEST_P(RecoveryModesTest, DoesWithIoWhatItsModePromises) {
  const Story& story = GetParam();
  if (story.mode == "FailIO" && !can_fail_io())
    GTEST_SKIP() << "this kernel has no UBLK_F_USER_RECOVERY_FAIL_IO (Linux 6.13)";
  constexpr unsigned queues = 2;
  constexpr unsigned depth = 4;
  const unsigned in_flight = story.all_tags ? queues * depth : 1;

  LabNode node;
  // A server that holds every request for a while, so that it dies with them in its hands.
  node.apply({.mode = story.mode,
              .extra = "  queues: 2\n  queueDepth: 4\n  faultInjection:\n    latency: 1500ms\n"});
  ASSERT_TRUE(node.wait_ready("vol"));
  EXPECT_EQ(node.kernel_state("vol"), "LIVE");
  const Disk disk(node.device("vol"));
  ASSERT_TRUE(disk.open());
  ASSERT_EQ(disk.write_range(0, 16, 1), 0);

  // Nobody recovers it while we look.
  ASSERT_TRUE(node.api().pause("vol", true).ok());
  ASSERT_TRUE(node.wait_condition("vol", "Paused", "True"));
  std::vector<std::future<int>> held;
  for (unsigned i = 0; i < in_flight; ++i)
    held.push_back(disk.start_write(i, 2, static_cast<int>(i % queues)));
  ASSERT_TRUE(disk.wait_in_flight(in_flight));
  node.kill_server("vol");

  if (story.mode == "None") {
    // The kernel removes the disk: what was in flight and what comes later fails.
    for (auto& io : held) EXPECT_EQ(io.get(), story.in_flight);
    // On its way out the disk answers EIO; once it is gone its size is 0, and a write beyond the
    // end is ENOSPC.
    EXPECT_THAT(disk.start_write(20, 2).get(), ::testing::AnyOf(EIO, ENOSPC));
    ASSERT_TRUE(node.wait("vol", story.state,
                          [&](const auto&) { return node.kernel_state("vol") == story.state; }));
    ASSERT_TRUE(node.api().pause("vol", false).ok());
    ASSERT_TRUE(node.wait_recovered("vol", 0));
    const Disk again(node.device("vol"));
    ASSERT_TRUE(again.open());
    EXPECT_EQ(again.write(20, 3), 0);
    EXPECT_EQ(again.verify(20, 3), 0);
    EXPECT_EQ(again.verify_range(in_flight, 16 - in_flight, 1), 0);
    return;
  }

  ASSERT_TRUE(node.wait("vol", story.state,
                        [&](const auto&) { return node.kernel_state("vol") == story.state; }));
  if (story.in_flight != 0) {
    for (auto& io : held) EXPECT_EQ(io.get(), story.in_flight);
  }
  auto late = disk.start_write(30, 2);
  if (story.waits) {
    EXPECT_FALSE(done(late, 300ms)) << "new I/O must wait for the next server";
  } else {
    // The first one finds the queue with EIO, later ones the driver's own word.
    EXPECT_THAT(late.get(), ::testing::AnyOf(EIO, EREMOTEIO))
        << "new I/O must fail while there is no server";
    EXPECT_THAT(disk.start_write(31, 2).get(), ::testing::AnyOf(EIO, EREMOTEIO));
  }

  ASSERT_TRUE(node.api().pause("vol", false).ok());
  ASSERT_TRUE(node.wait_recovered("vol", 0));
  EXPECT_EQ(node.kernel_state("vol"), "LIVE");
  if (story.in_flight == 0) {
    for (unsigned i = 0; i < in_flight; ++i) {
      EXPECT_EQ(held[i].get(), 0);
      EXPECT_EQ(disk.verify(i, 2), 0);
    }
  }
  if (story.waits) {
    EXPECT_EQ(late.get(), 0);
    EXPECT_EQ(disk.verify(30, 2), 0);
  }
  EXPECT_EQ(disk.verify_range(in_flight, 16 - in_flight, 1), 0)
      << "what was acknowledged before must be there";
  EXPECT_EQ(disk.write(40, 4), 0);
  EXPECT_EQ(disk.verify(40, 4), 0);
}

INSTANTIATE_TEST_SUITE_P(FourModes, RecoveryModesTest,
                         ::testing::Values(Story{"None", false, EIO, false, "DEAD"},
                                           Story{"None", true, EIO, false, "DEAD"},
                                           Story{"Queue", false, EIO, true, "QUIESCED"},
                                           Story{"Queue", true, EIO, true, "QUIESCED"},
                                           Story{"Reissue", false, 0, true, "QUIESCED"},
                                           Story{"Reissue", true, 0, true, "QUIESCED"},
                                           Story{"FailIO", false, EIO, false, "FAIL_IO"},
                                           Story{"FailIO", true, EIO, false, "FAIL_IO"}),
                         [](const auto& story) {
                           return story.param.mode + (story.param.all_tags ? "AllTags" : "OneTag");
                         });

}  // namespace
}  // namespace ublk_operator::lab
