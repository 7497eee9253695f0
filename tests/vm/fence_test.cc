// A late write: the dead server's io_uring still holds a write to a slow file. The next server must
// not be let near that file before it ended, or it would land on top of newer data.
#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <thread>

#include "tests/vm/disk.h"
#include "tests/vm/lab_node.h"
#include "tests/vm/slow_disk.h"

namespace ublk_operator::lab {
namespace {

class FenceTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FenceTest, KeepsTheNextServerFromTheFileUntilTheLastOnesWriteEnded) {
  const std::string mode = GetParam();
  if (mode == "FailIO" && !can_fail_io())
    GTEST_SKIP() << "this kernel has no UBLK_F_USER_RECOVERY_FAIL_IO (Linux 6.13)";
  constexpr int rounds = 10;
  constexpr uint64_t block = 5;
  SlowDisk slow(uint64_t{64} << 20);
  const SlowPool pool(slow);
  LabNode node({.pool = SlowPool::path()});
  node.apply({.mode = mode, .size = "16Mi", .extra = "      directIO: true\n"});
  node.apply({.name = "bystander", .size = "16Mi", .backend = "null"});
  ASSERT_TRUE(node.wait_ready("vol"));
  ASSERT_TRUE(node.wait_ready("bystander"));
  const Disk disk(node.device("vol"));
  const Disk file(pool.path() + "/vol.img");
  ASSERT_TRUE(disk.open() && file.open());
  ASSERT_EQ(disk.write_range(0, 16, 1), 0);

