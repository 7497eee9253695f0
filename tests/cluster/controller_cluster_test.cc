// ublk-controller, the program, on a real API server: what it writes, what it survives. The nodes
// are the tests: they write a UblkNode and renew its Lease as an agent does.
#include <gmock/gmock.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <thread>

#include "common/api/quantity.h"
#include "common/base/unique_fd.h"
#include "common/kube/lease.h"
#include "tests/cluster/cluster.h"
#include "tests/cluster/proxy.h"

extern char** environ;

namespace ublk_operator::cluster {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using Clock = std::chrono::steady_clock;
using ::testing::HasSubstr;

const kube::Resource kLeases = kube::lease_resource("ublk-system");

// The program, with an identity of its own and the rights that the chart gives it.
class Program {
 public:
  Program(const std::string& kubeconfig, const std::string& identity, int port) : port_(port) {
    const std::string listen = "127.0.0.1:" + std::to_string(port);
    std::vector<std::string> arguments{UBLK_CONTROLLER, "--kubeconfig", kubeconfig,
                                       "--namespace",   "ublk-system",  "--identity",
                                       identity,        "--listen",     listen};
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(::posix_spawn(&pid_, UBLK_CONTROLLER, nullptr, nullptr, argv.data(), environ), 0);
  }
  ~Program() { (void)end(SIGKILL); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Its exit status, or minus the signal that ended it.
  int end(int signal) {
    if (pid_ <= 0) return 0;
    ::kill(pid_, signal);
    return wait();
  }
  int wait() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  [[nodiscard]] std::string page(const std::string& path) const {
    kube::ClusterConfig config;
    config.server = "http://127.0.0.1:" + std::to_string(port_);
    auto transport = kube::make_transport(config);
    const auto answer = (*transport)->call({"GET", path, "", ""}, 5s, kube::Cancel());
    return answer ? std::to_string(answer->status) + " " + answer->body
                  : answer.error().to_string();
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  const int port_;
};

// An agent as far as the API sees it: UblkNode, and a Lease that is renewed until it is told not
// to.
class Node {
 public:
  Node(Cluster& cluster, std::string name, int lease_seconds = 6)
      : cluster_(cluster), name_(std::move(name)), lease_seconds_(lease_seconds) {
    apply(kNodes.path(name_), {{"apiVersion", "ublk.dev/v1alpha1"},
                               {"kind", "UblkNode"},
                               {"metadata", {{"name", name_}}}});
    set_pools({{{"name", "default"}, {"path", "/p"}, {"capacity", "100Gi"}, {"free", "90Gi"}}});
    revive();
  }
  ~Node() {
    silence();
    (void)cluster_.client().remove(kNodes.path(name_), cluster_.never());
    (void)cluster_.client().remove(kLeases.path("ublk-node-" + name_), cluster_.never());
  }
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  void set_pools(const json& pools) {
    apply(kNodes.path(name_, "status"),
          {{"apiVersion", "ublk.dev/v1alpha1"},
           {"kind", "UblkNode"},
           {"metadata", {{"name", name_}}},
           {"status",
            {{"kernelRelease", "6.12"},
             {"version", "0.1.0"},
             {"features", json::array()},
             {"warnings", json::array()},
             {"modes", {"None", "Queue", "Reissue"}},
             {"limits", {{"volumes", 1024}, {"queues", 4096}, {"queueDepth", 4096}}},
             {"pools", pools},
             {"conditions",
              {{{"type", "Ready"},
                {"status", "True"},
                {"reason", "Serving"},
                {"message", "ublk works on this node"},
                {"lastTransitionTime", format_now()}}}}}}});
  }
  // What the agent says of a volume.
  void set_status(const std::string& volume, const std::string& type, const std::string& status,
                  const std::string& reason) {
    apply(kVolumes.path(volume, "status"), {{"apiVersion", "ublk.dev/v1alpha1"},
                                            {"kind", "UblkVolume"},
                                            {"metadata", {{"name", volume}}},
                                            {"status",
                                             {{"observedGeneration", 1},
                                              {"conditions",
                                               {{{"type", type},
                                                 {"status", status},
                                                 {"reason", reason},
                                                 {"message", "as the test wants it"},
                                                 {"lastTransitionTime", format_now()}}}}}}});
  }
  void revive() {
    EXPECT_TRUE(beat().ok());
    silent_ = false;
    beating_ = std::thread([this] { run(); });
  }
  void silence() {
    {
      const std::scoped_lock lock(mutex_);
      silent_ = true;
    }
    changed_.notify_all();
    if (beating_.joinable()) beating_.join();
  }

 private:
  void apply(const std::string& path, const json& object) {
    const auto done = cluster_.client().apply(path, object, "ublk-node", cluster_.never());
    EXPECT_TRUE(done.ok()) << done.error().to_string();
  }
  Result<json> beat() {
    return cluster_.client().apply(
        kLeases.path("ublk-node-" + name_),
        {{"apiVersion", "coordination.k8s.io/v1"},
         {"kind", "Lease"},
         {"metadata", {{"name", "ublk-node-" + name_}, {"namespace", "ublk-system"}}},
         {"spec",
          {{"holderIdentity", "test"},
           {"leaseDurationSeconds", lease_seconds_},
           {"renewTime", format_time_micro(std::chrono::system_clock::now())}}}},
        "ublk-node", cluster_.never());
  }
  void run() {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, 1s, [this] { return silent_; })) {
      lock.unlock();
      (void)beat();
      lock.lock();
    }
  }

