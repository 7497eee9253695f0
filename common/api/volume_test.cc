#include "common/api/volume.h"

#include <gtest/gtest.h>

namespace ublk_operator {
namespace {

Condition ready(ConditionStatus status, const std::string& message) {
  return {"Ready", status, "Serving", message, 1, ""};
}

TEST(ConditionTest, ANewOneIsAddedWithItsTime) {
  std::vector<Condition> conditions;
  EXPECT_TRUE(set_condition(conditions, ready(ConditionStatus::yes, "ok"), "10:00"));
  ASSERT_NE(find_condition(conditions, "Ready"), nullptr);
  EXPECT_EQ(find_condition(conditions, "Ready")->last_transition_time, "10:00");
  EXPECT_EQ(find_condition(conditions, "InUse"), nullptr);
}

TEST(ConditionTest, TheTimeMovesOnlyWithTheStatus) {
  std::vector<Condition> conditions;
  set_condition(conditions, ready(ConditionStatus::yes, "ok"), "10:00");

  EXPECT_TRUE(set_condition(conditions, ready(ConditionStatus::yes, "still ok"), "10:01"));
  EXPECT_EQ(conditions[0].last_transition_time, "10:00");
  EXPECT_EQ(conditions[0].message, "still ok");

  EXPECT_TRUE(set_condition(conditions, ready(ConditionStatus::no, "dead"), "10:02"));
  EXPECT_EQ(conditions[0].last_transition_time, "10:02");
  EXPECT_EQ(conditions.size(), 1U);
}

TEST(ConditionTest, SettingTheSameAgainChangesNothing) {
  std::vector<Condition> conditions;
  set_condition(conditions, ready(ConditionStatus::yes, "ok"), "10:00");
  EXPECT_FALSE(set_condition(conditions, ready(ConditionStatus::yes, "ok"), "10:01"));
  EXPECT_EQ(conditions[0].last_transition_time, "10:00");
}

TEST(VolumeTest, NamesAreThoseOfTheManifest) {
  EXPECT_STREQ(to_string(RecoveryMode::fail_io), "FailIO");
  EXPECT_STREQ(to_string(OnDeadline::fail_device), "FailDevice");
  EXPECT_STREQ(to_string(ReclaimPolicy::remove), "Delete");
  EXPECT_STREQ(to_string(Provisioning::thick), "Thick");
  EXPECT_STREQ(to_string(ConditionStatus::no), "False");
  EXPECT_STREQ(backend_kind(NullBackendSpec{}), "null");
  EXPECT_STREQ(backend_kind(FileBackendSpec{}), "file");
}

}  // namespace
}  // namespace ublk_operator
