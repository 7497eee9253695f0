#include "node/ublk/preflight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>

#include "node/ublk/device.h"

namespace ublk_operator {
namespace {

PreflightFacts good_machine() {
  PreflightFacts facts;
  facts.kernel_release = "7.2.12-amd64";
  facts.module_loaded = facts.module_available = true;
  facts.sys_admin = true;
  facts.features = 0xfffff;
  facts.udev_running = facts.dev_is_devtmpfs = true;
  facts.sysfs_present = facts.sysfs_writable = true;
  return facts;
}

PreflightCheck check(const PreflightFacts& facts, const std::string& name) {
  const std::vector<PreflightCheck> checks = judge(facts);
  const auto found = std::find_if(checks.begin(), checks.end(),
                                  [&](const PreflightCheck& each) { return each.name == name; });
  EXPECT_NE(found, checks.end()) << "no check is called " << name;
  return found == checks.end() ? PreflightCheck{} : *found;
}

TEST(PreflightTest, GoodMachineHasNothingToDo) {
  for (const PreflightCheck& each : judge(good_machine())) {
    EXPECT_EQ(each.status, "ok") << each.name << ": " << each.message;
    EXPECT_EQ(each.remedy, "") << each.name;
  }
}

TEST(PreflightTest, WhateverIsNotOkSaysWhatToDo) {
  for (const PreflightCheck& each : judge(PreflightFacts{})) {
    if (each.status != "ok") {
      EXPECT_NE(each.remedy, "") << each.name;
    }
  }
}

TEST(PreflightTest, ModuleThatIsOnlyNotLoadedIsToldApartFromOneThatIsMissing) {
  PreflightFacts facts = good_machine();
  facts.module_loaded = false;
  EXPECT_NE(check(facts, "module").remedy.find("modprobe"), std::string::npos);
  facts.module_available = false;
  EXPECT_EQ(check(facts, "module").remedy.find("modprobe"), std::string::npos);
  EXPECT_EQ(check(facts, "module").status, "failed");
}

TEST(PreflightTest, MissingNodeWithALoadedDriverPointsAtTheContainersDev) {
  PreflightFacts facts = good_machine();
  facts.control_err = ENOENT;
  EXPECT_NE(check(facts, "control-device").remedy.find("host's /dev"), std::string::npos);
  facts.module_loaded = false;
  EXPECT_NE(check(facts, "control-device").remedy.find("module"), std::string::npos);
}

TEST(PreflightTest, IoUringThatOnlyRootMayUseIsNotEnoughForServers) {
  PreflightFacts facts = good_machine();
  facts.io_uring_disabled = 1;
  EXPECT_EQ(check(facts, "io_uring").status, "failed");
}

TEST(PreflightTest, SeccompIsToldApartFromTheSysctl) {
  PreflightFacts facts = good_machine();
  facts.io_uring_err = EPERM;
  EXPECT_NE(check(facts, "io_uring").message.find("seccomp"), std::string::npos);
  facts.io_uring_disabled = 2;
  EXPECT_NE(check(facts, "io_uring").remedy.find("sysctl"), std::string::npos);
}

TEST(PreflightTest, KernelWithoutFailIoStillDoesTheOtherModesAndSaysItsHazards) {
  PreflightFacts facts = good_machine();
  facts.kernel_release = "6.12.107+deb13-amd64";
  facts.features = flags::user_recovery | flags::user_recovery_reissue | flags::user_copy;
  EXPECT_EQ(check(facts, "kernel").status, "ok");
  const PreflightCheck modes = check(facts, "recovery-modes");
  EXPECT_EQ(modes.status, "warning");
  EXPECT_EQ(modes.message, "None, Queue, Reissue; not FailIO");
  EXPECT_NE(modes.remedy.find("6.13"), std::string::npos);
  EXPECT_EQ(check(facts, "hazards").status, "warning");
  EXPECT_EQ(check(facts, "hand-over").status, "warning");
  EXPECT_EQ(check(facts, "safe-stop").status, "warning");
}

TEST(PreflightTest, KernelsBeforeGetFeaturesFail) {
  PreflightFacts facts = good_machine();
  for (const char* release : {"5.10.0-30-amd64", "6.1.0-42-amd64", "6.4.1"}) {
    facts.kernel_release = release;
    EXPECT_EQ(check(facts, "kernel").status, "failed") << release;
  }
}

TEST(PreflightTest, LookingNeedsNoRootAndNoDriver) {
  const PreflightFacts facts = look();
  EXPECT_NE(facts.kernel_release, "");
  EXPECT_FALSE(judge(facts).empty());
}

}  // namespace
}  // namespace ublk_operator
