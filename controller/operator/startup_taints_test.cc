// Which taints go off which node, when, and that no other is lost.
#include "controller/operator/startup_taints.h"

#include <gmock/gmock.h>

#include "common/api/quantity.h"
#include "common/kube/fake_api_server.h"
#include "controller/operator/controller.h"
#include "controller/operator/test_objects.h"

namespace ublk_operator::controller {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

const std::string key = "ublk.dev/agent-not-ready";
const json ours{{"key", key}, {"effect", "NoSchedule"}};
const json theirs{{"key", "example.com/gpu"}, {"effect", "NoExecute"}, {"value", "yes"}};

TEST(UntaintPatchTest, TestsAndRemovesEachOfItsKeyFromTheEnd) {
  json evicts = ours;
  evicts["effect"] = "NoExecute";
  const json node{{"spec", {{"taints", {ours, theirs, evicts}}}}};
  const auto patch = untaint_patch(node, key);
  ASSERT_TRUE(patch);
  EXPECT_EQ(*patch, json::array({{{"op", "test"}, {"path", "/spec/taints/2"}, {"value", evicts}},
                                 {{"op", "remove"}, {"path", "/spec/taints/2"}},
                                 {{"op", "test"}, {"path", "/spec/taints/0"}, {"value", ours}},
                                 {{"op", "remove"}, {"path", "/spec/taints/0"}}}));
  EXPECT_EQ(node.patch(*patch)["spec"]["taints"], json::array({theirs}));
}

TEST(UntaintPatchTest, NothingWhereThatKeyIsNot) {
  EXPECT_FALSE(untaint_patch(json::object(), key));
  EXPECT_FALSE(untaint_patch({{"spec", json::object()}}, key));
  EXPECT_FALSE(untaint_patch({{"spec", {{"taints", json::array({theirs})}}}}, key));
  EXPECT_FALSE(untaint_patch({{"spec", {{"taints", {{{"key", key + "-2"}}}}}}}, key));
}

class StartupTaintsTest : public ::testing::Test {
 protected:
  void start(const std::string& taint = key) {
    controller_ = std::make_unique<Controller>(
        server_,
        Controller::Options{.namespace_name = "ns", .identity = "one", .startup_taint = taint},
        registry_, [](const std::string&) {}, null_logger());
    controller_->start();
  }
  void add_node(const json& taints) { server_->put(node, {{"spec", {{"taints", taints}}}}); }
  void ready(bool is) {
    json object = testing::node_json("a");
    object["status"]["conditions"][0]["status"] = is ? "True" : "False";
    server_->put("/apis/ublk.dev/v1alpha1/ublknodes/a", object);
  }
  // An old one shows that the node is alive only to who saw another before it: two in a row may be
  // heard as one.
  void beat(std::chrono::hours age = 1h) {
    server_->put("/apis/coordination.k8s.io/v1/namespaces/ns/leases/ublk-node-a",
                 {{"spec",
                   {{"holderIdentity", "agent"},
                    {"leaseDurationSeconds", 40},
                    {"renewTime", format_time_micro(std::chrono::system_clock::now() - age)},
                    {"beat", ++beats_}}}});
  }
  bool taints_become(const json& wanted) const {
    return server_->wait_until([&] { return taints() == wanted; });
  }
  [[nodiscard]] json taints() const {
    return server_->at(node).value("spec", json::object()).value("taints", json());
  }
  // Each kind of objects is heard by itself: what must have been heard first is waited for.
  bool says(const std::string& line) const {
    return server_->wait_until([&] { return registry_.text().find(line) != std::string::npos; });
  }
  bool has_seen_the_taint() const { return says("ublk_controller_tainted_nodes 1\n"); }
  // A volume that is bound there shows that the node is known to be alive.
  bool has_seen_it_alive() {
    const std::string volume = "/apis/ublk.dev/v1alpha1/ublkvolumes/v";
    server_->put(volume, testing::volume_json("v"));
    return server_->wait_until([&] { return server_->at(volume)["spec"].contains("nodeName"); });
  }
  // And one that is not, that it was looked at.
  bool has_looked() {
    const std::string volume = "/apis/ublk.dev/v1alpha1/ublkvolumes/w";
    server_->put(volume, testing::volume_json("w"));
    return server_->wait_until([&] { return server_->at(volume).contains("status"); });
  }

