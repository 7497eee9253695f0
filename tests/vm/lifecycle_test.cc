// Daily use of one host: the link and the device node, changes of the folder, restarts of the agent
// and ublkctl, from the first manifest to the removal of the last.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/vm/application.h"
#include "tests/vm/disk.h"
#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string link_target(const std::string& link) {
  std::error_code missing;
  const auto target = fs::canonical(link, missing);
  return missing ? "(" + missing.message() + ")" : target.string();
}

// --- the link ------------------------------------------------------------------------------------

class LinkTest : public ::testing::TestWithParam<std::string> {};

TEST_P(LinkTest, PointsToTheDeviceInAllPhasesAndGoesWithTheVolume) {
  LabNode node;
  node.apply({.mode = GetParam(), .size = "4Mi"});
  ASSERT_TRUE(node.wait_ready("vol"));
  const std::string link = node.device("vol");
  EXPECT_EQ(link_target(link), node.get("vol").status.device_path);
  EXPECT_EQ(node.get("vol").status.link_path, link);

  if (GetParam() != "None") {  // there, no device is left while there is no server
    ASSERT_TRUE(node.api().pause("vol", true).ok());
    ASSERT_TRUE(node.wait_condition("vol", "Paused", "True"));
    node.kill_server("vol");
    ASSERT_TRUE(node.wait("vol", "QUIESCED",
                          [&](const auto&) { return node.kernel_state("vol") == "QUIESCED"; }));
    EXPECT_EQ(link_target(link), node.get("vol").status.device_path);
    ASSERT_TRUE(node.api().pause("vol", false).ok());
  } else {
    node.kill_server("vol");
  }
  ASSERT_TRUE(node.wait_recovered("vol", 0));
  EXPECT_EQ(link_target(link), node.get("vol").status.device_path);

  // Another device under the same name.
  node.apply({.mode = GetParam(), .size = "8Mi"});
  ASSERT_TRUE(node.wait("vol", "larger", [](const auto& v) {
    return v && v->status.size_bytes == 8U << 20 && v->status.state == "LIVE";
  }));
  EXPECT_EQ(link_target(link), node.get("vol").status.device_path);

  node.remove_manifest("vol.yaml");
  ASSERT_TRUE(node.wait_gone("vol"));
  EXPECT_FALSE(fs::is_symlink(link));
}

INSTANTIATE_TEST_SUITE_P(Modes, LinkTest, ::testing::Values("Reissue", "None"),
                         [](const auto& mode) { return mode.param; });

// --- owner, group and mode -----------------------------------------------------------------------

// The shipped rule, as if it were installed.
class UdevRule {
 public:
  UdevRule() {
    fs::create_directories("/run/udev/rules.d");
    fs::copy_file(UBLK_UDEV_RULE, path, fs::copy_options::overwrite_existing);
    // What udev still has to do for the devices of other tests it does by other rules.
    works_ = shell("udevadm settle --timeout=60 && udevadm control --reload") == 0;
  }
  ~UdevRule() {
    fs::remove(path);
    (void)shell("udevadm control --reload");
  }
  UdevRule(const UdevRule&) = delete;
  UdevRule& operator=(const UdevRule&) = delete;
  [[nodiscard]] bool works() const { return works_; }

 private:
  static constexpr const char* path = "/run/udev/rules.d/60-ublk-operator.rules";
  bool works_ = false;
};

// "1234 6 640"
std::string access_of(const std::string& device) {
  return shell_output("stat -L -c '%u %g %a' " + device);
}
// What udev makes of the device, for failure messages.
std::string udev_story(const std::string& device) {
  return shell_output("udevadm test $(udevadm info -q path " + device + ") | tail -n 40");
}
// udev applies its rules to the device once more.
void trigger_udev(const std::string& device) {
  ASSERT_EQ(
      shell("udevadm trigger --action=change --settle --name-match=$(readlink -f " + device + ")"),
      0);
}

