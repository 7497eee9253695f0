// `kubectl ublk`, on an API server in memory.
#include "cli/cluster_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <sstream>
#include <thread>

#include "cli/ublkctl.h"
#include "common/kube/fake_api_server.h"
#include "common/localapi/fake_service.h"

namespace ublk_operator {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string volumes = "/apis/ublk.dev/v1alpha1/ublkvolumes/";
const std::string events = "/api/v1/namespaces/default/events/";

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

class ClusterServiceTest : public ::testing::Test {
 protected:
  void SetUp() override { server_->put(volumes + "pgdata", object("True")); }
  static json object(const std::string& ready) {
    return {
        {"apiVersion", kApiVersion},
        {"kind", kVolumeKind},
        {"metadata",
         {{"name", "pgdata"},
          {"uid", "u1"},
          {"generation", 2},
          {"creationTimestamp", "2026-01-01T00:00:00Z"},
          {"finalizers", {"ublk.dev/device"}}}},
        {"spec", {{"nodeName", "vm1"}, {"size", "1Gi"}, {"backend", {{"null", json::object()}}}}},
        {"status",
         {{"state", "LIVE"},
          {"devicePath", "/dev/ublkb0"},
          {"recoveryCount", 3},
          {"conditions",
           {{{"type", "Bound"}, {"status", "True"}, {"reason", "Bound"}, {"message", ""}},
            {{"type", "Ready"},
             {"status", ready},
             {"reason", "Serving"},
             {"message", "/dev/ublkb0 is served"},
             {"observedGeneration", 2}}}}}}};
  }
  void add_event(const std::string& name, const std::string& reason) {
    server_->put(events + name + "." + reason,
                 {{"metadata", {{"name", name + "." + reason}, {"namespace", "default"}}},
                  {"involvedObject", {{"kind", kVolumeKind}, {"name", name}}},
                  {"type", "Warning"},
                  {"reason", reason},
                  {"message", "it did"},
                  {"firstTimestamp", "2026-01-01T00:00:00Z"},
                  {"lastTimestamp", "2026-01-01T00:00:09Z"},
                  {"count", 2}});
  }
  Outcome run(const std::vector<std::string>& arguments, bool plugin = true) {
    std::istringstream in;
    std::ostringstream out;
    std::ostringstream err;
    const Environment environment{
        .in = in,
        .out = out,
        .err = err,
        .connect = [](const std::string&) { return std::make_unique<FakeVolumeService>(); },
        .preflight = [] { return std::vector<PreflightCheck>(); },
        .local_facts = [] { return json{{"uname", "Linux"}}; },
        .connect_cluster =
            [this](const ClusterTarget& target) -> Result<std::unique_ptr<VolumeService>> {
          target_ = target;
          if (refusal_) return *refusal_;
          return std::unique_ptr<VolumeService>(
              std::make_unique<ClusterService>(server_, target.namespace_name));
        },
        .plugin = plugin};
    const int code = run_ublkctl(arguments, environment);
    return {code, out.str(), err.str()};
  }

