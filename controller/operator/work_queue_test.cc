// In which order and when volumes are looked at.
#include "controller/operator/work_queue.h"

#include <gtest/gtest.h>

namespace ublk_operator::controller {
namespace {

using namespace std::chrono_literals;

class WorkQueueTest : public ::testing::Test {
 protected:
  WorkQueue::Time now_{1000s};
  WorkQueue queue_;
};

TEST_F(WorkQueueTest, ANameWaitsOnceAndFirstComesFirst) {
  queue_.add("b", now_);
  queue_.add("a", now_);
  queue_.add("b", now_ + 1s);
  EXPECT_EQ(queue_.size(), 2U);
  EXPECT_EQ(queue_.take(now_), "b");
  EXPECT_EQ(queue_.take(now_), "a");
  EXPECT_EQ(queue_.take(now_), std::nullopt);
}

TEST_F(WorkQueueTest, WhatIsAddedWhileItIsWorkedOnIsLookedAtAgain) {
  queue_.add("a", now_);
  EXPECT_EQ(queue_.take(now_), "a");
  queue_.add("a", now_);
  queue_.done("a");
  EXPECT_EQ(queue_.take(now_), "a");
}

TEST_F(WorkQueueTest, AFailureWaitsLongerEachTimeAndNoLongerThanItsLimit) {
  queue_.add("a", now_);
  WorkQueue::milliseconds last{0};
  for (int i = 0; i < 30; ++i) {
    ASSERT_EQ(queue_.take(now_), "a");
    queue_.failed("a", now_, 0);
    const auto wait = std::chrono::duration_cast<WorkQueue::milliseconds>(*queue_.next() - now_);
    EXPECT_GE(wait, last);
    EXPECT_LE(wait, 30s);
    last = wait;
    now_ = *queue_.next();
  }
  EXPECT_EQ(last, 30s);
}

TEST_F(WorkQueueTest, JitterIsAQuarterAtMost) {
  queue_.failed("a", now_, 1);
  EXPECT_EQ(*queue_.next(), now_ + 312ms);
}

TEST_F(WorkQueueTest, AChangeDoesNotCutABackOffShort) {
  queue_.add("a", now_);
  ASSERT_EQ(queue_.take(now_), "a");
  queue_.add("a", now_);  // while it was worked on
  queue_.failed("a", now_, 0);
  queue_.add("a", now_);
  EXPECT_EQ(queue_.take(now_), std::nullopt);
  EXPECT_EQ(queue_.take(now_ + 250ms), "a");
}

TEST_F(WorkQueueTest, SuccessEndsABackOff) {
  queue_.failed("a", now_, 0);
  now_ = *queue_.next();
  ASSERT_EQ(queue_.take(now_), "a");
  queue_.done("a");
  queue_.add("a", now_);
  EXPECT_EQ(queue_.take(now_), "a");
  queue_.again("a", now_);
  EXPECT_EQ(queue_.take(now_), "a");
}

TEST_F(WorkQueueTest, OneThatFailsHoldsNobodyUp) {
  queue_.failed("a", now_, 0);
  queue_.add("b", now_);
  EXPECT_EQ(queue_.take(now_), "b");
}

}  // namespace
}  // namespace ublk_operator::controller