  Cluster& cluster_;
  const std::string name_;
  const int lease_seconds_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool silent_ = false;
  std::thread beating_;
};

class ControllerClusterTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!available()) return;
    Cluster cluster;
    cluster.install();
    kubeconfig_ = cluster.kubeconfig_of("ublk-controller");
  }
  void SetUp() override {
    if (!available()) GTEST_SKIP() << "no KUBECONFIG; tests/cluster/apiserver.sh gives one";
    cluster_ = std::make_unique<Cluster>();
    volumes_ = std::make_unique<Watcher>(cluster_->transport(), kVolumes);
    leases_ = std::make_unique<Watcher>(cluster_->transport(), kLeases);
    events_ = std::make_unique<Watcher>(cluster_->transport(),
                                        kube::Resource{"", "v1", "events", "default"});
    ASSERT_TRUE(volumes_->wait_synced() && leases_->wait_synced() && events_->wait_synced());
  }
  void TearDown() override {
    if (!cluster_) return;
    const json left = cluster_->get(kVolumes.path() + "?limit=500");
    for (const auto& volume : left.value("items", json::array())) {
      const std::string path = kVolumes.path(volume["metadata"]["name"]);
      (void)cluster_->client().merge_patch(path, {{"metadata", {{"finalizers", nullptr}}}}, "test",
                                           cluster_->never());
      (void)cluster_->client().remove(path, cluster_->never());
    }
    (void)cluster_->client().remove(kLeases.path("ublk-controller"), cluster_->never());
    (void)cluster_->client().remove("/api/v1/namespaces/default/events", cluster_->never());
  }

  void create_volume(const std::string& name, const json& spec = json::object()) {
    json whole{{"size", "1Gi"}, {"backend", {{"file", {{"pool", "default"}, {"path", name}}}}}};
    whole.merge_patch(spec);
    cluster_->create(kVolumes.path(), {{"apiVersion", "ublk.dev/v1alpha1"},
                                       {"kind", "UblkVolume"},
                                       {"metadata", {{"name", name}}},
                                       {"spec", whole}});
  }
  bool becomes(const std::string& name, const std::string& type, const std::string& reason,
               std::chrono::seconds time = 60s) {
    return volumes_->wait(
        name, [&](const json& o) { return condition(o, type).value("reason", "") == reason; },
        time);
  }
  bool is_gone(const std::string& name, std::chrono::seconds time = 60s) {
    return volumes_->wait(name, [](const json& o) { return o.is_null(); }, time);
  }
  bool leader_becomes(const std::string& identity, std::chrono::seconds time = 60s) {
    return leases_->wait(
        "ublk-controller", [&](const json& o) { return kube::read_lease(o).holder == identity; },
        time);
  }
  // An event of that reason about that volume.
  bool said(const std::string& name, const std::string& reason) {
    return events_->wait_any([&](const json& event) {
      return event["involvedObject"]["name"] == name && event["reason"] == reason;
    });
  }

  static inline std::string kubeconfig_;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<Watcher> volumes_;
  std::unique_ptr<Watcher> leases_;
  std::unique_ptr<Watcher> events_;
};

TEST_F(ControllerClusterTest, BindsAVolumeAndLetsItGo) {
  Program program(kubeconfig_, "one", 18091);
  Node node(*cluster_, "n1");
  create_volume("v");
  ASSERT_TRUE(becomes("v", "Bound", "Bound"));
  const json bound = cluster_->get(kVolumes.path("v"));
  EXPECT_EQ(bound["spec"]["nodeName"], "n1");
  EXPECT_EQ(bound["metadata"]["finalizers"], json({"ublk.dev/device"}));
  EXPECT_THAT(program.page("/readyz"), HasSubstr("200"));
  EXPECT_THAT(program.page("/healthz"), HasSubstr("200"));
  EXPECT_THAT(program.page("/metrics"), HasSubstr("ublk_controller_leader 1\n"));

  cluster_->remove(kVolumes.path("v"));
  EXPECT_FALSE(cluster_->get(kVolumes.path("v")).is_null()) << "the finalizer keeps it";
  node.set_status("v", "DeviceRemoved", "True", "Gone");
  EXPECT_TRUE(is_gone("v"));
  EXPECT_TRUE(said("v", "Bound"));
}