  std::shared_ptr<kube::FakeApiServer> server_ = std::make_shared<kube::FakeApiServer>();
  ClusterTarget target_;
  std::optional<Error> refusal_;
};

TEST_F(ClusterServiceTest, GetShowsTheNodeToo) {
  const Outcome got = run({"get"});
  EXPECT_EQ(got.code, 0) << got.err;
  EXPECT_EQ(got.out,
            "NAME     NODE   SIZE   MODE      STATE   READY   RECOVERIES   DEVICE\n"
            "pgdata   vm1    1Gi    Reissue   LIVE    True    3            /dev/ublkb0\n");
  const json one = json::parse(run({"get", "pgdata", "-o", "json"}).out);
  EXPECT_EQ(one["spec"]["nodeName"], "vm1");
  EXPECT_EQ(one["status"]["recoveryCount"], 3);
  EXPECT_EQ(run({"get", "nosuch"}).code, 3);
}

TEST_F(ClusterServiceTest, KubectlsOptionsSayWhichCluster) {
  EXPECT_EQ(run({"get", "-n", "ops", "--context", "lab", "--kubeconfig", "/k"}).code, 0);
  EXPECT_EQ(target_.namespace_name, "ops");
  EXPECT_EQ(target_.context, "lab");
  EXPECT_EQ(target_.kubeconfig, "/k");
  EXPECT_THAT(run({"--context", "lab", "get"}, false).out, HasSubstr("pgdata"))
      << "ublkctl with a context means a cluster";
  EXPECT_THAT(run({"get"}, false).out, Not(HasSubstr("pgdata"))) << "ublkctl means this machine";
  EXPECT_THAT(run({"--socket", "/s", "get"}).out, Not(HasSubstr("pgdata")));
}

TEST_F(ClusterServiceTest, DescribeHasConditionsAndEventsOfThisVolume) {
  add_event("pgdata", "ServerDied");
  add_event("other", "Elsewhere");
  const Outcome got = run({"describe", "pgdata"});
  EXPECT_EQ(got.code, 0) << got.err;
  EXPECT_THAT(got.out, HasSubstr("vm1"));
  EXPECT_THAT(got.out, HasSubstr("/dev/ublkb0 is served"));
  EXPECT_THAT(got.out, HasSubstr("ServerDied"));
  EXPECT_THAT(got.out, Not(HasSubstr("Elsewhere")));
  EXPECT_THAT(got.out, Not(HasSubstr("I/O of the present server")));
}

TEST_F(ClusterServiceTest, EventsOfAllVolumes) {
  add_event("pgdata", "ServerDied");
  add_event("other", "Elsewhere");
  const json listed = json::parse(run({"events", "-o", "json"}).out);
  ASSERT_EQ(listed["items"].size(), 2U);
  EXPECT_EQ(listed["items"][0]["count"], 2);
}

TEST_F(ClusterServiceTest, WaitIsWokenByTheWatch) {
  server_->put(volumes + "pgdata", object("False"));
  std::thread later([&] {
    // Once somebody watches: this is what it waits for.
    server_->put(volumes + "pgdata", object("True"));
  });
  const Outcome got = run({"wait", "pgdata", "--for=Ready", "--timeout", "20s"});
  later.join();
  EXPECT_EQ(got.code, 0) << got.err;
  EXPECT_EQ(got.out, "volume/pgdata condition met\n");
  EXPECT_EQ(run({"wait", "pgdata", "--for=condition=Bound", "--timeout", "0s"}).code, 0);
  EXPECT_EQ(run({"wait", "pgdata", "--for=state=DEAD", "--timeout", "0s"}).code, 4);
  EXPECT_EQ(run({"wait", "nosuch", "--for=Ready", "--timeout", "0s"}).code, 3);
}

TEST_F(ClusterServiceTest, AWatchTellsOfWhatCameChangedAndWent) {
  ClusterService service(server_, "ublk-system");
  std::atomic<unsigned> ready = 0;
  std::atomic<bool> gone = false;
  const uint64_t id =
      service.watch([&](const std::string& name, const std::optional<Volume>& volume) {
        if (name != "pgdata") return;
        if (!volume) {
          gone = true;
          return;
        }
        const auto* condition = find_condition(volume->status.conditions, "Ready");
        ready += condition != nullptr && condition->status == ConditionStatus::yes ? 1U : 0U;
      });
  ASSERT_NE(id, 0U);
  EXPECT_TRUE(server_->wait_until([&] {
    // The reflector's listener runs after the server's answer, which is what wakes this.
    if (ready == 0) server_->put(volumes + "pgdata", object("True"));
    return ready > 0;
  }));
  EXPECT_TRUE(server_->wait_until([&] {
    if (!gone) server_->erase(volumes + "pgdata");
    return gone.load();
  }));
  service.unwatch(id);
}

TEST_F(ClusterServiceTest, WhatIsTheNodesSaysWithWhichCommand) {
  const Outcome recover = run({"recover", "pgdata", "-n", "ops"});
  EXPECT_EQ(recover.code, 1);
  EXPECT_THAT(recover.err, HasSubstr("kubectl ublk: EOPNOTSUPP recover volume pgdata"));
  EXPECT_THAT(recover.err, HasSubstr("kubectl exec -n ops"));
  EXPECT_THAT(recover.err, HasSubstr("spec.nodeName=vm1"));
  EXPECT_THAT(recover.err, HasSubstr("-- ublkctl recover pgdata"));
  EXPECT_THAT(run({"pause", "pgdata"}).err, HasSubstr("-- ublkctl pause pgdata"));
  EXPECT_THAT(run({"stop", "--force", "pgdata"}).err, HasSubstr("-- ublkctl stop --force pgdata"));
  EXPECT_THAT(run({"stop", "pgdata"}).err,
              HasSubstr("kubectl patch ublkvolume pgdata --type=merge"));
  EXPECT_EQ(run({"recover", "nosuch"}).code, 3);
}

TEST_F(ClusterServiceTest, DeleteDeletesTheObject) {
  EXPECT_EQ(run({"delete", "pgdata"}).code, 0);
  EXPECT_EQ(run({"delete", "nosuch"}).code, 3);
  EXPECT_THAT(server_->writes(), ::testing::Contains("DELETE " + volumes + "pgdata"));
}

// `delete "$VOLUME"` of a script whose variable is empty.
TEST_F(ClusterServiceTest, WhatIsNoNameIsRefusedBeforeAnythingIsAsked) {
  for (const char* name : {"", "a/b", "..", "pgdata?x=y", "PgData"}) {
    const Outcome got = run({"delete", name});
    EXPECT_EQ(got.code, 2) << name;
    EXPECT_THAT(got.err, HasSubstr("'" + std::string(name) + "' is no volume's name"));
    EXPECT_EQ(run({"get", name}).code, 2) << name;
    EXPECT_EQ(run({"events", name}).code, 2) << name;
  }
  EXPECT_THAT(server_->writes(), ::testing::IsEmpty());
}

TEST_F(ClusterServiceTest, AnObjectOfANewerVersionIsListedAllTheSame) {
  json newer = object("True");
  newer["spec"]["replicas"] = 3;
  server_->put(volumes + "pgdata", newer);
  const Outcome got = run({"get"});
  EXPECT_THAT(got.out, HasSubstr("pgdata   vm1"));
  EXPECT_THAT(got.out, HasSubstr("LIVE"));
}

TEST_F(ClusterServiceTest, AClusterThatCannotBeReachedIsItsOwnExitCode) {
  server_->interfere([](const kube::HttpRequest&) {
    return std::optional<Result<kube::HttpResponse>>(
        Result<kube::HttpResponse>(Error{ENOTCONN, "http", "server", "refused"}));
  });
  EXPECT_EQ(run({"get"}).code, 6);
  EXPECT_EQ(run({"wait", "pgdata", "--for=Ready", "--timeout", "5s"}).code, 6);
  server_->interfere({});
  refusal_ = Error{ENOENT, "kubeconfig", "/k", "no such file"};
  EXPECT_EQ(run({"get"}).code, 6);
  EXPECT_THAT(run({"get"}).err, HasSubstr("/k"));
  EXPECT_EQ(run({"version"}).code, 0) << "needs no cluster";
}

TEST_F(ClusterServiceTest, TheBundleIsTheClustersAndNotThisMachines) {
  const json bundle = json::parse(run({"support-bundle"}).out);
  EXPECT_EQ(bundle["cluster"]["volumes"].size(), 1U);
  EXPECT_FALSE(bundle.contains("host"));
}

}  // namespace
}  // namespace ublk_operator
