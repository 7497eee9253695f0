// The controller against an API server in memory: what it writes, when, and when not.
#include "controller/operator/controller.h"

#include <gmock/gmock.h>

#include "common/api/quantity.h"
#include "common/kube/fake_api_server.h"
#include "common/metrics/reference.h"
#include "controller/operator/test_objects.h"

namespace ublk_operator::controller {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using ::testing::Contains;
using ::testing::HasSubstr;

const std::string volumes = "/apis/ublk.dev/v1alpha1/ublkvolumes/";
const std::string nodes = "/apis/ublk.dev/v1alpha1/ublknodes/";
const std::string leases = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/";
const std::string events = "/api/v1/namespaces/default/events";

class ControllerTest : public ::testing::Test {
 protected:
  struct Running {
    metrics::Registry registry;
    std::unique_ptr<Controller> controller;
  };
  std::unique_ptr<Running> start(const std::string& identity,
                                 const std::string& startup_taint = "") {
    auto running = std::make_unique<Running>();
    running->controller = std::make_unique<Controller>(
        server_,
        Controller::Options{
            .namespace_name = "ns", .identity = identity, .startup_taint = startup_taint},
        running->registry, [](const std::string&) {}, null_logger());
    running->controller->start();
    return running;
  }
  void add_node(const std::string& name) {
    server_->put(nodes + name, testing::node_json(name));
    beat(name);
  }
  void beat(const std::string& name) {
    server_->put(leases + "ublk-node-" + name,
                 {{"spec",
                   {{"holderIdentity", "agent"},
                    {"leaseDurationSeconds", 40},
                    {"renewTime", format_time_micro(std::chrono::system_clock::now())},
                    {"beat", ++beats_}}}});
  }
  json condition(const std::string& volume, const std::string& type) const {
    const json object = server_->at(volumes + volume);
    for (const auto& one :
         object.value("status", json::object()).value("conditions", json::array()))
      if (one["type"] == type) return one;
    return json::object();
  }
  bool becomes(const std::string& volume, const std::string& type,
               const std::string& reason) const {
    return server_->wait_until(
        [&] { return condition(volume, type).value("reason", "") == reason; });
  }
  bool is_gone(const std::string& volume) const {
    return server_->wait_until([&] { return server_->at(volumes + volume).is_null(); });
  }
  void erase_softly(const std::string& volume) {
    (void)server_->call({"DELETE", volumes + volume, "", ""}, 1s, kube::Cancel());
  }
  std::vector<std::string> reasons() const {
    std::vector<std::string> all;
    for (const auto& event : server_->below(events)) all.push_back(event["reason"]);
    return all;
  }

