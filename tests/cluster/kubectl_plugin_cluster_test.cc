// `kubectl ublk`, the program as kubectl finds it, on a real API server.
#include <gmock/gmock.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <thread>

#include "tests/cluster/cluster.h"

namespace ublk_operator::cluster {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

struct Outcome {
  int code = -1;
  std::string output;
};

class KubectlPluginClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!available()) GTEST_SKIP() << "no KUBECONFIG; tests/cluster/apiserver.sh gives one";
    std::string pattern = ::testing::TempDir() + "kubectl_plugin.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    std::filesystem::create_symlink(UBLKCTL, dir_ + "/kubectl-ublk");
    cluster_ = std::make_unique<Cluster>();
    cluster_->install();
    cluster_->create(kVolumes.path(),
                     {{"apiVersion", "ublk.dev/v1alpha1"},
                      {"kind", "UblkVolume"},
                      {"metadata", {{"name", "plugin"}}},
                      {"spec", {{"size", "1Gi"}, {"backend", {{"null", json::object()}}}}}});
  }
  void TearDown() override {
    if (!cluster_) return;
    (void)cluster_->client().remove(kVolumes.path("plugin"), cluster_->never());
    std::filesystem::remove_all(dir_);
  }
  // Through kubectl itself; what both streams said.
  Outcome run(const std::string& arguments) const {
    const std::string command = "PATH=" + dir_ + ":$PATH kubectl ublk " + arguments + " 2>&1";
    FILE* pipe = ::popen(command.c_str(), "r");  // NOLINT: words of this test
    Outcome outcome;
    std::array<char, 4096> buffer{};
    for (size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
      outcome.output.append(buffer.data(), n);
    const int status = ::pclose(pipe);
    outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return outcome;
  }
  void set_ready(const char* status) {
    const json object{{"apiVersion", "ublk.dev/v1alpha1"},
                      {"kind", "UblkVolume"},
                      {"metadata", {{"name", "plugin"}}},
                      {"status",
                       {{"state", "LIVE"},
                        {"conditions",
                         {{{"type", "Ready"},
                           {"status", status},
                           {"reason", "Serving"},
                           {"message", "as the test says"},
                           {"observedGeneration", 1},
                           {"lastTransitionTime", "2026-01-01T00:00:00Z"}}}}}}};
    const auto written = cluster_->client().apply(kVolumes.path("plugin", "status"), object, "test",
                                                  cluster_->never());
    ASSERT_TRUE(written.ok()) << written.error().to_string();
  }
  std::string dir_;
  std::unique_ptr<Cluster> cluster_;
};

TEST_F(KubectlPluginClusterTest, GetsAndDescribesWhatThereIs) {
  set_ready("True");
  const Outcome listed = run("get");
  EXPECT_EQ(listed.code, 0) << listed.output;
  EXPECT_THAT(listed.output, HasSubstr("plugin"));
  EXPECT_THAT(listed.output, HasSubstr("LIVE"));
  const Outcome one = run("get plugin -o json");
  ASSERT_EQ(one.code, 0) << one.output;
  EXPECT_EQ(json::parse(one.output)["spec"]["size"], "1Gi");

  const std::string about = cluster_->get(kVolumes.path("plugin"))["metadata"]["uid"];
  cluster_->create("/api/v1/namespaces/default/events",
                   {{"metadata", {{"name", "plugin.1"}, {"namespace", "default"}}},
                    {"involvedObject",
                     {{"apiVersion", "ublk.dev/v1alpha1"},
                      {"kind", "UblkVolume"},
                      {"name", "plugin"},
                      {"uid", about}}},
                    {"type", "Warning"},
                    {"reason", "ServerDied"},
                    {"message", "it was killed"},
                    {"firstTimestamp", "2026-01-01T00:00:00Z"},
                    {"lastTimestamp", "2026-01-01T00:00:00Z"},
                    {"count", 1}});
  const Outcome described = run("describe plugin");
  EXPECT_EQ(described.code, 0);
  EXPECT_THAT(described.output, HasSubstr("as the test says"));
  EXPECT_THAT(described.output, HasSubstr("it was killed"));
  cluster_->remove("/api/v1/namespaces/default/events/plugin.1");
}

TEST_F(KubectlPluginClusterTest, WaitsUntilItIsSo) {
  set_ready("False");
  std::thread later([this] { set_ready("True"); });
  const Outcome waited = run("wait plugin --for=Ready --timeout 60s");
  later.join();
  EXPECT_EQ(waited.code, 0) << waited.output;
  EXPECT_EQ(run("wait plugin --for=state=DEAD --timeout 1s").code, 4);
}

TEST_F(KubectlPluginClusterTest, TakesKubectlsOptionsAndSaysWhatIsWrong) {
  EXPECT_EQ(run("get -n anywhere --kubeconfig \"$KUBECONFIG\"").code, 0);
  const Outcome context = run("get --context nosuch");
  EXPECT_EQ(context.code, 6);
  EXPECT_THAT(context.output, HasSubstr("it has no context \"nosuch\""));
  EXPECT_EQ(run("get nosuch").code, 3);
  const Outcome unbound = run("recover plugin");
  EXPECT_EQ(unbound.code, 1);
  EXPECT_THAT(unbound.output, HasSubstr("no node has it yet"));
}

TEST_F(KubectlPluginClusterTest, WhoMayNotIsToldSo) {
  const kube::Resource accounts{"", "v1", "serviceaccounts", "ublk-system"};
  cluster_->create(accounts.path(), {{"metadata", {{"name", "nobody"}}}});
  const std::string config = cluster_->kubeconfig_of("nobody");
  const Outcome refused = run("get --kubeconfig " + config);
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.output, HasSubstr("ublk-system:nobody"));
  EXPECT_THAT(refused.output, Not(HasSubstr("No volumes found")));
  cluster_->remove(accounts.path("nobody"));
}

TEST_F(KubectlPluginClusterTest, DeletesTheObject) {
  EXPECT_EQ(run("delete plugin --wait").code, 0);
  EXPECT_TRUE(cluster_->get(kVolumes.path("plugin")).is_null());
}

}  // namespace
}  // namespace ublk_operator::cluster