  for (uint64_t round = 1; round <= rounds; ++round) {
    SCOPED_TRACE(mode + ", round " + std::to_string(round));
    const uint64_t older = 2 * round;
    const uint64_t newer = older + 1;
    const Volume before = node.get("vol");
    slow.hold_next(pattern(block, older, Disk::block_bytes));
    auto late = disk.start_write(block, older);
    ASSERT_TRUE(slow.wait_held());
    node.kill_server("vol");

    ASSERT_TRUE(node.wait_condition("vol", "Ready", "False", "DeviceReleasing"));
    if (round == 1) {
      // Nobody else waits for it.
      node.kill_server("bystander");
      ASSERT_TRUE(node.wait_recovered("bystander", 0));
      // Past every recheck of the agent; that nothing happens has no event.
      std::this_thread::sleep_for(2500ms);
    }
    const Volume held = node.get("vol");
    EXPECT_EQ(held.status.lease_generation, before.status.lease_generation)
        << "a server was granted the volume while its predecessor could still write";
    EXPECT_FALSE(held.status.server_pid);
    EXPECT_EQ(held.status.recovery_count, before.status.recovery_count);
    EXPECT_NE(node.kernel_state("vol"), "absent");
    if (mode == "Reissue") {
      EXPECT_FALSE(done(late)) << "nobody can have completed it";
    }

    slow.release();
    ASSERT_TRUE(node.wait_recovered("vol", before.status.recovery_count));
    EXPECT_GT(node.get("vol").status.lease_generation, before.status.lease_generation);
    EXPECT_EQ(late.get(), mode == "Reissue" ? 0 : EIO);
    ASSERT_EQ(disk.write(block, newer), 0);
    EXPECT_EQ(disk.verify(block, newer), 0) << "an older write landed on newer data";
    EXPECT_EQ(file.verify(block, newer), 0) << "an older write landed on newer data";
  }
  EXPECT_EQ(disk.verify(block, 2 * rounds + 1), 0);
  EXPECT_EQ(disk.verify_range(0, block, 1), 0);
  EXPECT_EQ(disk.verify_range(block + 1, 16 - block - 1, 1), 0);
}

TEST_P(FenceTest, HoldsForAnAgentThatBeganAfterTheDeath) {
  const std::string mode = GetParam();
  if (mode == "FailIO") GTEST_SKIP() << "nothing waits in this mode, which is how this is seen";
  constexpr uint64_t block = 5;
  SlowDisk slow(uint64_t{64} << 20);
  const SlowPool pool(slow);
  LabNode node({.pool = SlowPool::path()});
  node.apply({.mode = mode, .size = "16Mi", .extra = "      directIO: true\n"});
  ASSERT_TRUE(node.wait_ready("vol"));
  const Disk disk(node.device("vol"));
  const Disk file(pool.path() + "/vol.img");
  ASSERT_TRUE(disk.open() && file.open());
  ASSERT_EQ(disk.write_range(0, 16, 1), 0);

  slow.hold_next(pattern(block, 2, Disk::block_bytes));
  auto late = disk.start_write(block, 2);
  ASSERT_TRUE(slow.wait_held());
  node.kill_server("vol");
  ASSERT_TRUE(node.wait_condition("vol", "Ready", "False", "DeviceReleasing"));
  // Another block of the same file: it waits for the next server as everything does.
  auto meanwhile = disk.start_write(block + 1, 2);
  EXPECT_FALSE(done(meanwhile, 300ms)) << "served while the last server could still write";

  // An agent that begins only now knows about the old server what the lease says, and waits too.
  node.kill_agent();
  node.start_agent();
  ASSERT_TRUE(node.wait_condition("vol", "Ready", "False", "DeviceReleasing"));
  EXPECT_FALSE(done(meanwhile, 1500ms)) << "served while the last server could still write";

  slow.release();
  ASSERT_TRUE(node.wait_ready("vol"));
  EXPECT_EQ(late.get(), mode == "Reissue" ? 0 : EIO);
  EXPECT_EQ(meanwhile.get(), 0);
  ASSERT_EQ(disk.write(block, 3), 0);
  EXPECT_EQ(disk.verify(block, 3), 0);
  EXPECT_EQ(file.verify(block, 3), 0);
  EXPECT_EQ(disk.verify(block + 1, 2), 0);
}

// The disk goes with its server, and Linux 6.12 calls the device DEAD while the write is still
// under way: the next device of the volume is another one, but its file is the same.
TEST(FenceOfModeNoneTest, KeepsTheNextDeviceFromTheFileToo) {
  constexpr int rounds = 3;
  constexpr uint64_t block = 5;
  SlowDisk slow(uint64_t{64} << 20);
  const SlowPool pool(slow);
  LabNode node({.pool = SlowPool::path()});
  node.apply({.mode = "None", .size = "16Mi", .extra = "      directIO: true\n"});
  ASSERT_TRUE(node.wait_ready("vol"));
  for (uint64_t round = 1; round <= rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const uint64_t older = 2 * round;
    const uint64_t newer = older + 1;
    const Volume before = node.get("vol");
    const Disk disk(node.device("vol"));
    ASSERT_TRUE(disk.open());
    slow.hold_next(pattern(block, older, Disk::block_bytes));
    auto late = disk.start_write(block, older);
    ASSERT_TRUE(slow.wait_held());
    node.kill_server("vol");
    // Past every recheck of the agent; that nothing happens has no event.
    std::this_thread::sleep_for(2500ms);
    EXPECT_EQ(node.get("vol").status.lease_generation, before.status.lease_generation)
        << "a server was granted the volume while its predecessor could still write";

    slow.release();
    ASSERT_TRUE(node.wait_recovered("vol", before.status.recovery_count));
    EXPECT_EQ(late.get(), EIO);
    const Disk next(node.device("vol"));
    const Disk file(pool.path() + "/vol.img");
    ASSERT_TRUE(next.open() && file.open());
    ASSERT_EQ(next.write(block, newer), 0);
    EXPECT_EQ(next.verify(block, newer), 0) << "an older write landed on newer data";
    EXPECT_EQ(file.verify(block, newer), 0) << "an older write landed on newer data";
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, FenceTest, ::testing::Values("Reissue", "Queue", "FailIO"),
                         [](const auto& mode) { return mode.param; });

}  // namespace
}  // namespace ublk_operator::lab
