// What the objects of the API server tell a node to do.
#include "node/cluster/cluster_volumes.h"

#include <gtest/gtest.h>

#include "nlohmann/json.hpp"
#include "node/cluster/cluster_link.h"

namespace ublk_operator {
namespace {

const std::string here = "cluster:1234";

nlohmann::json object_of(const std::string& name, const std::string& uid) {
  return {
      {"metadata",
       {{"name", name},
        {"uid", uid},
        {"generation", 3},
        {"resourceVersion", "77"},
        {"finalizers", {"example.org/other", "ublk.dev/device"}},
        {"creationTimestamp", "2026-01-01T00:00:00Z"},
        {"managedFields", nlohmann::json::array()}}},
      {"spec",
       {{"nodeName", "vm1"}, {"size", "1Gi"}, {"backend", {{"null", nlohmann::json::object()}}}}},
      {"status", {{"conditions", {{{"type", "Bound"}, {"status", "True"}}}}, {"newField", 1}}}};
}

class ViewTest : public ::testing::Test {
 protected:
  void add(const std::string& name, const std::string& uid, bool deleting = false) {
    auto object = object_of(name, uid);
    if (deleting) object["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z";
    objects_[name] = read_cluster_object(object, here);
  }
  void have(const std::string& name, const std::string& uid, const std::string& from = here) {
    accepted_[name] = {{"ublkvolumes/" + name, from}, uid};
  }
  SourceView view() { return view_of(objects_, accepted_, here); }

  std::map<std::string, ClusterObject> objects_;
  std::map<std::string, AcceptedVolume> accepted_;
};

TEST_F(ViewTest, AnObjectIsAVolumeWithItsUidAndGeneration) {
  add("vol", "u1");
  const auto seen = view();
  ASSERT_TRUE(seen.volumes.contains("vol"));
  const auto& wanted = seen.volumes.at("vol");
  ASSERT_TRUE(wanted.volume) << wanted.problems.front().to_string();
  EXPECT_EQ(wanted.volume->metadata.uid, "u1");
  EXPECT_EQ(wanted.volume->metadata.generation, 3);
  EXPECT_EQ(wanted.volume->spec.size_bytes, uint64_t{1} << 30);
  EXPECT_TRUE(seen.removed.empty());
}

TEST_F(ViewTest, WhatThisAgentDoesNotUnderstandIsAProblemOfThatVolume) {
  auto object = object_of("vol", "u1");
  object["spec"]["replicas"] = 3;
  objects_["vol"] = read_cluster_object(object, here);
  const auto seen = view();
  EXPECT_FALSE(seen.volumes.at("vol").volume);
  EXPECT_EQ(seen.volumes.at("vol").uid, "u1")
      << "or it would be another volume once it is understood";
  ASSERT_EQ(seen.volumes.at("vol").problems.size(), 1U);
  EXPECT_NE(seen.volumes.at("vol").problems[0].message.find("replicas"), std::string::npos);
}

TEST_F(ViewTest, ADeletedObjectIsARemovalAlsoWhenTheNodeNeverHadIt) {
  add("known", "u1", true);
  add("unknown", "u2", true);
  have("known", "u1");
  const auto seen = view();
  EXPECT_TRUE(seen.volumes.empty());
  EXPECT_EQ(seen.removed,
            (std::map<std::string, RemovedVolume>{{"known", {"u1", ReclaimPolicy::retain}},
                                                  {"unknown", {"u2", ReclaimPolicy::retain}}}));
}

TEST_F(ViewTest, TheReclaimPolicyOfADeletionIsTheOneThatTheObjectHasThen) {
  auto object = object_of("vol", "u1");
  object["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z";
  object["spec"]["reclaimPolicy"] = "Delete";
  have("vol", "u1");
  objects_["vol"] = read_cluster_object(object, here);
  EXPECT_EQ(view().removed.at("vol").reclaim_policy, ReclaimPolicy::remove);
  object["spec"]["reclaimPolicy"] = "Retain";
  objects_["vol"] = read_cluster_object(object, here);
  EXPECT_EQ(view().removed.at("vol").reclaim_policy, ReclaimPolicy::retain);
  object["spec"] = {{"reclaimPolicy", "Delete"}, {"something", "of a newer agent"}};
  objects_["vol"] = read_cluster_object(object, here);
  EXPECT_EQ(view().removed.at("vol").reclaim_policy, ReclaimPolicy::retain) << "not understood";
}

TEST_F(ViewTest, WhatIsGoneIsNotRemovedAgainWhileItsObjectWaits) {
  add("vol", "u1", true);
  objects_["vol"].gone = true;
  EXPECT_TRUE(view().removed.empty());
  EXPECT_TRUE(view().volumes.empty());
}

TEST_F(ViewTest, WithoutItsFinalizerAnObjectIsPassedOverUnlessTheNodeHasItAlready) {
  auto object = object_of("vol", "u1");
  object["metadata"]["finalizers"] = {"example.org/other"};
  objects_["vol"] = read_cluster_object(object, here);
  EXPECT_TRUE(view().volumes.empty());
  EXPECT_TRUE(view().problems.empty());
  have("vol", "u1");
  EXPECT_TRUE(view().volumes.contains("vol"));
  object["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z";
  objects_["vol"] = read_cluster_object(object, here);
  EXPECT_TRUE(view().removed.contains("vol"));
}

TEST_F(ViewTest, AVanishedObjectIsReportedAndServedOn) {
  have("vol", "u1");
  const auto seen = view();
  EXPECT_TRUE(seen.removed.empty());
  ASSERT_EQ(seen.problems.size(), 1U);
  EXPECT_NE(seen.problems[0].message.find("without having been deleted"), std::string::npos);
}

TEST_F(ViewTest, ANewObjectOfTheSameNameComesAfterTheOldOneWent) {
  add("vol", "new");
  have("vol", "old");
  const auto seen = view();
  EXPECT_TRUE(seen.volumes.empty());
  EXPECT_EQ(seen.removed,
            (std::map<std::string, RemovedVolume>{{"vol", {"old", ReclaimPolicy::retain}}}))
      << "nobody deleted the old one, so its data stays";
}

TEST_F(ViewTest, AVolumeFromElsewhereIsNeverTakenForTheClusters) {
  add("vol", "new");
  have("vol", "old", "some folder");
  have("other", "x", "cluster:5678");
  const auto seen = view();
  EXPECT_TRUE(seen.volumes.empty());
  EXPECT_TRUE(seen.removed.empty());
  ASSERT_EQ(seen.problems.size(), 1U);
  EXPECT_NE(seen.problems[0].message.find("another volume of that name"), std::string::npos);
}

TEST(StatusObjectTest, SaysWhoseStatusItIsAndLeavesCountersOut) {
  Volume volume;
  volume.metadata.name = "vol";
  volume.metadata.uid = "u1";
  volume.status.state = "LIVE";
  volume.status.io["read"].operations = 5;
  const auto object = status_object(volume);
  EXPECT_EQ(object["metadata"], (nlohmann::json{{"name", "vol"}, {"uid", "u1"}}));
  EXPECT_EQ(object["status"]["state"], "LIVE");
  EXPECT_FALSE(object["status"].contains("io"));
  EXPECT_FALSE(object.contains("spec"));
}

}  // namespace
}  // namespace ublk_operator