TEST_F(ControllerClusterTest, SaysThatNoNodeHasThePoolAndBindsWhenOneHas) {
  Program program(kubeconfig_, "one", 18091);
  Node node(*cluster_, "n1");
  create_volume("v", {{"backend", {{"file", {{"pool", "fast"}}}}}});
  ASSERT_TRUE(becomes("v", "Bound", "NoPool"));
  node.set_pools({{{"name", "fast"}, {"path", "/f"}, {"capacity", "10Gi"}, {"free", "9Gi"}}});
  EXPECT_TRUE(becomes("v", "Bound", "Bound"));
  EXPECT_TRUE(said("v", "NoPool"));
}

TEST_F(ControllerClusterTest, SaysWhatElseIsMissing) {
  Program program(kubeconfig_, "one", 18091);
  create_volume("v", {{"recovery", {{"mode", "FailIO"}}}});
  ASSERT_TRUE(becomes("v", "Bound", "NoNode"));
  Node node(*cluster_, "n1");
  EXPECT_TRUE(becomes("v", "Bound", "ModeUnsupported"));
  EXPECT_TRUE(said("v", "ModeUnsupported"));
  create_volume("w", {{"size", "95Gi"}});
  EXPECT_TRUE(becomes("w", "Bound", "NoSpace"));
  create_volume("x", {{"nodeName", "nowhere"}});
  EXPECT_TRUE(becomes("x", "Bound", "NodeUnknown"));
  EXPECT_TRUE(volumes_->wait("x", [](const json& o) {
    return o["metadata"].value("finalizers", json()) == json({"ublk.dev/device"});
  }));
}

TEST_F(ControllerClusterTest, MarksASilentNodesVolumesAndReleasesByForceOnlyThen) {
  Program program(kubeconfig_, "one", 18091);
  Node node(*cluster_, "n1");
  create_volume("v");
  ASSERT_TRUE(becomes("v", "Bound", "Bound"));
  node.set_status("v", "Ready", "True", "Serving");
  cluster_->remove(kVolumes.path("v"));
  cluster_->patch(kVolumes.path("v"),
                  {{"metadata", {{"annotations", {{"ublk.dev/force-release", "n1"}}}}}});
  // Another one, decided after it, shows that it was looked at.
  create_volume("w", {{"nodeName", "n1"}});
  ASSERT_TRUE(becomes("w", "Bound", "Bound"));
  EXPECT_FALSE(cluster_->get(kVolumes.path("v")).is_null()) << "the node is alive";
  const auto silent = Clock::now();
  node.silence();
  EXPECT_TRUE(is_gone("v"));
  EXPECT_TRUE(becomes("w", "Ready", "NodeSilent"));
  std::printf("released and marked %.1f s after the last renewal (Lease: 6 s)\n",
              seconds_since(silent));
  EXPECT_TRUE(said("v", "ForceReleaseRefused"));
  EXPECT_TRUE(said("v", "ForceReleased"));
  // Back again, the node takes Ready back, and the controller leaves it so.
  node.revive();
  node.set_status("w", "Ready", "True", "Serving");
  create_volume("x");
  ASSERT_TRUE(becomes("x", "Bound", "Bound"));
  EXPECT_EQ(condition(cluster_->get(kVolumes.path("w")), "Ready")["status"], "True");
  EXPECT_EQ(condition(cluster_->get(kVolumes.path("w")), "Bound")["status"], "True");
}

TEST_F(ControllerClusterTest, TheNextLeaderFollowsAtOnceWhenOneLeavesAndInTimeWhenItIsKilled) {
  auto one = std::make_unique<Program>(kubeconfig_, "one", 18091);
  ASSERT_TRUE(leader_becomes("one"));
  Node node(*cluster_, "n1");
  auto two = std::make_unique<Program>(kubeconfig_, "two", 18092);
  create_volume("a");
  ASSERT_TRUE(becomes("a", "Bound", "Bound"));

  auto begun = Clock::now();
  EXPECT_EQ(one->end(SIGTERM), 0);
  const double ended = seconds_since(begun);
  ASSERT_TRUE(leader_becomes("two", 10s));
  std::printf("SIGTERM: ended after %.2f s, next leader after %.2f s\n", ended,
              seconds_since(begun));
  EXPECT_LT(ended, 3);
  create_volume("b");
  ASSERT_TRUE(becomes("b", "Bound", "Bound", 10s));

  one = std::make_unique<Program>(kubeconfig_, "three", 18091);
  create_volume("c");
  ASSERT_TRUE(becomes("c", "Bound", "Bound", 10s));
  begun = Clock::now();
  EXPECT_EQ(two->end(SIGKILL), -SIGKILL);
  create_volume("d");
  EXPECT_TRUE(becomes("d", "Bound", "Bound", 30s));
  std::printf("SIGKILL: the next volume was bound after %.1f s (Lease: 15 s)\n",
              seconds_since(begun));
  EXPECT_EQ(kube::read_lease(leases_->at("ublk-controller")).holder, "three");
}

