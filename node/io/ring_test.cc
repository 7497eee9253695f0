// The ring on the kernel this test runs on; everything is skipped where io_uring is not allowed.
#include "node/io/ring.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "common/base/unique_fd.h"
#include "gtest/gtest.h"

namespace ublk_operator {
namespace {

class RingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto ring = Ring::create(8, 2);
    if (!ring && (ring.err() == EPERM || ring.err() == ENOSYS))
      GTEST_SKIP() << ring.error().to_string();
    ASSERT_TRUE(ring.ok()) << ring.error().to_string();
    ring_ = std::make_unique<Ring>(std::move(ring).value());
    file_.reset(memfd_create("ring_test", MFD_CLOEXEC));
    ASSERT_TRUE(file_.valid());
    ASSERT_EQ(ftruncate(file_.get(), 64 << 10), 0);
  }

  void enable_with_file(unsigned slot) {
    ASSERT_TRUE(ring_->enable().ok());
    const auto registered = ring_->register_file(slot, file_.get());
    ASSERT_TRUE(registered.ok()) << registered.error().to_string();
  }

  // Waits until `count` completions arrived.
  std::vector<Completion> wait_for(size_t count) {
    std::vector<Completion> all;
    while (all.size() < count) {
      EXPECT_TRUE(ring_->submit_and_wait().ok());
      std::array<Completion, 4> some{};
      const size_t taken = ring_->take(some);
      all.insert(all.end(), some.begin(), some.begin() + static_cast<ptrdiff_t>(taken));
    }
    return all;
  }

  std::unique_ptr<Ring> ring_;
  UniqueFd file_;
};

TEST_F(RingTest, ReadReturnsWhatWasWritten) {
  enable_with_file(0);
  std::vector<std::byte> out(4096, std::byte{0x5a});
  ring_->prep_write(0, out, 8192, false, 7);
  const auto written = wait_for(1);
  EXPECT_EQ(written[0].token, 7u);
  EXPECT_EQ(written[0].result, 4096);

  std::vector<std::byte> in(4096);
  ring_->prep_read(0, in, 8192, 8);
  EXPECT_EQ(wait_for(1)[0].result, 4096);
  EXPECT_EQ(in, out);
}

TEST_F(RingTest, DurableWriteAndFdatasyncSucceed) {
  enable_with_file(1);
  std::vector<std::byte> out(512);
  ring_->prep_write(1, out, 0, true, 1);
  EXPECT_EQ(wait_for(1)[0].result, 512);
  ring_->prep_fdatasync(1, 2);
  EXPECT_EQ(wait_for(1)[0].result, 0);
}

TEST_F(RingTest, FallocatePunchesExactlyTheRange) {
  enable_with_file(0);
  std::vector<std::byte> out(16384, std::byte{1});
  ring_->prep_write(0, out, 0, false, 1);
  wait_for(1);
  ring_->prep_fallocate(0, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192, 2);
  ASSERT_EQ(wait_for(1)[0].result, 0);
  std::vector<std::byte> in(16384);
  ASSERT_EQ(pread(file_.get(), in.data(), in.size(), 0), 16384);
  std::fill(out.begin() + 4096, out.begin() + 12288, std::byte{0});
  EXPECT_EQ(in, out);
}

TEST_F(RingTest, TimeoutCompletesNotBeforeItsTime) {
  ASSERT_TRUE(ring_->enable().ok());
  const auto start = std::chrono::steady_clock::now();
  ring_->prep_timeout_ns(20'000'000, 3, 9);
  const auto done = wait_for(1);
  EXPECT_EQ(done[0].token, 9u);
  EXPECT_EQ(done[0].result, -ETIME);
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(20));
}

TEST_F(RingTest, OtherThreadWakesTheOwnerThroughAnEventFd) {
  ASSERT_TRUE(ring_->enable().ok());
  auto event = EventFd::create();
  ASSERT_TRUE(event.ok());
  ring_->prep_poll_in(event->fd(), 5);
  std::thread waker([&] { event->signal(); });
  EXPECT_EQ(wait_for(1)[0].token, 5u);
  waker.join();
}

TEST_F(RingTest, CommandOnAFileWithoutCommandsIsRefusedAndNamesItsToken) {
  enable_with_file(0);
  ring_->prep_command(0, 0x1234, {}, 77);
  const auto done = wait_for(1);
  EXPECT_EQ(done[0].token, 77u);
  EXPECT_EQ(done[0].result, -EOPNOTSUPP);
}

TEST_F(RingTest, AFailingEntryDoesNotKeepTheOthersFromBeingSubmitted) {
  enable_with_file(0);
  std::vector<std::byte> buffer(512);
  ring_->prep_read(1, buffer, 0, 1);  // an empty slot
  ring_->prep_read(0, buffer, 0, 2);
  ASSERT_TRUE(ring_->submit().ok());
  auto done = wait_for(2);
  std::sort(done.begin(), done.end(), [](auto& a, auto& b) { return a.token < b.token; });
  EXPECT_EQ(done[0].result, -EBADF);
  EXPECT_EQ(done[1].result, 512);
}

TEST_F(RingTest, RegisteredFileOutlivesTheCallersCopy) {
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  ASSERT_TRUE(ring_->enable().ok());
  ASSERT_TRUE(ring_->register_file(0, writer.get()).ok());
  writer.reset();
  std::vector<std::byte> out(4, std::byte{'x'});
  ring_->prep_write(0, out, static_cast<uint64_t>(-1), false, 1);
  EXPECT_EQ(wait_for(1)[0].result, 4);
  std::array<char, 8> in{};
  EXPECT_EQ(read(reader.get(), in.data(), in.size()), 4);
  ring_.reset();
  // End of file: the ring held the last copy.
  EXPECT_EQ(read(reader.get(), in.data(), in.size()), 0);
}

TEST_F(RingTest, RegisteringBeyondTheSlotsIsAnError) {
  ASSERT_TRUE(ring_->enable().ok());
  EXPECT_EQ(ring_->register_file(2, file_.get()).err(), EINVAL);
}

TEST_F(RingTest, CreatedInOneThreadAndEnabledInAnother) {
  int result = 0;
  std::thread owner([&] {
    enable_with_file(0);
    std::vector<std::byte> buffer(512);
    ring_->prep_read(0, buffer, 0, 1);
    result = wait_for(1)[0].result;
  });
  owner.join();
  EXPECT_EQ(result, 512);
}

TEST(RingDeathTest, PreparingMoreThanTheRingHoldsAborts) {
  auto ring = Ring::create(4, 0);
  if (!ring) GTEST_SKIP() << ring.error().to_string();
  ASSERT_TRUE(ring->enable().ok());
  EXPECT_DEATH(
      {
        for (unsigned i = 0; i < 5; ++i) ring->prep_timeout_ns(1, 0, i);
      },
      "sqe != nullptr");
}

}  // namespace
}  // namespace ublk_operator
