// When a status is written: what an operator pays for knowing it.
#include "node/cluster/status_plan.h"

#include <gtest/gtest.h>

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;

class StatusPlanTest : public ::testing::Test {
 protected:
  // Everything that falls due until `time`, with when.
  std::vector<std::chrono::milliseconds> writes_until(std::chrono::milliseconds time) {
    std::vector<std::chrono::milliseconds> writes;
    while (const auto next = plan_.next()) {
      if (*next > start_ + time) break;
      const auto name = plan_.take(*next);
      if (!name) {
        ADD_FAILURE() << "next() named a time at which nothing is due";
        break;
      }
      plan_.written(*name, *next);
      writes.push_back(std::chrono::duration_cast<std::chrono::milliseconds>(*next - start_));
    }
    return writes;
  }
  void change(std::chrono::milliseconds at, bool ready, const std::string& name = "vol") {
    plan_.changed(name, start_ + at, ready);
  }
  using Times = std::vector<std::chrono::milliseconds>;

  StatusPlan plan_;
  StatusPlan::Time start_ = StatusPlan::Time{} + 1000h;
};

TEST_F(StatusPlanTest, AQuickRecoveryIsOneWrite) {
  change(0ms, false);
  change(20ms, false);
  change(60ms, true);
  EXPECT_EQ(writes_until(1h), (Times{300ms}));
}

TEST_F(StatusPlanTest, ALongRecoveryIsTwoWritesHoweverOftenItsReasonChanges) {
  change(0ms, false);
  EXPECT_EQ(writes_until(1s), (Times{300ms}));
  for (auto at = 1000ms; at < 8000ms; at += 100ms) change(at, false);
  EXPECT_EQ(writes_until(7999ms), Times{});
  change(8000ms, true);
  EXPECT_EQ(writes_until(1h), (Times{8300ms}));
}

TEST_F(StatusPlanTest, WhatGoesOnChangingIsWrittenEveryTenSeconds) {
  Times writes;
  for (auto at = 0ms; at < 60'000ms; at += 100ms) {
    change(at, false);
    for (const auto write : writes_until(at)) writes.push_back(write);
  }
  EXPECT_EQ(writes, (Times{300ms, 10'300ms, 20'300ms, 30'300ms, 40'300ms, 50'300ms}));
}

TEST_F(StatusPlanTest, AVolumeThatComesAndGoesIsWrittenOnceASecondAtMost) {
  Times writes;
  for (auto at = 0ms; at < 10'000ms; at += 50ms) {
    change(at, at % 100ms == 0ms);
    for (const auto write : writes_until(at)) writes.push_back(write);
  }
  EXPECT_LE(writes.size(), 10U);
}

TEST_F(StatusPlanTest, AFailedWriteIsTriedAgainLaterAndLater) {
  change(0ms, true);
  ASSERT_EQ(plan_.take(start_ + 300ms), "vol");
  plan_.failed("vol", start_ + 300ms, 1.0);
  EXPECT_EQ(plan_.next(), start_ + 800ms);
  change(400ms, true);  // news do not shorten it: the server is in trouble
  EXPECT_EQ(plan_.next(), start_ + 800ms);
  ASSERT_EQ(plan_.take(start_ + 800ms), "vol");
  plan_.failed("vol", start_ + 800ms, 1.0);
  EXPECT_EQ(plan_.next(), start_ + 1800ms);
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(plan_.take(*plan_.next()), "vol");
    plan_.failed("vol", start_, 1.0);
  }
  EXPECT_EQ(plan_.next(), start_ + 30s);
}

TEST_F(StatusPlanTest, AgentsWhoseWritesFailedTogetherDoNotTryAgainTogether) {
  change(0ms, true);
  ASSERT_EQ(plan_.take(start_ + 300ms), "vol");
  plan_.failed("vol", start_ + 300ms, 0);
  EXPECT_EQ(plan_.next(), start_ + 550ms) << "half of the time at least";
}

TEST_F(StatusPlanTest, WhatChangesWhileItIsWrittenIsWrittenAgain) {
  change(0ms, false);
  ASSERT_EQ(plan_.take(start_ + 300ms), "vol");
  change(310ms, true);
  plan_.written("vol", start_ + 320ms);
  EXPECT_EQ(writes_until(1h), (Times{1320ms}));
}

TEST_F(StatusPlanTest, VolumesDoNotWaitForEachOther) {
  change(0ms, false, "a");
  change(10ms, false, "b");
  EXPECT_EQ(writes_until(1h), (Times{300ms, 310ms}));
  plan_.changed("a", start_, true);
  plan_.forget("a");
  EXPECT_EQ(plan_.next(), std::nullopt);
}

}  // namespace
}  // namespace ublk_operator