TEST_F(ControllerClusterTest, GoesOnAfterTheApiServerRestarts) {
  Program program(kubeconfig_, "one", 18091);
  Node node(*cluster_, "n1");
  create_volume("a");
  ASSERT_TRUE(becomes("a", "Bound", "Bound"));
  const auto begun = Clock::now();
  cluster_->stop_api();
  cluster_->start_api();
  std::printf("API server away for %.1f s\n", seconds_since(begun));
  const auto back = Clock::now();
  create_volume("b");
  EXPECT_TRUE(becomes("b", "Bound", "Bound"));
  std::printf("bound %.1f s after it was back\n", seconds_since(back));
}

TEST_F(ControllerClusterTest, GoesOnWhenWhatItMissedIsCompacted) {
  Program program(kubeconfig_, "one", 18091);
  Node node(*cluster_, "n1");
  create_volume("a");
  create_volume("gone");
  ASSERT_TRUE(becomes("a", "Bound", "Bound"));
  ASSERT_TRUE(becomes("gone", "Bound", "Bound"));
  // While the program does not run, versions pass, and their history is compacted away.
  ::kill(program.pid(), SIGSTOP);
  cluster_->patch(kVolumes.path("gone"), {{"metadata", {{"finalizers", nullptr}}}});
  cluster_->remove(kVolumes.path("gone"));
  create_volume("b");
  cluster_->compact();
  cluster_->stop_api();
  cluster_->start_api();
  ::kill(program.pid(), SIGCONT);
  const auto back = Clock::now();
  create_volume("c");
  EXPECT_TRUE(becomes("b", "Bound", "Bound"));
  EXPECT_TRUE(becomes("c", "Bound", "Bound"));
  std::printf("bound %.1f s after the API server was back\n", seconds_since(back));
  const std::string metrics = program.page("/metrics");
  EXPECT_THAT(metrics, HasSubstr("ublk_controller_volumes 3\n"))
      << "what went while it was deaf is known to be gone";
  EXPECT_THAT(metrics,
              HasSubstr("ublk_controller_watch_expired_total{resource=\"ublkvolumes\"} 1\n"));
}

// As when a firewall forgets its connections: nothing comes through them any more, and nobody
// closes them.
TEST_F(ControllerClusterTest, GoesOnWhenItsConnectionsHangSilently) {
  Proxy proxy(api_port());
  Program program(cluster_->kubeconfig_through(proxy.port(), kubeconfig_), "one", 18091);
  Node node(*cluster_, "n1", 20);
  create_volume("a");
  ASSERT_TRUE(becomes("a", "Bound", "Bound"));
  node.set_status("a", "Ready", "True", "Serving");
  const json lease = cluster_->get(kLeases.path("ublk-controller"));
  const json ready = condition(cluster_->get(kVolumes.path("a")), "Ready");
  const auto begun = Clock::now();
  proxy.hang();
  create_volume("b");
  EXPECT_TRUE(becomes("b", "Bound", "Bound", 120s));
  const double took = seconds_since(begun);
  std::printf("bound %.1f s after every connection hung (a watch's time: 50 to 60 s)\n", took);
  EXPECT_GT(took, 30) << "through the proxy";
  EXPECT_LT(took, 85) << "found 10 s after the watch's time";
  EXPECT_EQ(cluster_->get(kLeases.path("ublk-controller"))["spec"]["leaseTransitions"],
            lease["spec"]["leaseTransitions"])
      << "it led all the time";
  EXPECT_EQ(condition(cluster_->get(kVolumes.path("a")), "Ready")["lastTransitionTime"],
            ready["lastTransitionTime"])
      << "what it did not hear is no silence of the node";
}

TEST_F(ControllerClusterTest, ExitsWhenItCannotRenewItsLease) {
  Program program(kubeconfig_, "one", 18091);
  ASSERT_TRUE(leader_becomes("one"));
  const auto begun = Clock::now();
  cluster_->stop_api();
  EXPECT_EQ(program.wait(), 1);
  std::printf("exited %.1f s after the API server went\n", seconds_since(begun));
  EXPECT_LT(seconds_since(begun), 15) << "before another may lead";
  EXPECT_GE(seconds_since(begun), 7);
  cluster_->start_api();
}

}  // namespace
}  // namespace ublk_operator::cluster
