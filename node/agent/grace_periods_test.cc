// The kernel's switch is a file here; that it shortens a recovery is what `./dev bench recovery` shows.
#include "node/agent/grace_periods.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>

#include "common/base/files.h"

namespace ublk_operator {
namespace {

class GracePeriodsTest : public ::testing::Test {
 protected:
  GracePeriodsTest() {
    std::filesystem::create_directories(dir_);
    set("0\n");
  }
  ~GracePeriodsTest() override { std::filesystem::remove_all(dir_); }
  void set(const std::string& value) const { std::ofstream(switch_) << value; }
  [[nodiscard]] char value() const { return read_file(switch_, 16)->at(0); }

  const std::string dir_ = ::testing::TempDir() + "grace-periods-" + std::to_string(::getpid());
  const std::string switch_ = dir_ + "/rcu_expedited";
  const std::string record_ = dir_ + "/record";
  const Logger log_ = null_logger();
};

TEST_F(GracePeriodsTest, AreExpeditedFromTheFirstHolderToTheLast) {
  GracePeriods periods(switch_, record_, log_);
  EXPECT_EQ(value(), '0');
  std::optional<GracePeriods::Expedited> first = periods.expedite();
  EXPECT_EQ(value(), '1');
  std::optional<GracePeriods::Expedited> second = periods.expedite();
  first.reset();
  EXPECT_EQ(value(), '1');
  second.reset();
  EXPECT_EQ(value(), '0');
}

TEST_F(GracePeriodsTest, WhatSomebodyElseTurnedOnStaysOn) {
  set("1\n");
  GracePeriods periods(switch_, record_, log_);
  {
    const auto expedited = periods.expedite();
  }
  EXPECT_EQ(value(), '1');
  GracePeriods next(switch_, record_, log_);
  EXPECT_EQ(value(), '1');
}

TEST_F(GracePeriodsTest, WhatADeadAgentLeftOnIsTurnedOffByTheNext) {
  {
    std::ofstream(record_) << '1';  // as it died
    set("1\n");
  }
  GracePeriods next(switch_, record_, log_);
  EXPECT_EQ(value(), '0');
  set("1\n");  // the administrator, later
  GracePeriods third(switch_, record_, log_);
  EXPECT_EQ(value(), '1') << "taken back once only";
}

TEST_F(GracePeriodsTest, WithoutTheSwitchNothingHappens) {
  GracePeriods periods(dir_ + "/absent", record_, log_);
  const auto expedited = periods.expedite();
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/absent"));
  GracePeriods never;
  const auto nothing = never.expedite();
}

}  // namespace
}  // namespace ublk_operator
