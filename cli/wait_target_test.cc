#include "cli/wait_target.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "cli/test_support.h"

namespace ublk_operator {
namespace {

using ::testing::HasSubstr;

bool met(const std::string& wanted, const std::optional<Volume>& volume) {
  const auto target = WaitTarget::parse(wanted);
  EXPECT_TRUE(target.ok()) << wanted;
  return target.ok() && target->met_by(volume);
}

TEST(WaitTargetTest, AConditionIsTrueUnlessSaidOtherwise) {
  EXPECT_TRUE(met("Ready", pgdata()));
  EXPECT_TRUE(met("condition=Ready", pgdata()));
  EXPECT_TRUE(met("condition=ready=true", pgdata()));
  EXPECT_FALSE(met("condition=Ready=False", pgdata()));
  EXPECT_FALSE(met("Ready", scratch()));
  EXPECT_TRUE(met("condition=Ready=False", scratch()));
}

TEST(WaitTargetTest, AConditionThatIsNotSetIsNeitherTrueNorFalse) {
  EXPECT_FALSE(met("Paused", pgdata()));
  EXPECT_FALSE(met("condition=Paused=False", pgdata()));
  EXPECT_FALSE(met("Ready", std::nullopt));
}

TEST(WaitTargetTest, AConditionOfAnOlderSpecDoesNotCount) {
  Volume volume = pgdata();
  volume.metadata.generation = 3;
  EXPECT_FALSE(met("Ready", volume));
  EXPECT_THAT(WaitTarget::parse("Ready")->explain(volume), HasSubstr("of an older spec"));
}

TEST(WaitTargetTest, DeleteIsMetByNoVolume) {
  EXPECT_TRUE(met("delete", std::nullopt));
  EXPECT_FALSE(met("delete", pgdata()));
}

TEST(WaitTargetTest, AFieldIsBelowStatusUnlessItsPathSaysOtherwise) {
  EXPECT_TRUE(met("state=LIVE", pgdata()));
  EXPECT_FALSE(met("state=QUIESCED", pgdata()));
  EXPECT_TRUE(met("status.state=LIVE", pgdata()));
  EXPECT_TRUE(met("jsonpath={.status.state}=LIVE", pgdata()));
  EXPECT_TRUE(met("spec.recovery.mode=Reissue", pgdata()));
  EXPECT_TRUE(met("recoveryCount=1", pgdata()));
  EXPECT_FALSE(met("state=LIVE", std::nullopt));
  EXPECT_FALSE(met("nosuchfield=1", pgdata()));
}

TEST(WaitTargetTest, WhatIsNotUnderstoodNamesWhatThereIs) {
  for (const char* text : {"Raedy", "condition=Raedy", "condition=Ready=Maybe", "=LIVE", "a..b=1",
                           "jsonpath={.status.state}", ""})
    EXPECT_EQ(WaitTarget::parse(text).err(), EINVAL) << text;
  EXPECT_THAT(WaitTarget::parse("Redy").error().detail, HasSubstr("did you mean 'Ready'"));
}

TEST(WaitTargetTest, ExplainsHowItIsInstead) {
  EXPECT_EQ(WaitTarget::parse("Ready")->explain(scratch()),
            "Ready is False (UnsupportedByKernel: FailIO needs Linux 6.14)");
  EXPECT_EQ(WaitTarget::parse("state=QUIESCED")->explain(pgdata()), "status.state is 'LIVE'");
  EXPECT_EQ(WaitTarget::parse("delete")->explain(pgdata()),
            "InUse is True (Open: the device is open)");
}

}  // namespace
}  // namespace ublk_operator
