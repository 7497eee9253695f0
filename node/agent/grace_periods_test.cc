// The kernel's switch is a file here; with the real one, KillTest of tests/vm. That it shortens a
// recovery is what `./dev bench recovery` shows.
#include "node/agent/grace_periods.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include "common/base/files.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;
using Expedited = std::optional<GracePeriods::Expedited>;

class GracePeriodsTest : public ::testing::Test {
 protected:
  GracePeriodsTest() {
    std::filesystem::create_directories(dir_);
    set("0\n");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  [[nodiscard]] std::unique_ptr<GracePeriods> make(std::chrono::milliseconds at_most = 1h,
                                                   bool expedite = true) const {
    return std::make_unique<GracePeriods>(GracePeriodsOptions{switch_, record_, expedite, at_most},
                                          null_logger());
  }
  void set(const std::string& value) const { std::ofstream(switch_) << value; }
  [[nodiscard]] char value() const { return read_file(switch_, 16)->at(0); }
  void left_on_by_a_dead_agent() const {
    std::ofstream(record_) << '1';
    set("1\n");
  }

  const std::string dir_ = ::testing::TempDir() + "grace-periods-" + std::to_string(::getpid());
  const std::string switch_ = dir_ + "/rcu_expedited";
  const std::string record_ = dir_ + "/record";
};

TEST_F(GracePeriodsTest, AreExpeditedFromTheFirstHolderToTheLast) {
  const auto periods = make();
  EXPECT_EQ(value(), '0');
  Expedited first = periods->expedite();
  EXPECT_EQ(value(), '1');
  Expedited second = periods->expedite();
  first.reset();
  EXPECT_EQ(value(), '1');
  second.reset();
  EXPECT_EQ(value(), '0');
}

TEST_F(GracePeriodsTest, AreNormalAgainAfterTheirTimeWhoeverHoldsThem) {
  const auto periods = make(20ms);
  const Expedited stuck = periods->expedite();
  while (value() != '0') std::this_thread::yield();
  {
    const Expedited another = periods->expedite();
    EXPECT_EQ(value(), '1') << "it has its own time";
  }
  EXPECT_EQ(value(), '0');
}

TEST_F(GracePeriodsTest, WhatSomebodyElseTurnedOnStaysOn) {
  set("1\n");
  auto periods = make();
  {
    const Expedited expedited = periods->expedite();
  }
  EXPECT_EQ(value(), '1');
  periods = make();
  EXPECT_EQ(value(), '1');
}

TEST_F(GracePeriodsTest, WhatADeadAgentLeftOnIsTurnedOffByTheNext) {
  for (const bool expedite : {true, false}) {
    left_on_by_a_dead_agent();
    auto periods = make(1h, expedite);
    EXPECT_EQ(value(), '0');
    set("1\n");  // the administrator, later
    periods = make(1h, expedite);
    EXPECT_EQ(value(), '1') << "taken back once only";
  }
}

TEST_F(GracePeriodsTest, WhoDoesNotWantItHasItNot) {
  const auto periods = make(1h, false);
  const Expedited expedited = periods->expedite();
  EXPECT_EQ(value(), '0');
}

TEST_F(GracePeriodsTest, WithoutTheSwitchNothingHappens) {
  std::filesystem::remove(switch_);
  const auto periods = make();
  const Expedited expedited = periods->expedite();
  EXPECT_FALSE(std::filesystem::exists(switch_));
}

}  // namespace
}  // namespace ublk_operator