TEST(DeviceAccessTest, ComesFromTheSpecAndNothingElseChangesIt) {
  LabNode node;
  const UdevRule rule;
  if (!rule.works()) GTEST_SKIP() << "no udevd runs here";
  const auto with = [](const std::string& access) {
    return ManifestOptions{.size = "4Mi", .extra = "  device:\n" + access};
  };
  node.apply(with("    owner: \"1234\"\n    group: \"4321\"\n    mode: \"0640\"\n"));
  ASSERT_TRUE(node.wait_ready("vol"));
  ASSERT_EQ(shell("udevadm settle --timeout=60"), 0);
  EXPECT_EQ(access_of(node.device("vol")), "1234 4321 640\n") << udev_story(node.device("vol"));
  trigger_udev(node.device("vol"));
  EXPECT_EQ(access_of(node.device("vol")), "1234 4321 640\n");

  // It changes alive, and udev is told.
  const pid_t server = node.server_pid("vol");
  node.apply(with("    owner: \"77\"\n    mode: \"0600\"\n"));
  ASSERT_TRUE(node.wait("vol", "of the new mode",
                        [&](const auto& v) { return v && v->status.observed_generation == 2; }));
  const std::string changed =
      "77 " + shell_output("getent group disk | cut -d: -f3 | tr -d '\\n'") + " 600\n";
  EXPECT_EQ(access_of(node.device("vol")), changed);
  trigger_udev(node.device("vol"));
  EXPECT_EQ(access_of(node.device("vol")), changed);
  EXPECT_EQ(node.server_pid("vol"), server);

  node.kill_server("vol");
  ASSERT_TRUE(node.wait_recovered("vol", 0));
  ASSERT_EQ(shell("udevadm settle --timeout=60"), 0);
  EXPECT_EQ(access_of(node.device("vol")), changed) << "and a recovery changes nothing";
}

// --- the folder ----------------------------------------------------------------------------------

TEST(FolderTest, AddingEditingAndRemovingTakeEffectAtOnce) {
  using Clock = std::chrono::steady_clock;
  LabNode node;
  node.apply({.name = "first", .size = "4Mi"});  // all programs are in memory from here on
  ASSERT_TRUE(node.wait_ready("first"));
  const auto report = [](const char* what, Clock::time_point since) {
    const auto time = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - since);
    std::printf("%s took effect after %ld ms\n", what, static_cast<long>(time.count()));
    // Promised is 1 s; a VM without KVM on a busy machine is several times slower than that.
    EXPECT_LT(time, 5s) << what;
  };
  auto start = Clock::now();
  node.apply({.size = "4Mi", .extra = "  running: false\n"});
  ASSERT_TRUE(node.wait_condition("vol", "Ready", "False", "Stopped"));
  report("adding", start);
  start = Clock::now();
  node.apply({.size = "4Mi"});
  ASSERT_TRUE(node.wait("vol", "changed",
                        [](const auto& v) { return v && v->status.observed_generation == 2; }));
  report("editing", start);
  ASSERT_TRUE(node.wait_ready("vol"));
  start = Clock::now();
  node.remove_manifest("vol.yaml");
  ASSERT_TRUE(node.wait_gone("vol"));
  report("removing", start);
  EXPECT_EQ(node.kernel_state("first"), "LIVE");
}

// --- the agent -----------------------------------------------------------------------------------

TEST(AgentTest, ItsEndLeavesEverythingServedAndTheNextOneAdopts) {
  LabNode node;
  node.apply({.size = "16Mi"});
  ASSERT_TRUE(node.wait_ready("vol"));
  const Volume before = node.get("vol");
  Application application(node.device("vol"), 5ms);
  ASSERT_TRUE(application.progress(3));
  node.terminate_agent();
  EXPECT_TRUE(application.progress(10));
  EXPECT_EQ(link_target(node.device("vol")), before.status.device_path);
  node.start_agent();
  ASSERT_TRUE(node.wait_ready("vol"));
  const Volume after = node.get("vol");
  EXPECT_EQ(after.status.server_pid, before.status.server_pid);
  EXPECT_EQ(after.status.device_id, before.status.device_id);
  EXPECT_EQ(after.status.lease_generation, before.status.lease_generation);
  EXPECT_EQ(after.metadata.generation, before.metadata.generation);
  EXPECT_TRUE(node.has_event("vol", "ServerAdopted"));
  // Adopted means: its death is noticed.
  node.kill_server("vol");
  ASSERT_TRUE(node.wait_recovered("vol", 0));
  EXPECT_TRUE(application.progress(3));
  application.stop();
  EXPECT_EQ(application.errors(), 0U);
  EXPECT_EQ(application.verify_all(), 0);
}

// What was changed while no agent was there is seen by the next one.
TEST(AgentTest, TheNextOneSeesWhatChangedMeanwhile) {
  LabNode node;
  node.apply({.name = "gone", .size = "4Mi"});
  node.apply({.name = "changed", .size = "4Mi"});
  ASSERT_TRUE(node.wait_ready("gone"));
  ASSERT_TRUE(node.wait_ready("changed"));
  node.kill_agent();
  node.remove_manifest("gone.yaml");
  node.apply({.name = "changed", .size = "4Mi", .extra = "  running: false\n"});
  node.apply({.name = "added", .size = "4Mi"});
  node.start_agent();
  EXPECT_TRUE(node.wait_ready("added"));
  EXPECT_TRUE(node.wait_condition("changed", "Ready", "False", "Stopped"));
  EXPECT_TRUE(node.wait_gone("gone"));
}

