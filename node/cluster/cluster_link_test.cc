// What a node tells the API server, and when: against a server and an agent in memory.
#include "node/cluster/cluster_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>

#include "common/kube/fake_api_server.h"
#include "common/localapi/fake_service.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

const std::string volumes = "/apis/ublk.dev/v1alpha1/ublkvolumes/";

class ClusterLinkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    server_->put("/api/v1/namespaces/kube-system", {{"metadata", {{"uid", "the-cluster"}}}});
    ClusterLinkOptions options;
    options.node_name = "vm1";
    options.namespace_name = "ns";
    options.holder = "pod-1";
    options.node_facts = [this] {
      return json{{"version", version_.load() == 1 ? "1" : "2"}, {"conditions", json::array()}};
    };
    options.plan = {.settle = 10ms,
                    .gap = 50ms,
                    .urgent_gap = 20ms,
                    .back_off_initial = 10ms,
                    .back_off_max = 50ms};
    link_ = std::make_unique<ClusterLink>(server_, options, null_logger());
    source_ = link_->source();
    link_->start(agent_);
  }
  void TearDown() override {
    server_->interfere({});
    link_->stop();
  }

  json object(const std::string& uid, bool deleting = false) const {
    json object{
        {"apiVersion", kApiVersion},
        {"kind", kVolumeKind},
        {"metadata", {{"name", "vol"}, {"uid", uid}, {"generation", 1}}},
        {"spec", {{"nodeName", "vm1"}, {"size", "1Gi"}, {"backend", {{"null", json::object()}}}}}};
    object["metadata"]["finalizers"] = {"ublk.dev/device"};
    if (deleting) object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z";
    return object;
  }
  Volume volume(bool ready, uint64_t recoveries = 0) const {
    Volume volume;
    volume.metadata.name = "vol";
    volume.metadata.uid = "u1";
    volume.spec.size_bytes = 1 << 30;
    volume.status.recovery_count = recoveries;
    set_condition(volume.status.conditions,
                  {"Ready", ready ? ConditionStatus::yes : ConditionStatus::no, "r", "m", 1, "t"},
                  "2026-01-01T00:00:00Z");
    return volume;
  }
  // The agent's looks at its source, until one of them shows that.
  bool source_says(const std::function<bool(const SourceView&)>& holds) {
    pollfd fd{source_->fd(), POLLIN, 0};
    while (!holds(source_->scan(accepted_))) {
      if (::poll(&fd, 1, 10'000) <= 0) return false;
      (void)source_->process_events();
    }
    return true;
  }
  std::string condition(const std::string& type) const {
    const json status = server_->at(volumes + "vol").value("status", json::object());
    for (const auto& one : status.value("conditions", json::array()))
      if (one["type"] == type) return one["status"];
    return "";
  }
  unsigned status_writes() const {
    unsigned count = 0;
    for (const auto& write : server_->writes())
      count += write.find("ublkvolumes/vol/status") == std::string::npos ? 0U : 1U;
    return count;
  }

  std::atomic<int> version_ = 1;
  std::shared_ptr<kube::FakeApiServer> server_ = std::make_shared<kube::FakeApiServer>();
  FakeVolumeService agent_;
  std::unique_ptr<ClusterLink> link_;
  std::unique_ptr<VolumeSource> source_;
  std::map<std::string, AcceptedVolume> accepted_;
};

TEST_F(ClusterLinkTest, AnObjectReachesTheAgentAndItsStatusComesBack) {
  server_->put(volumes + "vol", object("u1"));
  ASSERT_TRUE(source_says([](const SourceView& view) { return view.volumes.contains("vol"); }));
  agent_.put(volume(true));
  EXPECT_TRUE(server_->wait_until([&] { return condition("Ready") == "True"; }));
}

TEST_F(ClusterLinkTest, TheNodeBeatsAndSaysWhatItIs) {
  EXPECT_TRUE(server_->wait_until([&] {
    const json lease =
        server_->at("/apis/coordination.k8s.io/v1/namespaces/ns/leases/ublk-node-vm1");
    return !lease.is_null() && lease["spec"]["holderIdentity"] == "pod-1";
  }));
  EXPECT_TRUE(server_->wait_until([&] {
    const json node = server_->at("/apis/ublk.dev/v1alpha1/ublknodes/vm1");
    return !node.is_null() && node.contains("status") && node["status"]["version"] == "1";
  }));
}

TEST_F(ClusterLinkTest, ANodeThatChangedSaysSoAtOnce) {
  const auto says = [&](const char* version) {
    return server_->wait_until([&] {
      const json node = server_->at("/apis/ublk.dev/v1alpha1/ublknodes/vm1");
      return !node.is_null() && node.contains("status") && node["status"]["version"] == version;
    });
  };
  ASSERT_TRUE(says("1"));
  version_ = 2;
  link_->node_changed();
  EXPECT_TRUE(says("2"));
}

TEST_F(ClusterLinkTest, AVolumeThatGoesWhileItsStatusIsWrittenIsSaidToBeGoneAllTheSame) {
  server_->put(volumes + "vol", object("u1", true));
  ASSERT_TRUE(source_says([](const SourceView& view) { return view.removed.contains("vol"); }));
  std::atomic<bool> once = true;
  server_->interfere([&](const kube::HttpRequest& request) {
    if (request.method == "PATCH" && request.path.find("vol/status") != std::string::npos &&
        once.exchange(false))
      agent_.erase("vol");
    return std::nullopt;
  });
  agent_.put(volume(false));
  EXPECT_TRUE(server_->wait_until([&] { return condition("DeviceRemoved") == "True"; }));
}

TEST_F(ClusterLinkTest, WhatCannotBeSaidIsTriedAgainAndAsksNothingOfTheAgentMeanwhile) {
  server_->put(volumes + "vol", object("u1", true));
  ASSERT_TRUE(source_says([](const SourceView& view) { return view.removed.contains("vol"); }));
  std::atomic<unsigned> refusals = 0;
  server_->interfere(
      [&](const kube::HttpRequest& request) -> std::optional<Result<kube::HttpResponse>> {
        if (request.path.find("vol/status") == std::string::npos || ++refusals > 3)
          return std::nullopt;
        return Result<kube::HttpResponse>(kube::HttpResponse{500, "{}"});
      });
  agent_.put(volume(false));
  agent_.erase("vol");
  EXPECT_TRUE(source_->scan(accepted_).removed.empty());
  EXPECT_TRUE(server_->wait_until([&] { return condition("DeviceRemoved") == "True"; }));
  EXPECT_GE(refusals, 4U);
}

TEST_F(ClusterLinkTest, AfterAnOutageOnlyWhatHoldsNowIsWritten) {
  server_->put(volumes + "vol", object("u1"));
  ASSERT_TRUE(source_says([](const SourceView& view) { return view.volumes.contains("vol"); }));
  std::atomic<bool> down = true;
  std::atomic<unsigned> tries = 0;
  server_->interfere(
      [&](const kube::HttpRequest& request) -> std::optional<Result<kube::HttpResponse>> {
        if (!down) return std::nullopt;
        tries += request.path.find("vol/status") == std::string::npos ? 0U : 1U;
        return Result<kube::HttpResponse>(Error{ENOTCONN, "http", "server", "down"});
      });
  for (uint64_t i = 1; i <= 5; ++i) {
    agent_.put(volume(false, i));
    agent_.put(volume(true, i));
  }
  ASSERT_TRUE(server_->wait_until([&] { return tries >= 2; }));
  const unsigned before = status_writes();
  down = false;
  ASSERT_TRUE(server_->wait_until([&] { return condition("Ready") == "True"; }));
  EXPECT_EQ(server_->at(volumes + "vol")["status"]["recoveryCount"], 5);
  EXPECT_LE(status_writes(), before + 1);
}

TEST_F(ClusterLinkTest, ANodeThatWasTakenForSilentTakesItsWordBack) {
  server_->put(volumes + "vol", object("u1"));
  ASSERT_TRUE(source_says([](const SourceView& view) { return view.volumes.contains("vol"); }));
  agent_.put(volume(true));
  ASSERT_TRUE(server_->wait_until([&] { return condition("Ready") == "True"; }));
  json silenced = server_->at(volumes + "vol");
  silenced["status"]["conditions"] = {
      {{"type", "Ready"}, {"status", "Unknown"}, {"reason", "NodeSilent"}}};
  server_->put(volumes + "vol", silenced);
  EXPECT_TRUE(server_->wait_until([&] { return condition("Ready") == "True"; }));
}

TEST_F(ClusterLinkTest, WithoutItsFinalizerAVolumeWaitsAndSaysSo) {
  json bare = object("u1");
  bare["metadata"].erase("finalizers");
  server_->put(volumes + "vol", bare);
  pollfd fd{source_->fd(), POLLIN, 0};
  const auto reason = [&] {
    const json status = server_->at(volumes + "vol").value("status", json::object());
    const auto conditions = status.value("conditions", json::array());
    return conditions.empty() ? "" : conditions[0].value("reason", "");
  };
  // The agent looks whenever it is told to.
  std::atomic<bool> done = false;
  bool made = false;
  std::thread agent([&] {
    while (!done) {
      if (::poll(&fd, 1, 20) > 0) (void)source_->process_events();
      made = made || source_->scan(accepted_).volumes.contains("vol");
    }
  });
  const bool said = server_->wait_until([&] { return reason() == "AwaitingFinalizer"; });
  done = true;
  agent.join();
  EXPECT_TRUE(said);
  EXPECT_FALSE(made);
  json guarded = server_->at(volumes + "vol");
  guarded["metadata"]["finalizers"] = {"ublk.dev/device"};
  server_->put(volumes + "vol", guarded);
  ASSERT_TRUE(source_says([](const SourceView& view) { return view.volumes.contains("vol"); }));
  agent_.put(volume(true));
  EXPECT_TRUE(server_->wait_until([&] { return condition("Ready") == "True"; }));
}

TEST_F(ClusterLinkTest, WhatTheAgentHasAlreadyNeedsNoFinalizer) {
  json bare = object("u1");
  bare["metadata"].erase("finalizers");
  server_->put(volumes + "vol", bare);
  accepted_["vol"] = {{"ublkvolumes/vol", "cluster:the-cluster"}, "u1"};
  ASSERT_TRUE(source_says([](const SourceView& view) { return view.volumes.contains("vol"); }));
  agent_.put(volume(true));
  EXPECT_TRUE(server_->wait_until([&] { return condition("Ready") == "True"; }));
}

TEST_F(ClusterLinkTest, AnotherObjectOfTheNameGetsNoStatusOfThisVolume) {
  server_->put(volumes + "vol", object("u2"));
  ASSERT_TRUE(source_says([](const SourceView& view) { return view.volumes.contains("vol"); }));
  agent_.put(volume(true));  // of the object before it
  ASSERT_TRUE(server_->wait_until(
      [&] { return !server_->at("/apis/ublk.dev/v1alpha1/ublknodes/vm1").is_null(); }));
  EXPECT_EQ(condition("Ready"), "");
}

}  // namespace
}  // namespace ublk_operator
