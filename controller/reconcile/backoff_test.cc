#include "controller/reconcile/backoff.h"

#include <gtest/gtest.h>

namespace ublk_operator::reconcile {
namespace {

using namespace std::chrono_literals;

class RestartHistoryTest : public ::testing::Test {
 protected:
  RestartHistory history_;
  RestartHistory::Time now_{100s};
  BackOff back_off_{100ms, 1000ms};
};

TEST_F(RestartHistoryTest, TheFirstFailureIsTriedAgainAtOnce) {
  history_.failed(now_, back_off_, 0);
  EXPECT_EQ(history_.retry_in(now_), 0ms);
}

TEST_F(RestartHistoryTest, FurtherFailuresWaitTwiceAsLongUpToTheMaximum) {
  std::vector<std::chrono::milliseconds> delays;
  for (int i = 0; i < 7; ++i) {
    history_.failed(now_, back_off_, 0);
    delays.push_back(history_.retry_in(now_));
  }
  EXPECT_EQ(delays, (std::vector<std::chrono::milliseconds>{0ms, 100ms, 200ms, 400ms, 800ms, 1000ms,
                                                            1000ms}));
}

TEST_F(RestartHistoryTest, JitterOnlyLengthensAndByAQuarterAtMost) {
  history_.failed(now_, back_off_, 1);
  history_.failed(now_, back_off_, 1);
  EXPECT_EQ(history_.retry_in(now_), 125ms);
}

TEST_F(RestartHistoryTest, TwentyKillsInARowWaitForNothing) {
  for (int i = 0; i < 20; ++i) history_.died(now_, 5ms, false, back_off_, 1);
  EXPECT_EQ(history_.retry_in(now_), 0ms);
  EXPECT_FALSE(history_.crash_loop(3));
}

TEST_F(RestartHistoryTest, SomethingThatKillsWhateverIsStartedIsACrashLoop) {
  for (uint32_t i = 0; i < RestartHistory::kills_forgiven + 4; ++i)
    history_.died(now_, 5ms, false, back_off_, 0);
  EXPECT_TRUE(history_.crash_loop(3));
}

TEST_F(RestartHistoryTest, LongerServiceInBetweenForgivesKills) {
  for (int i = 0; i < 100; ++i) history_.died(now_, i % 10 == 0 ? 300ms : 5ms, false, back_off_, 0);
  EXPECT_EQ(history_.failures_in_row(), 0U);
}

TEST_F(RestartHistoryTest, ARequestThatKillsItsServerIsACrashLoop) {
  for (int i = 0; i < 4; ++i) history_.died(now_, 5ms, true, back_off_, 0);
  EXPECT_TRUE(history_.crash_loop(3));
  EXPECT_EQ(history_.retry_in(now_), 400ms);
  EXPECT_EQ(history_.retry_in(now_ + 400ms), 0ms);
}

TEST_F(RestartHistoryTest, AMinuteOfServiceForgivesAndSoDoesAPerson) {
  for (int i = 0; i < 4; ++i) history_.failed(now_, back_off_, 0);
  history_.died(now_, 60s, true, back_off_, 0);
  EXPECT_EQ(history_.failures_in_row(), 0U);
  history_.failed(now_, back_off_, 0);
  history_.reset();
  EXPECT_EQ(history_.failures_in_row(), 0U);
}

TEST_F(RestartHistoryTest, ASlowCrashLoopIsOneToo) {
  for (int i = 0; i < 4; ++i) history_.died(now_, 30s, true, back_off_, 0);
  EXPECT_TRUE(history_.crash_loop(3));
  EXPECT_EQ(history_.retry_in(now_), 400ms);
}

TEST_F(RestartHistoryTest, ServiceForgivesFailedAttemptsButNotCrashes) {
  for (int round = 0; round < 20; ++round) {  // twenty recoveries that each die once half way
    history_.failed(now_, back_off_, 0);
    EXPECT_EQ(history_.retry_in(now_), 0ms);
    history_.serving();
  }
  EXPECT_EQ(history_.failures_in_row(), 0U);
  for (int round = 0; round < 4; ++round) {
    history_.died(now_, 5ms, true, back_off_, 0);
    history_.serving();
  }
  EXPECT_TRUE(history_.crash_loop(3));
}

TEST_F(RestartHistoryTest, HugeCountsDoNotOverflow) {
  for (int i = 0; i < 100; ++i) history_.failed(now_, BackOff{1h, 24h}, 0);
  EXPECT_EQ(history_.retry_in(now_), 24h);
}

}  // namespace
}  // namespace ublk_operator::reconcile
