// The death of a server that is long in dying. Its process ends only with the last of its threads,
// and one of them waits for a disk; a thread of it that waits for nothing ends at once, and tells
// the agent (node/server/herald.h).
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <future>
#include <string>

#include "common/base/files.h"
#include "common/base/pidfd.h"
#include "tests/vm/disk.h"
#include "tests/vm/lab_node.h"
#include "tests/vm/slow_disk.h"

namespace ublk_operator::lab {
namespace {

TEST(HeraldTest, TellsOfTheDeathBeforeTheProcessHasEnded) {
  constexpr uint64_t block = 5;
  SlowDisk slow(uint64_t{64} << 20);
  const SlowPool pool(slow);
  std::ofstream(expedited_path) << '0';
  LabNode node({.pool = SlowPool::path()});
  node.apply({.size = "16Mi"});
  ASSERT_TRUE(node.wait_ready("vol"));
  const Disk disk(node.device("vol"));
  ASSERT_TRUE(disk.open());
  const uint64_t before = node.get("vol").status.recovery_count;

  // The write ends in the page cache of the server's file, and the flush in a thread of the server
  // that waits for the disk below.
  slow.hold_next(pattern(block, 1, Disk::block_bytes));
  ASSERT_EQ(disk.write(block, 1), 0);
  auto flush = std::async(std::launch::async, [&disk] { return disk.flush(); });
  ASSERT_TRUE(slow.wait_held());
  auto server = Pidfd::open(node.server_pid("vol"));
  ASSERT_TRUE(server.ok()) << node.story("vol");
  ASSERT_TRUE(server->kill(SIGKILL).ok());
  EXPECT_TRUE(comes_true([] { return read_file(expedited_path, 16)->starts_with('1'); }))
      << "the agent has not heard of it: " << node.story("vol");
  EXPECT_FALSE(server->exited()) << "what held it up did not: nothing was shown";

  slow.release();
  ASSERT_TRUE(node.wait_recovered("vol", before));
  EXPECT_EQ(flush.get(), 0) << "it is issued again";
  EXPECT_EQ(disk.verify(block, 1), 0);
}

}  // namespace
}  // namespace ublk_operator::lab