  static constexpr const char* node = "/api/v1/nodes/a";
  std::shared_ptr<kube::FakeApiServer> server_ = std::make_shared<kube::FakeApiServer>();
  std::atomic<int> counted_ = 0;  // by what a test interferes with
  metrics::Registry registry_;
  std::unique_ptr<Controller> controller_;
  int beats_ = 0;
};

TEST_F(StartupTaintsTest, ANodeThatServesIsFreedAndKeepsItsOtherTaints) {
  add_node(json::array({theirs, ours}));
  start();
  ASSERT_TRUE(has_seen_the_taint());
  ASSERT_TRUE(has_looked());
  ready(true);
  beat(0h);
  EXPECT_TRUE(taints_become(json::array({theirs})));
  EXPECT_TRUE(says("ublk_controller_tainted_nodes 0\n"));
  EXPECT_TRUE(says("ublk_controller_untainted_nodes_total 1\n"));
}

TEST_F(StartupTaintsTest, ANodeThatIsSilentIsNot) {
  ready(true);  // from an earlier life
  add_node(json::array({ours}));
  start();
  ASSERT_TRUE(has_seen_the_taint());
  ASSERT_TRUE(has_looked());
  EXPECT_EQ(taints(), json::array({ours}));
}

TEST_F(StartupTaintsTest, ANodeThatIsNotReadyIsNotUntilItIs) {
  ready(false);
  add_node(json::array({ours}));
  start();
  ASSERT_TRUE(has_seen_the_taint());
  ASSERT_TRUE(has_looked());
  beat(0h);
  EXPECT_TRUE(says("ublk_controller_silent_nodes 0\n"));
  ASSERT_TRUE(has_looked());
  EXPECT_EQ(taints(), json::array({ours}));
  ready(true);
  EXPECT_TRUE(taints_become(json::array()));
}

// A machine that takes the name of another finds its UblkNode, and a Lease that is still good.
TEST_F(StartupTaintsTest, ANewNodeWaitsForARenewalOfItsOwn) {
  ready(true);
  beat(0h);
  start();
  ASSERT_TRUE(has_seen_it_alive());
  add_node(json::array({ours}));
  ASSERT_TRUE(has_seen_the_taint());
  ready(true);
  ASSERT_TRUE(has_looked());
  EXPECT_EQ(taints(), json::array({ours}));
  beat();
  EXPECT_TRUE(taints_become(json::array()));
}

TEST_F(StartupTaintsTest, ALeaseThatWasThereBeforeTheControllerIsNoRenewal) {
  ready(true);
  beat(0h);
  add_node(json::array({ours}));
  start();
  ASSERT_TRUE(has_seen_the_taint());
  ASSERT_TRUE(has_seen_it_alive());
  ASSERT_TRUE(has_looked());
  EXPECT_EQ(taints(), json::array({ours}));
  beat(0h);
  EXPECT_TRUE(taints_become(json::array()));
}

TEST_F(StartupTaintsTest, AnothersChangeInBetweenIsNotLost) {
  server_->interfere(
      [&](const kube::HttpRequest& request) -> std::optional<Result<kube::HttpResponse>> {
        if (request.method == "PATCH" && request.path.starts_with(node) && counted_++ == 0)
          add_node(json::array({theirs, ours}));
        return std::nullopt;
      });
  add_node(json::array({ours}));
  start();
  ASSERT_TRUE(has_seen_the_taint());
  ASSERT_TRUE(has_looked());
  ready(true);
  beat(0h);
  EXPECT_TRUE(taints_become(json::array({theirs})));
  EXPECT_GE(counted_, 2);
}

TEST_F(StartupTaintsTest, WithoutAKeyNodesAreNotLookedAt) {
  server_->interfere(
      [&](const kube::HttpRequest& request) -> std::optional<Result<kube::HttpResponse>> {
        counted_ += request.path.starts_with("/api/v1/nodes") ? 1 : 0;
        return std::nullopt;
      });
  add_node(json::array({ours}));
  ready(true);
  beat(0h);
  start("");
  ASSERT_TRUE(has_seen_it_alive());
  EXPECT_EQ(counted_, 0);
  EXPECT_EQ(taints(), json::array({ours}));
}

}  // namespace
}  // namespace ublk_operator::controller