  std::shared_ptr<kube::FakeApiServer> server_ = std::make_shared<kube::FakeApiServer>();
  int beats_ = 0;
};

TEST_F(ControllerTest, BindsAndReleasesAVolume) {
  add_node("a");
  server_->put(volumes + "v", testing::volume_json("v"));
  const auto one = start("one");
  ASSERT_TRUE(becomes("v", "Bound", "Bound"));
  const json bound = server_->at(volumes + "v");
  EXPECT_EQ(bound["spec"]["nodeName"], "a");
  EXPECT_EQ(bound["metadata"]["finalizers"], json({"ublk.dev/device"}));
  EXPECT_TRUE(server_->wait_until([&] { return reasons().size() == 1; }));
  EXPECT_THAT(reasons(), Contains("Bound"));

  erase_softly("v");
  EXPECT_FALSE(server_->at(volumes + "v").is_null()) << "the finalizer keeps it";
  json removed = server_->at(volumes + "v");
  removed["status"]["conditions"].push_back({{"type", "DeviceRemoved"}, {"status", "True"}});
  server_->put(volumes + "v", removed);
  EXPECT_TRUE(is_gone("v"));
}

TEST_F(ControllerTest, SaysWhyAndBindsWhenThereIsAPlace) {
  json wants = testing::volume_json("v");
  wants["spec"]["backend"]["file"]["pool"] = "fast";
  server_->put(volumes + "v", wants);
  add_node("a");
  const auto one = start("one");
  ASSERT_TRUE(becomes("v", "Bound", "NoPool"));
  json has = testing::node_json("a");
  has["status"]["pools"].push_back({{"name", "fast"}, {"capacity", "2Gi"}, {"free", "2Gi"}});
  server_->put(nodes + "a", has);
  EXPECT_TRUE(becomes("v", "Bound", "Bound"));
}

TEST_F(ControllerTest, NeverPromisesMoreThanThereIs) {
  add_node("a");  // 9 GiB free
  for (int i = 0; i < 12; ++i)
    server_->put(volumes + std::to_string(i), testing::volume_json(std::to_string(i)));
  const auto one = start("one");
  EXPECT_TRUE(server_->wait_until([&] {
    int bound = 0;
    int refused = 0;
    for (int i = 0; i < 12; ++i) {
      const std::string reason = condition(std::to_string(i), "Bound").value("reason", "");
      bound += reason == "Bound" ? 1 : 0;
      refused += reason == "NoSpace" ? 1 : 0;
    }
    return bound == 9 && refused == 3;
  }));
}

TEST_F(ControllerTest, WritesNothingWhenNothingChanges) {
  add_node("a");
  server_->put(volumes + "v", testing::volume_json("v"));
  const auto one = start("one");
  ASSERT_TRUE(becomes("v", "Bound", "Bound"));
  ASSERT_TRUE(server_->wait_until([&] { return reasons().size() == 1; }));
  const auto volume_writes = [&] {
    const auto all = server_->writes();
    return std::count_if(all.begin(), all.end(), [](const std::string& write) {
      return write.find("ublkvolumes") != std::string::npos;
    });
  };
  EXPECT_EQ(volume_writes(), 2) << "nodeName and finalizer in one, Bound";
  // News that change nothing: renewals, a status, lists after lost watches.
  beat("a");
  json news = server_->at(volumes + "v");
  news["status"]["recoveryCount"] = 7;
  server_->put(volumes + "v", news);
  server_->break_watches(true);
  // Another volume comes later, and is bound later: all of that has been looked at by then.
  server_->put(volumes + "w", testing::volume_json("w"));
  ASSERT_TRUE(becomes("w", "Bound", "Bound"));
  EXPECT_EQ(volume_writes(), 4);
}

TEST_F(ControllerTest, AConflictIsDecidedAnew) {
  add_node("a");
  server_->put(volumes + "v", testing::volume_json("v"));
  int patches = 0;
  server_->interfere(
      [&](const kube::HttpRequest& request) -> std::optional<Result<kube::HttpResponse>> {
        // A person chooses a node while the controller does.
        if (request.method != "PATCH" ||
            request.path.find("/ublkvolumes/v?") == std::string::npos || patches++ > 0)
          return std::nullopt;
        json chosen = server_->at(volumes + "v");
        chosen["spec"]["nodeName"] = "mine";
        server_->put(volumes + "v", chosen);
        return std::nullopt;
      });
  const auto one = start("one");
  ASSERT_TRUE(becomes("v", "Bound", "NodeUnknown"));
  EXPECT_EQ(server_->at(volumes + "v")["spec"]["nodeName"], "mine");
  EXPECT_EQ(server_->at(volumes + "v")["metadata"]["finalizers"], json({"ublk.dev/device"}));
}

TEST_F(ControllerTest, AServerThatFailsIsTriedAgain) {
  add_node("a");
  server_->put(volumes + "v", testing::volume_json("v"));
  std::atomic<int> failures = 0;
  server_->interfere(
      [&](const kube::HttpRequest& request) -> std::optional<Result<kube::HttpResponse>> {
        if (request.method != "PATCH" || failures++ >= 3) return std::nullopt;
        return kube::HttpResponse{500, "{}"};
      });
  const auto one = start("one");
  EXPECT_TRUE(becomes("v", "Bound", "Bound"));
  EXPECT_THAT(one->registry.text(), HasSubstr("ublk_controller_reconcile_errors_total 3\n"));
}

TEST_F(ControllerTest, MarksTheVolumesOfANodeWhoseLeaseIsGone) {
  add_node("a");
  server_->put(volumes + "v", testing::volume_json("v", "a"));
  const auto one = start("one");
  ASSERT_TRUE(becomes("v", "Bound", "Bound"));
  server_->erase(leases + "ublk-node-a");
  EXPECT_TRUE(becomes("v", "Ready", "NodeSilent"));
  EXPECT_EQ(condition("v", "Ready")["status"], "Unknown");
}

TEST_F(ControllerTest, ForceReleaseIsRefusedOnceAndHonouredOnceTheNodeIsSilent) {
  add_node("a");
  server_->put(volumes + "v", testing::volume_json("v", "a"));
  const auto one = start("one");
  ASSERT_TRUE(becomes("v", "Bound", "Bound"));
  erase_softly("v");
  for (int i = 0; i < 3; ++i) {
    json forced = server_->at(volumes + "v");
    forced["metadata"]["annotations"]["ublk.dev/force-release"] = "a";
    forced["metadata"]["annotations"]["turn"] = std::to_string(i);
    server_->put(volumes + "v", forced);
  }
  ASSERT_TRUE(server_->wait_until([&] { return reasons().size() == 1; }));
  EXPECT_THAT(reasons(), Contains("ForceReleaseRefused"));
  server_->erase(leases + "ublk-node-a");
  EXPECT_TRUE(is_gone("v"));
  EXPECT_TRUE(server_->wait_until([&] { return reasons().size() == 2; }));
  for (const auto& event : server_->below(events)) EXPECT_EQ(event["count"], 1);
}

TEST_F(ControllerTest, OnlyTheLeaderActsAndTheNextOneFollowsAtOnce) {
  add_node("a");
  auto one = start("one");
  ASSERT_TRUE(server_->wait_until([&] { return one->controller->leads(); }));
  const auto two = start("two");
  ASSERT_TRUE(server_->wait_until([&] { return two->controller->synced(); }));
  server_->put(volumes + "v", testing::volume_json("v"));
  ASSERT_TRUE(becomes("v", "Bound", "Bound"));
  EXPECT_FALSE(two->controller->leads());
  EXPECT_THAT(two->registry.text(), HasSubstr("ublk_controller_reconcile_total 0\n"));
  one.reset();
  server_->put(volumes + "w", testing::volume_json("w"));
  EXPECT_TRUE(becomes("w", "Bound", "Bound"));
  EXPECT_TRUE(two->controller->leads());
}

TEST_F(ControllerTest, WatchesThatBreakOrExpireLoseNothing) {
  add_node("a");
  const auto one = start("one");
  for (int i = 0; i < 6; ++i) {
    const std::string name = "v" + std::to_string(i);
    server_->break_watches(i % 2 == 0);
    server_->put(volumes + name, testing::volume_json(name));
    EXPECT_TRUE(becomes(name, "Bound", "Bound"));
  }
}

TEST_F(ControllerTest, MetricsSayHowItIs) {
  add_node("a");
  server_->put(volumes + "v", testing::volume_json("v"));
  server_->put(volumes + "o", testing::volume_json("o", "gone"));
  const auto one = start("one", "ublk.dev/agent-not-ready");
  ASSERT_TRUE(becomes("v", "Bound", "Bound"));
  ASSERT_TRUE(becomes("o", "Bound", "NodeUnknown"));
  const std::string text = one->registry.text();
  for (const char* line :
       {"ublk_controller_leader 1\n", "ublk_controller_volumes 2\n",
        "ublk_controller_orphaned_volumes 1\n", "ublk_controller_unbound_volumes 0\n",
        "ublk_controller_nodes 1\n", "ublk_controller_bindings_total{reason=\"Bound\"} 1\n",
        "ublk_controller_watch_age_seconds{resource=\"leases\"} "})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_EQ(metrics::exported_families(text), metrics::documented_families({"ublk_controller_"}));
  EXPECT_TRUE(one->controller->healthy());
}

}  // namespace
}  // namespace ublk_operator::controller