pid_t parent_of(pid_t pid) {
  const std::string text =
      shell_output("awk '/^PPid/ {print $2}' /proc/" + std::to_string(pid) + "/status");
  return static_cast<pid_t>(std::strtol(text.c_str(), nullptr, 10));
}

TEST(RunTest, StartsASpawnerThatOutlivesIt) {
  LabNode node({.start = false, .agent_command = "run"});
  node.start_agent();
  node.apply({.size = "4Mi"});
  ASSERT_TRUE(node.wait_ready("vol"));
  const pid_t server = node.server_pid("vol");
  const pid_t spawner = parent_of(server);
  EXPECT_GT(spawner, 1);
  node.kill_agent();
  {
    const Disk disk(node.device("vol"));
    EXPECT_EQ(disk.write(1, 1), 0);
    EXPECT_EQ(disk.verify(1, 1), 0);
  }
  node.start_agent();
  ASSERT_TRUE(node.wait_ready("vol"));
  EXPECT_EQ(node.server_pid("vol"), server) << "the spawner that answers is used";

  // When it dies, it and its servers come back.
  kill_and_wait(spawner);
  ASSERT_TRUE(node.wait_recovered("vol", 0));
  const pid_t next = parent_of(node.server_pid("vol"));
  EXPECT_NE(next, spawner);
  const Disk disk(node.device("vol"));
  EXPECT_EQ(disk.verify(1, 1), 0);
  node.kill_agent();  // or it would start another
  kill_and_wait(next);
}

// --- ublkctl -------------------------------------------------------------------------------------

struct Ran {
  int code = -1;
  std::string output;  // both streams
};

void PrintTo(const Ran& ran, std::ostream* out) {
  *out << "exit code " << ran.code << ", output:\n" << ran.output;
}
MATCHER_P(Exits, code, "") { return arg.code == code; }

class UblkctlTest : public ::testing::Test {
 protected:
  [[nodiscard]] Ran ctl(const std::string& words) const {
    const auto program =
        fs::read_symlink("/proc/self/exe").parent_path().parent_path() / "bin" / "ublkctl";
    Ran ran;
    ran.output = shell_output("{ " + program.string() + " --socket " + node_.dir("run/agent.sock") +
                              " " + words + "; echo :$?; }");
    const size_t colon = ran.output.rfind(':');
    ran.code = static_cast<int>(std::strtol(ran.output.c_str() + colon + 1, nullptr, 10));
    ran.output.resize(colon);
    return ran;
  }
  [[nodiscard]] std::string write_file(const std::string& name, const std::string& text) const {
    std::ofstream(node_.dir(name)) << text;
    return node_.dir(name);
  }
  LabNode node_;
};

