#include "node/backends/delay/delay_backend.h"

#include <chrono>

#include "node/backends/test_harness.h"

namespace ublk_operator {
namespace {

// Remembers what reached it, and answers at once.
struct Seen {
  std::vector<IoOp> ops;
};

class RecordingBackend : public Backend {
 public:
  explicit RecordingBackend(Seen& seen) : seen_(seen) {}
  [[nodiscard]] Fence fence() const override { return Fence::ring_end; }
  [[nodiscard]] unsigned file_slots() const override { return 0; }
  Result<std::unique_ptr<BackendQueue>> open_queue(const QueueContext&) override {
    return std::unique_ptr<BackendQueue>(std::make_unique<Queue>(seen_));
  }

 private:
  class Queue : public BackendQueue {
   public:
    explicit Queue(Seen& seen) : seen_(seen) {}
    std::optional<int32_t> start(const IoRequest& request) override {
      seen_.ops.push_back(request.op);
      return static_cast<int32_t>(request.length_bytes);
    }
    std::optional<int32_t> advance(uint16_t, int32_t) override { return -EIO; }

   private:
    Seen& seen_;
  };
  Seen& seen_;
};

class DelayBackendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::ring_is_allowed()) GTEST_SKIP() << "io_uring is not allowed on this machine";
  }
  std::unique_ptr<testing::BackendHarness> harness(std::chrono::nanoseconds latency) {
    return std::make_unique<testing::BackendHarness>(make_delay_backend(
        std::make_unique<RecordingBackend>(seen_), static_cast<uint64_t>(latency.count())));
  }
  Seen seen_;
};

TEST_F(DelayBackendTest, WriteReachesTheInnerBackendOnlyAfterTheLatency) {
  const auto queue = harness(std::chrono::milliseconds(30));
  const auto begin = std::chrono::steady_clock::now();
  queue->start({.op = IoOp::write, .tag = 1, .length_bytes = 512, .buffer = queue->buffer(1, 512)});
  EXPECT_TRUE(seen_.ops.empty());
  EXPECT_EQ(queue->finish(1), 512);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(30));
  EXPECT_EQ(seen_.ops, std::vector{IoOp::write});
}

TEST_F(DelayBackendTest, FlushDoesNotWait) {
  const auto queue = harness(std::chrono::hours(1));
  EXPECT_EQ(queue->simple(IoOp::flush), 0);
  EXPECT_EQ(seen_.ops, std::vector{IoOp::flush});
}

TEST_F(DelayBackendTest, HeldWritesDieWithTheRing) {
  auto queue = harness(std::chrono::hours(1));
  queue->start({.op = IoOp::write, .tag = 1, .length_bytes = 512, .buffer = queue->buffer(1, 512)});
  EXPECT_EQ(queue->simple(IoOp::discard, 0, 4096), 4096);
  queue.reset();
  EXPECT_EQ(seen_.ops, std::vector{IoOp::discard});
}

}  // namespace
}  // namespace ublk_operator
