// What a node says it can do.
#include "node/cluster/node_facts.h"

#include <gtest/gtest.h>

#include "common/api/test_definition.h"
#include "node/ublk/device.h"

namespace ublk_operator {
namespace {

PreflightFacts good_facts() {
  PreflightFacts facts;
  facts.kernel_release = "7.2.0";
  facts.module_loaded = true;
  facts.module_available = true;
  facts.sys_admin = true;
  facts.features = flags::user_recovery | flags::user_recovery_reissue;
  facts.udev_running = true;
  facts.dev_is_devtmpfs = true;
  facts.sysfs_present = true;
  facts.sysfs_writable = true;
  return facts;
}

TEST(NodeStatusTest, NamesTheModesThisKernelCanDo) {
  auto status = node_status(good_facts(), {}, "1.2.3");
  EXPECT_EQ(status["modes"], (nlohmann::json{"None", "Queue", "Reissue"}));
  EXPECT_EQ(status["version"], "1.2.3");
  EXPECT_EQ(status["conditions"][0]["status"], "True");
}

TEST(NodeStatusTest, ANodeWithoutTheDriverOffersNothing) {
  auto facts = good_facts();
  facts.features.reset();
  facts.module_loaded = false;
  facts.control_err = ENOENT;
  const auto status = node_status(facts, {}, "1.2.3");
  EXPECT_TRUE(status["modes"].empty());
  EXPECT_FALSE(status["warnings"].empty());
  EXPECT_EQ(status["conditions"][0]["status"], "False");
  EXPECT_EQ(status["conditions"][0]["reason"], "DriverMissing");
  EXPECT_NE(status["conditions"][0]["message"].get<std::string>().find("modprobe"),
            std::string::npos);
}

TEST(NodeStatusTest, WhatAPodDoesNotSeeIsNoWarning) {
  auto facts = good_facts();
  facts.features = 0xfffff;
  facts.udev_running = false;
  facts.memlock_bytes = 64 << 10;
  EXPECT_EQ(node_status(facts, {}, "1")["warnings"], nlohmann::json::array());
}

TEST(NodeStatusTest, FreeSpaceChangesByHundredthsOnly) {
  PoolFacts pool{"default", "/pool", uint64_t{100} << 30, (uint64_t{50} << 30) + 1, ""};
  const auto before = node_status(good_facts(), {pool}, "1");
  EXPECT_EQ(before["pools"][0]["free"], "50Gi");
  pool.free_bytes += uint64_t{900} << 20;
  EXPECT_EQ(node_status(good_facts(), {pool}, "1"), before);
  pool.free_bytes += uint64_t{200} << 20;
  EXPECT_NE(node_status(good_facts(), {pool}, "1"), before);
}

TEST(NodeStatusTest, APoolThatIsNotThereOffersNoSpaceAndSaysWhy) {
  const PoolFacts pool{"fast", "/fast", 0, 0, "ENOENT open /fast"};
  const auto status = node_status(good_facts(), {pool}, "1");
  EXPECT_EQ(status["pools"][0], (nlohmann::json{{"name", "fast"}, {"path", "/fast"}}));
  EXPECT_EQ(status["warnings"][0], "pool fast: ENOENT open /fast");
}

// A field that the definition lacks would be dropped by the API server, which says nothing.
TEST(NodeStatusTest, IsWhatTheDefinitionHas) {
  const auto status = node_status(good_facts(),
                                  {{"fast", "/fast", uint64_t{2} << 30, uint64_t{1} << 30, ""},
                                   {"gone", "/gone", 0, 0, "ENOENT open /gone"}},
                                  "1");
  const auto values = test_definition::values_of(status);
  const auto defined = test_definition::leaves_of(
      test_definition::schema(UBLK_SOURCE_DIR, "ublknodes.yaml")["properties"]["status"]);
  for (const auto& [path, value] : values) {
    ASSERT_TRUE(defined.contains(path)) << "the definition does not know status." << path;
    EXPECT_TRUE(test_definition::is_of_type(value, defined.at(path))) << path << ": " << value;
  }
  for (const auto& [path, schema] : defined) {
    const bool when_written =
        path == "conditions[].observedGeneration" || path == "conditions[].lastTransitionTime";
    EXPECT_TRUE(when_written || values.contains(path)) << "nobody writes status." << path;
  }
}

}  // namespace
}  // namespace ublk_operator
