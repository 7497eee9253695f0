// Looking at pools, with a shell script as the helper.
#include "node/cluster/pool_probes.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "common/base/unique_fd.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;

class PoolProbesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "pool_probes_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    ASSERT_EQ(::mkfifo((dir_ + "/answers").c_str(), 0600), 0);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  PoolProbes probes(const Pools& pools, std::chrono::milliseconds patience) const {
    const std::string path = dir_ + "/helper";
    std::ofstream(path) << "#!/bin/sh\n"
                        << "case $3 in\n"
                        << "  /hung) read word <" << dir_ << "/answers ;;\n"
                        << "  /gone) echo 'not there'; exit 2 ;;\n"
                        << "  /disk) [ \"$4\" = require-mount ] || exit 22 ;;\n"
                        << "esac\n"
                        << "echo 1000 400\n";
    ::chmod(path.c_str(), 0755);
    return {pools, path, patience};
  }
  std::string dir_;
};

TEST_F(PoolProbesTest, SaysWhatEachPoolHasOrWhyThatIsNotKnown) {
  auto looked =
      probes({{"a", Pool("/a")}, {"disk", Pool("/disk", true)}, {"gone", Pool("/gone")}}, 20s)
          .look();
  ASSERT_EQ(looked.size(), 3U);
  EXPECT_EQ(looked[0].problem, "");
  EXPECT_EQ(looked[0].capacity_bytes, 1000U);
  EXPECT_EQ(looked[0].free_bytes, 400U);
  EXPECT_EQ(looked[1].problem, "");
  EXPECT_EQ(looked[2].problem, "ENOENT pool /gone: not there");
}

TEST_F(PoolProbesTest, OneThatHangsIsUnknownAndHoldsUpNobodyUntilItAnswers) {
  auto pools = probes({{"a", Pool("/a")}, {"hung", Pool("/hung")}}, 2s);
  auto looked = pools.look();
  EXPECT_EQ(looked[0].problem, "");
  EXPECT_NE(looked[1].problem.find("does not answer since"), std::string::npos);
  const std::string first = looked[1].problem;
  const auto begin = std::chrono::steady_clock::now();
  looked = pools.look();
  EXPECT_EQ(looked[1].problem, first) << "a change would be a write";
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 1900ms) << "it is not waited for again";
  // Its reader waits in open(2), which this ends.
  const UniqueFd answer(::open((dir_ + "/answers").c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(answer.valid());
  ASSERT_EQ(::write(answer.get(), "now\n", 4), 4);
  const auto end = std::chrono::steady_clock::now() + 20s;
  do {
    looked = pools.look();
  } while (!looked[1].problem.empty() && std::chrono::steady_clock::now() < end);
  EXPECT_EQ(looked[1].problem, "");
  EXPECT_EQ(looked[1].free_bytes, 400U);
}

}  // namespace
}  // namespace ublk_operator