TEST_F(UblkctlTest, LeadsAVolumeFromItsManifestToItsRemoval) {
  ASSERT_TRUE(node_.wait("vol", "absent", [](const auto& v) { return !v; }));
  const std::string good = write_file("good.yaml", manifest({.size = "4Mi"}));
  const std::string bad =
      write_file("bad.yaml", manifest({.name = "bad", .size = "4Mi", .extra = "  queus: 1\n"}));
  EXPECT_THAT(ctl("get"), Exits(0)) << "no volumes are no error";
  EXPECT_THAT(ctl("apply -f " + bad), Exits(2));
  EXPECT_THAT(ctl("apply -f " + bad).output, HasSubstr("did you mean 'queues'"));
  EXPECT_THAT(ctl("get bad"), Exits(3));
  EXPECT_THAT(ctl("wait vol --for=Ready --timeout 0s"), Exits(3)) << "not there when time was up";
  EXPECT_THAT(ctl("apply -f " + good), Exits(0));
  EXPECT_THAT(ctl("wait vol --for=Ready --timeout 60s"), Exits(0));

  const auto volume = nlohmann::json::parse(ctl("get vol -o json").output, nullptr, false);
  ASSERT_TRUE(volume.is_object());
  EXPECT_EQ(volume["metadata"]["name"], "vol");
  EXPECT_EQ(volume["status"]["state"], "LIVE");
  EXPECT_THAT(ctl("get").output, AllOf(HasSubstr("vol"), HasSubstr("LIVE")));
  EXPECT_THAT(ctl("get -o wide").output, HasSubstr(std::to_string(node_.server_pid("vol"))));
  EXPECT_THAT(ctl("get -o yaml").output, HasSubstr("kind: UblkVolume"));
  EXPECT_THAT(ctl("describe vol").output, AllOf(HasSubstr("Serving"), HasSubstr("Started")));
  EXPECT_THAT(ctl("describe nosuch"), Exits(3));
  EXPECT_THAT(ctl("events vol").output, HasSubstr("Accepted"));
  EXPECT_THAT(ctl("frobnicate"), Exits(2));
  EXPECT_THAT(ctl("frobnicate").output, HasSubstr("'frobnicate'"));

  {
    const Disk disk(node_.device("vol"));
    EXPECT_THAT(ctl("stop vol"), Exits(5));
    EXPECT_EQ(disk.write(1, 1), 0);
    EXPECT_THAT(ctl("delete vol --wait --timeout 1s"), Exits(4));
    EXPECT_TRUE(node_.wait_condition("vol", "InUse", "True"));
    EXPECT_THAT(ctl("wait vol --for=condition=InUse=False --timeout 5s"), Exits(4))
        << "it looks every 2 s whether that is still so, and says nothing else meanwhile";
    EXPECT_THAT(ctl("apply -f " + good), Exits(0)) << "a change of mind";
    EXPECT_TRUE(node_.wait_condition("vol", "InUse", "False"));
    EXPECT_EQ(disk.verify(1, 1), 0);
  }
  EXPECT_THAT(ctl("stop vol"), Exits(0));
  EXPECT_THAT(ctl("wait vol --for=condition=Ready=False --timeout 10s"), Exits(0));
  EXPECT_FALSE(fs::exists(node_.device("vol")));
  EXPECT_THAT(ctl("start vol"), Exits(0));
  EXPECT_THAT(ctl("wait vol --for=Ready --timeout 60s"), Exits(0));
  EXPECT_THAT(ctl("stop vol --force"), Exits(0));
  EXPECT_THAT(ctl("start vol"), Exits(0));
  EXPECT_THAT(ctl("wait vol --for=state=LIVE --timeout 60s"), Exits(0));

  EXPECT_THAT(ctl("delete nosuch"), Exits(3));
  EXPECT_THAT(ctl("delete nosuch --ignore-not-found"), Exits(0));
  EXPECT_THAT(ctl("delete vol --wait --timeout 60s"), Exits(0));
  EXPECT_THAT(ctl("get vol"), Exits(3));
  EXPECT_FALSE(fs::exists(node_.volumes() + "/vol.yaml"));
  EXPECT_TRUE(fs::exists(node_.pool() + "/vol.img"));
}

TEST_F(UblkctlTest, PausesResumesAndRecovers) {
  node_.apply({.size = "4Mi"});
  ASSERT_TRUE(node_.wait_ready("vol"));
  EXPECT_THAT(ctl("pause vol"), Exits(0));
  EXPECT_THAT(ctl("wait vol --for=condition=Paused --timeout 10s"), Exits(0));
  node_.kill_server("vol");
  ASSERT_TRUE(node_.wait("vol", "QUIESCED",
                         [&](const auto&) { return node_.kernel_state("vol") == "QUIESCED"; }));
  EXPECT_THAT(ctl("wait vol --for=Ready --timeout 1s"), Exits(4)) << "paused is paused";
  EXPECT_THAT(ctl("resume vol"), Exits(0));
  ASSERT_TRUE(node_.wait_recovered("vol", 0));

  const pid_t server = node_.server_pid("vol");
  EXPECT_THAT(ctl("recover vol"), Exits(0));
  EXPECT_EQ(node_.server_pid("vol"), server) << "one that serves is left alone";
  // A hung server: it lives and does nothing.
  ASSERT_EQ(::kill(server, SIGSTOP), 0);
  const Disk disk(node_.device("vol"));
  auto hangs = disk.start_write(1, 1);
  ASSERT_TRUE(disk.wait_in_flight(1));
  EXPECT_THAT(ctl("recover vol --replace-server"), Exits(0));
  ASSERT_TRUE(node_.wait_recovered("vol", 1));
  EXPECT_NE(node_.server_pid("vol"), server);
  EXPECT_EQ(hangs.get(), 0);
  EXPECT_EQ(disk.verify(1, 1), 0);

  const std::string file = node_.dir("bundle.json");
  EXPECT_THAT(ctl("support-bundle -o " + file), Exits(0));
  std::ifstream in(file);
  const auto bundle = nlohmann::json::parse(in, nullptr, false);
  EXPECT_TRUE(bundle.is_object());
  EXPECT_THAT(bundle.dump(),
              AllOf(HasSubstr("\"vol\""), HasSubstr("Recovered"), HasSubstr("leases")));
  EXPECT_THAT(ctl("preflight"), Exits(0));

  node_.terminate_agent();
  EXPECT_THAT(ctl("get"), Exits(6));
  EXPECT_THAT(ctl("stop vol"), Exits(6));
  EXPECT_EQ(disk.write(2, 2), 0) << "the data path does not care";
}

