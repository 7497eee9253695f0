#include "tests/cluster/api_contract.h"

#include <cerrno>

namespace ublk_operator::cluster {

using nlohmann::json;

void ApiContractTest::SetUp() {
  transport_ = GetParam()();
  if (!transport_) GTEST_SKIP() << "no KUBECONFIG; tests/cluster/apiserver.sh gives one";
  client_ = std::make_unique<kube::KubeClient>(transport_);
}

void ApiContractTest::TearDown() {
  if (!client_) return;
  for (const char* name : {"c1", "c2"}) {
    (void)client_->merge_patch(volumes_.path(name), {{"metadata", {{"finalizers", nullptr}}}}, "t",
                               never_);
    (void)client_->remove(volumes_.path(name), never_);
  }
}

json ApiContractTest::create(const std::string& name, const std::string& finalizer) {
  json object{{"apiVersion", "ublk.dev/v1alpha1"},
              {"kind", "UblkVolume"},
              {"metadata", {{"name", name}}},
              {"spec", {{"size", "1Gi"}, {"backend", {{"file", {{"path", name}}}}}}}};
  if (!finalizer.empty()) object["metadata"]["finalizers"] = {finalizer};
  auto made = client_->create(volumes_.path(), object, never_);
  EXPECT_TRUE(made.ok()) << made.error().to_string();
  return made ? std::move(made).value() : json::object();
}

json ApiContractTest::get(const std::string& name) {
  auto got = client_->get(volumes_.path(name), never_);
  EXPECT_TRUE(got.ok()) << got.error().to_string();
  return got ? std::move(got).value() : json::object();
}

std::string ApiContractTest::version(const json& object) {
  return object["metadata"]["resourceVersion"];
}

Result<json> ApiContractTest::apply_status(const std::string& name, const std::string& manager,
                                           const std::string& type, const std::string& reason,
                                           const json& metadata) {
  json object{{"apiVersion", "ublk.dev/v1alpha1"},
              {"kind", "UblkVolume"},
              {"metadata", {{"name", name}}},
              {"status",
               {{"conditions",
                 {{{"type", type},
                   {"status", "True"},
                   {"reason", reason},
                   {"message", "m"},
                   {"lastTransitionTime", "2026-01-01T00:00:00Z"}}}}}}};
  if (metadata.is_object()) object["metadata"].update(metadata);
  return client_->apply(volumes_.path(name, "status"), object, manager, never_);
}

namespace {

TEST_P(ApiContractTest, WhatIsThereIsNotMadeAgain) {
  const json made = create("c1");
  EXPECT_NE(made["metadata"]["uid"], "");
  EXPECT_EQ(made["metadata"]["generation"], 1);
  json again = made;
  again["metadata"] = {{"name", "c1"}};
  EXPECT_EQ(client_->create(volumes_.path(), again, never_).err(), EEXIST);
}

TEST_P(ApiContractTest, WhatIsNotThereIsNotFound) {
  EXPECT_EQ(client_->get(volumes_.path("c1"), never_).err(), ENOENT);
  EXPECT_EQ(client_->remove(volumes_.path("c1"), never_).err(), ENOENT);
  EXPECT_EQ(
      client_->merge_patch(volumes_.path("c1"), {{"spec", json::object()}}, "t", never_).err(),
      ENOENT);
  EXPECT_EQ(apply_status("c1", "t", "Ready", "x").err(), ENOENT);
}

TEST_P(ApiContractTest, AWriteThatRestsOnAnOldVersionIsAConflict) {
  const json old = create("c1");
  const auto newer = client_->merge_patch(
      volumes_.path("c1"), {{"metadata", {{"annotations", {{"a", "b"}}}}}}, "t", never_);
  ASSERT_TRUE(newer.ok());
  EXPECT_NE(version(*newer), version(old));
  EXPECT_EQ(client_->update(volumes_.path("c1"), old, never_).err(), EBUSY);
  const json patch{{"metadata", {{"resourceVersion", version(old)}, {"finalizers", {"a.b/c"}}}}};
  EXPECT_EQ(client_->merge_patch(volumes_.path("c1"), patch, "t", never_).err(), EBUSY);
  EXPECT_EQ(apply_status("c1", "t", "Bound", "x", {{"resourceVersion", version(old)}}).err(),
            EBUSY);
  EXPECT_EQ(version(get("c1")), version(*newer)) << "nothing was written";
  EXPECT_TRUE(apply_status("c1", "t", "Bound", "x", {{"resourceVersion", version(*newer)}}).ok());
}

// So a status must rest on a resourceVersion, if it matters whose it is.
TEST_P(ApiContractTest, TheUidIsNoPreconditionOfAStatus) {
  create("c1");
  EXPECT_TRUE(
      apply_status("c1", "t", "Bound", "x", {{"uid", "00000000-0000-0000-0000-000000000000"}})
          .ok());
}

TEST_P(ApiContractTest, AJsonPatchThatDoesNotFitWritesNothing) {
  create("c1");
  ASSERT_TRUE(client_
                  ->merge_patch(volumes_.path("c1"),
                                {{"metadata", {{"annotations", {{"a", "b"}, {"c", "d"}}}}}}, "t",
                                never_)
                  .ok());
  const auto remove_if = [&](const std::string& value) {
    return client_->json_patch(
        volumes_.path("c1"),
        {{{"op", "remove"}, {"path", "/metadata/annotations/c"}},
         {{"op", "test"}, {"path", "/metadata/annotations/a"}, {"value", value}},
         {{"op", "remove"}, {"path", "/metadata/annotations/a"}}},
        "t", never_);
  };
  EXPECT_EQ(remove_if("other").err(), EINVAL);
  EXPECT_EQ(get("c1")["metadata"]["annotations"].size(), 2U);
  const auto removed = remove_if("b");
  ASSERT_TRUE(removed.ok()) << removed.error().to_string();
  EXPECT_FALSE((*removed)["metadata"].value("annotations", json::object()).contains("a"));
  EXPECT_EQ(remove_if("b").err(), EINVAL) << "it is not there any more";
}

TEST_P(ApiContractTest, AFinalizerKeepsWhatIsDeleted) {
  create("c1", "ublk.dev/device");
  ASSERT_TRUE(client_->remove(volumes_.path("c1"), never_).ok());
  const json kept = get("c1");
  EXPECT_TRUE(kept["metadata"].contains("deletionTimestamp"));
  const auto released = client_->merge_patch(
      volumes_.path("c1"),
      {{"metadata", {{"resourceVersion", version(kept)}, {"finalizers", json::array()}}}}, "t",
      never_);
  EXPECT_TRUE(released.ok()) << released.error().to_string();
  EXPECT_EQ(client_->get(volumes_.path("c1"), never_).err(), ENOENT);
}

TEST_P(ApiContractTest, SpecAndStatusAreWrittenApart) {
  create("c1");
  ASSERT_TRUE(apply_status("c1", "one", "Ready", "a").ok());
  EXPECT_EQ(get("c1")["metadata"]["generation"], 1) << "a status is no new generation";
  const auto bound = client_->merge_patch(
      volumes_.path("c1"), {{"spec", {{"nodeName", "n"}}}, {"status", {{"conditions", nullptr}}}},
      "t", never_);
  ASSERT_TRUE(bound.ok()) << bound.error().to_string();
  EXPECT_EQ((*bound)["metadata"]["generation"], 2);
  EXPECT_EQ((*bound)["status"]["conditions"].size(), 1U) << "not by this path";
}

TEST_P(ApiContractTest, EachManagerHasItsConditions) {
  create("c1");
  ASSERT_TRUE(apply_status("c1", "one", "Ready", "a").ok());
  ASSERT_TRUE(apply_status("c1", "two", "Bound", "b").ok());
  const auto taken = apply_status("c1", "two", "Ready", "c");
  ASSERT_TRUE(taken.ok()) << taken.error().to_string();
  const auto back = apply_status("c1", "one", "Ready", "d");
  ASSERT_TRUE(back.ok()) << back.error().to_string();
  std::string ready;
  for (const auto& condition : (*back)["status"]["conditions"])
    if (condition["type"] == "Ready") ready += condition["reason"].get<std::string>();
  EXPECT_EQ(ready, "d") << "one of its type, and the last word counts";
}

TEST_P(ApiContractTest, WhatChangesNothingIsNoNewVersion) {
  create("c1");
  const auto first = apply_status("c1", "one", "Ready", "a");
  const auto second = apply_status("c1", "one", "Ready", "a");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(version(*first), version(*second));
}

TEST_P(ApiContractTest, AnApplyMakesWhatIsNotThere) {
  const json object{{"apiVersion", "ublk.dev/v1alpha1"},
                    {"kind", "UblkVolume"},
                    {"metadata", {{"name", "c1"}}},
                    {"spec", {{"size", "1Gi"}, {"backend", {{"file", {{"path", "c1"}}}}}}}};
  const auto made = client_->apply(volumes_.path("c1"), object, "t", never_);
  ASSERT_TRUE(made.ok()) << made.error().to_string();
  EXPECT_EQ((*made)["metadata"]["generation"], 1);
}

TEST_P(ApiContractTest, AWatchTellsWhatHappenedSinceTheList) {
  create("c1");
  const auto list = client_->get(volumes_.path() + "?limit=500", never_);
  ASSERT_TRUE(list.ok());
  ASSERT_TRUE(apply_status("c1", "one", "Ready", "a").ok());
  create("c2");
  ASSERT_TRUE(client_->remove(volumes_.path("c1"), never_).ok());
  std::vector<std::string> seen;
  std::vector<std::string> versions;
  const auto watched = transport_->stream(
      {"GET", volumes_.path() + "?watch=1&timeoutSeconds=20&resourceVersion=" + version(*list), "",
       ""},
      std::chrono::seconds(30), never_, [&](std::string_view line) {
        const json event = json::parse(line);
        const json& metadata = event["object"]["metadata"];
        seen.push_back(event["type"].get<std::string>() + " " +
                       metadata["name"].get<std::string>());
        versions.push_back(metadata["resourceVersion"]);
        return seen.size() < 3;
      });
  ASSERT_TRUE(watched.ok()) << watched.error().to_string();
  EXPECT_EQ(seen, (std::vector<std::string>{"MODIFIED c1", "ADDED c2", "DELETED c1"}));
  for (size_t i = 1; i < versions.size(); ++i)
    EXPECT_LT(std::stoull(versions[i - 1]), std::stoull(versions[i]));
}

}  // namespace
}  // namespace ublk_operator::cluster
