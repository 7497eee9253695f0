// The agent of a node whose kernel has no ublk, which is what the machine of the tests mostly is:
// the program, on a real API server.
#include <gmock/gmock.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "tests/cluster/cluster.h"

extern char** environ;

namespace ublk_operator::cluster {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using ::testing::HasSubstr;

class DriverlessNodeClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!available()) GTEST_SKIP() << "no KUBECONFIG; tests/cluster/apiserver.sh gives one";
    if (::access("/sys/class/misc/ublk-control", F_OK) == 0)
      GTEST_SKIP() << "this machine's kernel has ublk";
    if (::geteuid() != 0) GTEST_SKIP() << "the agent runs as root";
    std::string pattern = ::testing::TempDir() + "driverless.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    std::filesystem::create_directory(dir_ + "/pool");
    cluster_ = std::make_unique<Cluster>();
    cluster_->install();
    volumes_ = std::make_unique<Watcher>(cluster_->transport(), kVolumes);
    nodes_ = std::make_unique<Watcher>(cluster_->transport(), kNodes);
    start();
  }
  void TearDown() override {
    if (pid_ > 0) {
      ::kill(pid_, SIGTERM);
      ::waitpid(pid_, nullptr, 0);
    }
    if (!cluster_) return;
    for (const char* name : {"guarded", "bare"}) {
      (void)cluster_->client().merge_patch(kVolumes.path(name),
                                           {{"metadata", {{"finalizers", nullptr}}}}, "test",
                                           cluster_->never());
      (void)cluster_->client().remove(kVolumes.path(name), cluster_->never());
    }
    (void)cluster_->client().remove(kNodes.path("driverless"), cluster_->never());
    const kube::Resource leases{"coordination.k8s.io", "v1", "leases", "ublk-system"};
    (void)cluster_->client().remove(leases.path("ublk-node-driverless"), cluster_->never());
    std::filesystem::remove_all(dir_);
  }
  void start() {
    std::vector<std::string> arguments{UBLK_NODE,
                                       "agent",
                                       "--cluster",
                                       "--node-name=driverless",
                                       "--namespace=ublk-system",
                                       "--state=" + dir_ + "/state",
                                       "--run=" + dir_ + "/run",
                                       "--spawner=" + dir_ + "/spawner.sock",
                                       "--socket=" + dir_ + "/agent.sock",
                                       "--pool=default=" + dir_ + "/pool",
                                       "--pool=disk=" + dir_ + "/pool,require-mount",
                                       "--listen=127.0.0.1:18093"};
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    ASSERT_EQ(::posix_spawn(&pid_, UBLK_NODE, nullptr, nullptr, argv.data(), environ), 0);
  }
  void create(const std::string& name, const json& finalizers) {
    json object{{"apiVersion", "ublk.dev/v1alpha1"},
                {"kind", "UblkVolume"},
                {"metadata", {{"name", name}}},
                {"spec",
                 {{"size", "1Gi"},
                  {"nodeName", "driverless"},
                  {"backend", {{"file", {{"path", name + ".img"}}}}}}}};
    if (!finalizers.empty()) object["metadata"]["finalizers"] = finalizers;
    cluster_->create(kVolumes.path(), object);
  }
  bool becomes(const std::string& name, const std::string& reason) {
    return volumes_->wait(name, [&](const json& object) {
      return condition(object, "Ready").value("reason", "") == reason;
    });
  }
  static std::string page(const std::string& path) {
    kube::ClusterConfig config;
    config.server = "http://127.0.0.1:18093";
    auto transport = kube::make_transport(config);
    const auto answer = (*transport)->call({"GET", path, "", ""}, 5s, kube::Cancel());
    return answer ? std::to_string(answer->status) : answer.error().to_string();
  }

  std::string dir_;
  pid_t pid_ = -1;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<Watcher> volumes_;
  std::unique_ptr<Watcher> nodes_;
};

TEST_F(DriverlessNodeClusterTest, StaysUpSaysSoAndMakesNothing) {
  ASSERT_TRUE(nodes_->wait("driverless", [](const json& object) {
    return condition(object, "Ready").value("reason", "") == "DriverMissing";
  }));
  const json node = cluster_->get(kNodes.path("driverless"));
  EXPECT_EQ(condition(node, "Ready")["status"], "False");
  EXPECT_THAT(condition(node, "Ready")["message"].get<std::string>(), HasSubstr("modprobe"));
  EXPECT_TRUE(node["status"]["modes"].empty());
  const json& pools = node["status"]["pools"];
  ASSERT_EQ(pools.size(), 2U);
  EXPECT_TRUE(pools[0].contains("free"));
  EXPECT_FALSE(pools[1].contains("free")) << "nothing is mounted there";
  EXPECT_THAT(node["status"]["warnings"].dump(), HasSubstr("pool disk"));

  create("guarded", {"ublk.dev/device"});
  create("bare", json::array());
  EXPECT_TRUE(becomes("guarded", "DriverMissing"));
  EXPECT_TRUE(becomes("bare", "AwaitingFinalizer"));
  EXPECT_TRUE(std::filesystem::is_empty(dir_ + "/pool"));
  EXPECT_EQ(page("/healthz"), "200");
  EXPECT_EQ(page("/readyz"), "200") << "or an update of the DaemonSet would stop here";

  // Its end is asked of it as of any node, and it has nothing of the volume.
  cluster_->remove(kVolumes.path("guarded"));
  EXPECT_TRUE(volumes_->wait("guarded", [](const json& object) {
    return condition(object, "DeviceRemoved").value("status", "") == "True";
  }));
  EXPECT_EQ(::waitpid(pid_, nullptr, WNOHANG), 0) << "it goes on";
}

}  // namespace
}  // namespace ublk_operator::cluster