// --- a crash loop --------------------------------------------------------------------------------

// The server program lies in a folder of the test, which replaces it as an upgrade does.
class CrashLoopTest : public ::testing::Test {
 protected:
  CrashLoopTest() {
    EXPECT_EQ(
        shell("install -D -m 755 \"$(command -v ublk-server)\" /tmp/ublk-programs/ublk-server"), 0);
    node_.emplace(LabNode::Options{.standbys = 0,
                                   .agent_arguments = {"--server", "/tmp/ublk-programs/ublk-server",
                                                       "--listen", "127.0.0.1:18099"}});
    node_->apply(patient_);
    EXPECT_TRUE(node_->wait_ready("vol"));
  }
  ~CrashLoopTest() override {
    node_.reset();
    fs::remove_all("/tmp/ublk-programs");
  }
  static void replace_program(const std::string& with) {
    EXPECT_EQ(shell("install -m 755 " + with +
                    " /tmp/ublk-programs/next && mv /tmp/ublk-programs/next "
                    "/tmp/ublk-programs/ublk-server"),
              0);
  }
  void begin_to_crash() {
    replace_program("/bin/false");
    node_->kill_server("vol");
    ASSERT_TRUE(node_->wait_condition("vol", "Ready", "False", "CrashLoop"));
  }

  // "HTTP/1.1 200 OK"
  static std::string readiness() {
    return shell_output(
        "bash -c 'exec 3<>/dev/tcp/127.0.0.1/18099 && printf \"GET /readyz HTTP/1.1\\r\\nHost: "
        "node\\r\\nConnection: "
        "close\\r\\n\\r\\n\" >&3 && head -n 1 <&3'");
  }

  ManifestOptions patient_{
      .mode = "Reissue\n    maxRestarts: 1\n    backOff: {initial: 300s, max: 300s}"};
  std::optional<LabNode> node_;
};

TEST_F(CrashLoopTest, EndsWhenAnotherProgramComes) {
  const Disk disk(node_->device("vol"));
  ASSERT_EQ(disk.write(1, 1), 0);
  begin_to_crash();
  auto waits = disk.start_write(2, 2);
  replace_program("\"$(command -v ublk-server)\"");
  ASSERT_TRUE(node_->wait_recovered("vol", 0)) << "long before the back-off is over";
  EXPECT_EQ(waits.get(), 0);
  EXPECT_EQ(disk.verify(1, 1), 0);
  EXPECT_EQ(disk.verify(2, 2), 0);
}

// A DaemonSet's update goes on to the next node when a pod is ready: not with an image whose
// servers do not start.
TEST_F(CrashLoopTest, AnAgentIsReadyOnlyWhenWhatWasServedIsServedAgain) {
  const pid_t server = node_->server_pid("vol");
  node_->kill_agent();
  replace_program("/bin/false");
  kill_and_wait(server);
  node_->start_agent();
  ASSERT_TRUE(node_->wait_condition("vol", "Ready", "False", "CrashLoop"));
  EXPECT_NE(readiness().find(" 503 "), std::string::npos) << readiness();
  replace_program("\"$(command -v ublk-server)\"");
  ASSERT_TRUE(node_->wait_recovered("vol", 0));
  EXPECT_NE(readiness().find(" 200 "), std::string::npos) << readiness();
  begin_to_crash();
  EXPECT_NE(readiness().find(" 200 "), std::string::npos)
      << "that is the volume's matter, not the update's";
}

TEST_F(CrashLoopTest, ASpecThatChangesBeginsAnew) {
  begin_to_crash();
  const auto deaths = [&] {
    uint64_t count = 0;
    for (const VolumeEvent& event : node_->api().events("vol"))
      if (event.reason == "ServerDied") count += event.count;
    return count;
  };
  const uint64_t before = deaths();
  ManifestOptions changed = patient_;
  changed.extra = "  reclaimPolicy: Delete\n";
  node_->apply(changed);
  EXPECT_TRUE(
      node_->wait("vol", "tried again at once", [&](const auto&) { return deaths() > before; }));
  EXPECT_TRUE(node_->wait_condition("vol", "Ready", "False", "CrashLoop"));
}

}  // namespace
}  // namespace ublk_operator::lab
