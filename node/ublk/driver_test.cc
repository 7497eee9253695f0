// Loading the driver, with a shell script as modprobe.
#include "node/ublk/driver.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace ublk_operator {
namespace {

class DriverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "driver_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    control_ = dir_ + "/ublk-control";
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string modprobe(const std::string& does) const {
    const std::string path = dir_ + "/modprobe";
    std::ofstream(path) << "#!/bin/sh\n" << does << "\n";
    ::chmod(path.c_str(), 0755);
    return path;
  }
  std::string dir_;
  std::string control_;
};

TEST_F(DriverTest, WhatIsThereIsNotLoaded) {
  std::ofstream(control_) << "";
  EXPECT_TRUE(load_driver(control_, "/nothing/here").ok());
}

TEST_F(DriverTest, WhatIsMissingIsLoaded) {
  EXPECT_TRUE(load_driver(control_, modprobe("[ $1 = ublk_drv ] && : > " + control_)).ok());
}

TEST_F(DriverTest, AKernelWithoutItIsOneClearSentence) {
  auto failed = load_driver(control_, modprobe("exit 1"));
  ASSERT_EQ(failed.err(), ENOENT);
  EXPECT_NE(failed.error().detail.find("CONFIG_BLK_DEV_UBLK"), std::string::npos);
  failed = load_driver(control_, modprobe("exit 0"));
  ASSERT_EQ(failed.err(), ENOENT);
  EXPECT_NE(failed.error().detail.find("devtmpfs"), std::string::npos);
  EXPECT_EQ(load_driver(control_, "/nothing/here").err(), ENOENT);
}

TEST_F(DriverTest, ItIsMissingOnlyWhereTheKernelKnowsNothingOfIt) {
  EXPECT_TRUE(driver_missing(control_, dir_ + "/sysfs"));
  std::ofstream(dir_ + "/sysfs") << "";
  EXPECT_FALSE(driver_missing(control_, dir_ + "/sysfs")) << "then this /dev is another one";
  std::ofstream(control_) << "";
  EXPECT_FALSE(driver_missing(control_, dir_ + "/nothing"));
}

}  // namespace
}  // namespace ublk_operator
