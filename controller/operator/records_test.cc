// What the controller reads of objects, also of odd ones.
#include "controller/operator/records.h"

#include <gtest/gtest.h>

#include "controller/operator/test_objects.h"

namespace ublk_operator::controller {
namespace {

using nlohmann::json;

TEST(ReadVolumeTest, EveryFieldThatDecides) {
  const json object = json::parse(R"({
    "metadata": {"name": "pgdata", "uid": "u", "resourceVersion": "7", "generation": 3,
      "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a", "ublk.dev/device"],
      "annotations": {"ublk.dev/force-release": "vm1"}},
    "spec": {"nodeName": "vm1", "size": "10Gi", "recovery": {"mode": "FailIO"}, "queues": 2,
      "queueDepth": 128, "backend": {"file": {"pool": "fast", "path": "a/b.img"}}},
    "status": {"deviceID": 3, "conditions": [
      {"type": "Bound", "status": "True", "reason": "Bound", "message": "m",
       "observedGeneration": 2, "lastTransitionTime": "2026-01-01T00:00:00Z"},
      {"type": "Ready", "status": "False", "reason": "Recovering", "message": "n"},
      {"type": "DeviceRemoved", "status": "True"}]}})");
  const VolumeRecord volume = read_volume(object);
  EXPECT_EQ(volume.name, "pgdata");
  EXPECT_EQ(volume.uid, "u");
  EXPECT_EQ(volume.resource_version, "7");
  EXPECT_EQ(volume.generation, 3);
  EXPECT_TRUE(volume.deleting);
  EXPECT_TRUE(volume.has_finalizer());
  EXPECT_EQ(volume.finalizers.size(), 2U);
  EXPECT_EQ(volume.force_release, "vm1");
  EXPECT_EQ(volume.node_name, "vm1");
  EXPECT_EQ(volume.size_bytes, 10 * testing::GiB);
  EXPECT_EQ(volume.mode, "FailIO");
  EXPECT_EQ(volume.pool, "fast");
  EXPECT_EQ(volume.path, "a/b.img");
  EXPECT_EQ(volume.queues, 2U);
  EXPECT_EQ(volume.queue_depth, 128U);
  EXPECT_EQ(volume.unreadable, "");
  EXPECT_EQ(volume.bound,
            (Condition{"Bound", ConditionStatus::yes, "Bound", "m", 2, "2026-01-01T00:00:00Z"}));
  EXPECT_EQ(volume.ready->reason, "Recovering");
  EXPECT_TRUE(volume.device_removed);
  EXPECT_TRUE(volume.made);
}

TEST(ReadVolumeTest, WhatIsLeftOutHasTheManifestsDefault) {
  const VolumeRecord volume =
      read_volume({{"metadata", {{"name", "a"}}},
                   {"spec", {{"size", 4096}, {"backend", {{"file", {{"path", "a"}}}}}}}});
  EXPECT_EQ(volume.size_bytes, 4096U);
  EXPECT_EQ(volume.mode, "Reissue");
  EXPECT_EQ(volume.pool, "default");
  EXPECT_EQ(volume.queues, 1U);
  EXPECT_FALSE(volume.deleting);
  EXPECT_FALSE(volume.made);
  EXPECT_FALSE(volume.bound);
}

TEST(ReadVolumeTest, ABackendWithoutAFileNeedsNoPool) {
  EXPECT_EQ(
      read_volume({{"spec", {{"size", "1Gi"}, {"backend", {{"null", json::object()}}}}}}).pool, "");
}

TEST(ReadVolumeTest, OddObjectsAreReadAsFarAsTheyGo) {
  for (const json& odd :
       {json(), json(7), json::array(), json{{"metadata", 7}, {"spec", "x"}, {"status", {1}}},
        json{{"metadata", {{"name", 7}, {"finalizers", {7, json()}}, {"annotations", "x"}}},
             {"spec", {{"size", -1}, {"nodeName", json::object()}, {"queues", "many"}}},
             {"status", {{"conditions", {7, {{"type", 7}}}}}}}}) {
    const VolumeRecord volume = read_volume(odd);
    EXPECT_EQ(volume.name, "");
    EXPECT_EQ(volume.node_name, "");
    EXPECT_NE(volume.unreadable, "") << "no size: " << odd;
  }
}

TEST(ReadNodeTest, WhatAVolumeMayAskOfIt) {
  const NodeRecord node = read_node(testing::node_json("vm1"));
  EXPECT_EQ(node.name, "vm1");
  EXPECT_EQ(node.pools.at("default"), (PoolRecord{10 * testing::GiB, 9 * testing::GiB}));
  EXPECT_TRUE(node.modes.contains("Reissue"));
  EXPECT_FALSE(node.modes.contains("None"));
  EXPECT_EQ(node.volumes_max, 1024U);
  EXPECT_TRUE(node.ready);
}

TEST(ReadNodeTest, OneThatSaysNothingIsNotReady) {
  const NodeRecord node = read_node({{"metadata", {{"name", "vm1"}}}});
  EXPECT_FALSE(node.ready);
  EXPECT_TRUE(node.pools.empty());
  EXPECT_FALSE(node.volumes_max);
}

TEST(ReadNodeTest, APoolWhoseSpaceIsNotKnownHasNone) {
  const NodeRecord node = read_node(
      {{"status", {{"pools", {{{"name", "p"}, {"capacity", "lots"}}, {{"free", "1Gi"}}}}}}});
  EXPECT_EQ(node.pools.size(), 1U);
  EXPECT_EQ(node.pools.at("p"), PoolRecord{});
}

TEST(ReadLeaseTest, RenewedIsByTheNodesClock) {
  const LeaseRecord lease = read_node_lease(
      {{"metadata", {{"resourceVersion", "9"}}},
       {"spec", {{"leaseDurationSeconds", 30}, {"renewTime", "2023-11-14T22:13:20.123456Z"}}}});
  EXPECT_EQ(lease.version, "9");
  EXPECT_EQ(lease.duration, std::chrono::seconds(30));
  ASSERT_TRUE(lease.renewed);
  EXPECT_EQ(lease.renewed->time_since_epoch(), std::chrono::seconds(1'700'000'000));
}

TEST(ReadLeaseTest, WithoutTimesItLastsAsNodesLeasesDo) {
  const LeaseRecord lease = read_node_lease({{"spec", {{"renewTime", "soon"}}}});
  EXPECT_EQ(lease.duration, std::chrono::seconds(40));
  EXPECT_FALSE(lease.renewed);
}

}  // namespace
}  // namespace ublk_operator::controller
