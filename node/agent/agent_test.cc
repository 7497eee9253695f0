// The agent's parts that need no kernel. What it does with devices and servers is told by tests/vm.
#include "node/agent/agent.h"

#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <future>
#include <set>
#include <thread>

#include "node/agent/disposable.h"
#include "node/agent/identity.h"
#include "node/agent/test_hooks.h"
#include "node/agent/watch_hub.h"
#include "node/ublk/fake_control_device.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;

TEST(IdentityTest, IsTheSameForTheSameVolumeOfTheSameNodeOnly) {
  EXPECT_EQ(volume_identity("node", "uid"), volume_identity("node", "uid"));
  EXPECT_NE(volume_identity("node", "uid"), volume_identity("node", "uid2"));
  EXPECT_NE(volume_identity("node", "uid"), volume_identity("node2", "uid"));
  EXPECT_NE(volume_identity("a", "bc"), volume_identity("ab", "c"));
}

TEST(IdentityTest, ForeignDevicesAreNotOurs) {
  EXPECT_TRUE(is_volume_identity(volume_identity("node", "uid")));
  EXPECT_FALSE(is_volume_identity(0));  // most servers leave ublksrv_flags alone
  EXPECT_FALSE(is_volume_identity(UINT64_MAX));
  EXPECT_FALSE(is_volume_identity(1));
}

TEST(IdentityTest, LocalUidsLookLikeUuidsAndDiffer) {
  std::set<std::string> uids;
  for (int i = 0; i < 1000; ++i)
    uids.insert(local_volume_uid("node", "volume-" + std::to_string(i)));
  EXPECT_EQ(uids.size(), 1000U);
  EXPECT_EQ(uids.begin()->size(), 36U);
}

class TempDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "agent_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void touch(const std::string& name) const { std::ofstream(dir_ + "/" + name) << "x"; }
  std::string dir_;
};

// Collects callbacks and waits for a number of them.
class Seen {
 public:
  void add(const std::string& name) {
    const std::scoped_lock lock(mutex_);
    names_.insert(name);
    changed_.notify_all();
  }
  bool wait_for(const std::string& name) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 5s, [&] { return names_.contains(name); });
  }
  size_t count() {
    const std::scoped_lock lock(mutex_);
    return names_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::string> names_;
};

using WatchHubTest = TempDirTest;

TEST_F(WatchHubTest, TwoVolumesMayWatchOneFolderForDifferentThings) {
  auto hub = WatchHub::create();
  ASSERT_TRUE(hub.ok());
  Seen created;
  Seen deleted;
  auto first =
      (*hub)->watch(dir_, IN_CREATE, [&](uint32_t, const std::string& n) { created.add(n); });
  auto second =
      (*hub)->watch(dir_, IN_DELETE, [&](uint32_t, const std::string& n) { deleted.add(n); });
  ASSERT_TRUE(first.ok() && second.ok());
  touch("a");
  EXPECT_TRUE(created.wait_for("a"));
  std::filesystem::remove(dir_ + "/a");
  EXPECT_TRUE(deleted.wait_for("a"));
  EXPECT_EQ(created.count(), 1U);
}

TEST_F(WatchHubTest, AfterItsWatchIsGoneACallbackIsNotCalled) {
  auto hub = WatchHub::create();
  ASSERT_TRUE(hub.ok());
  Seen gone;
  Seen stays;
  auto keep = (*hub)->watch(dir_, IN_CREATE, [&](uint32_t, const std::string& n) { stays.add(n); });
  {
    auto first =
        (*hub)->watch(dir_, IN_CREATE, [&](uint32_t, const std::string& n) { gone.add(n); });
    ASSERT_TRUE(first.ok());
  }
  touch("b");
  EXPECT_TRUE(stays.wait_for("b"));
  EXPECT_EQ(gone.count(), 0U);
}

TEST_F(WatchHubTest, WhatIsNotThereCannotBeWatched) {
  auto hub = WatchHub::create();
  ASSERT_TRUE(hub.ok());
  EXPECT_EQ((*hub)->watch(dir_ + "/nothing", IN_CREATE, [](uint32_t, const std::string&) {}).err(),
            ENOENT);
}

// The helper is any program that gets "helper WORD N": a shell script stands in for it here.
class DisposableTest : public TempDirTest {
 protected:
  std::unique_ptr<Disposable> with_script(const std::string& text) {
    const std::string path = dir_ + "/helper";
    std::ofstream(path) << "#!/bin/sh\n" << text;
    ::chmod(path.c_str(), 0755);
    return make_disposable(path);
  }
};

TEST_F(DisposableTest, PassesOutputAndSuccess) {
  const auto result = with_script("echo \"$1 $2 $3\"")->run({"stop", "7"}, 10s);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->output, "helper stop 7");
}

TEST_F(DisposableTest, TheExitStatusIsTheErrno) {
  const auto result = with_script("echo 'mounted at /mnt'; exit 16")->run({"try-stop", "7"}, 10s);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().to_string(), "EBUSY try-stop ublk7: mounted at /mnt");
}

TEST_F(DisposableTest, OneThatDoesNotReturnIsLeftBehind) {
  const auto result = with_script("exec sleep 600")->run({"stop", "7"}, 50ms);
  EXPECT_EQ(result.err(), ETIMEDOUT);
}

using TestHooksTest = TempDirTest;

TEST_F(TestHooksTest, OnlyAFifoOfThatNameIsAHook) {
  EXPECT_FALSE(TestHooks().find("vol", "before_end").valid());
  const TestHooks hooks(dir_);
  EXPECT_FALSE(hooks.find("vol", "before_end").valid());
  touch("vol.before_end");
  EXPECT_FALSE(hooks.find("vol", "before_end").valid());
  ASSERT_EQ(::mkfifo((dir_ + "/vol.after_mmap").c_str(), 0600), 0);
  EXPECT_TRUE(hooks.find("vol", "after_mmap").valid());
}

// A whole agent on a fake kernel, without servers: what it tells those who ask and watch.
class WholeAgentTest : public TempDirTest {
 protected:
  void SetUp() override {
    TempDirTest::SetUp();
    std::filesystem::create_directories(dir_ + "/volumes");
    AgentOptions options;
    options.volumes_dir = dir_ + "/volumes";
    options.state_dir = dir_ + "/state";
    options.run_dir = dir_ + "/run";
    options.spawner_socket = dir_ + "/spawner.sock";
    options.server_program = dir_ + "/ublk-server";
    options.pools = {{"default", Pool(dir_ + "/pool")}};
    options.paths.dev_dir = dir_ + "/dev";
    options.paths.by_name_dir = dir_ + "/by-name";
    options.paths.udev_dir = dir_ + "/udev";
    options.open_control = [this]() -> Result<std::unique_ptr<ControlDevice>> {
      return kernel_.open_control();
    };
    options.spawner_patience = 0ms;
    options.on_event = [this](const VolumeEvent& event) { events_.add(event.reason); };
    adjust(options);
    auto agent = Agent::create(std::move(options), null_logger());
    ASSERT_TRUE(agent.ok()) << agent.error().to_string();
    agent_ = std::move(*agent);
    thread_ = std::thread([this] { EXPECT_TRUE(agent_->run(stop_.fd()).ok()); });
  }
  void TearDown() override {
    stop_.signal();
    if (thread_.joinable()) thread_.join();
    agent_.reset();
    TempDirTest::TearDown();
  }
  virtual void adjust(AgentOptions& /*options*/) {}
  void apply(const std::string& name, const std::string& spec) const {
    std::ofstream(dir_ + "/volumes/" + name + ".yaml")
        << "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata: {name: " << name
        << "}\nspec: " << spec << "\n";
  }
  void remove(const std::string& name) const {
    std::filesystem::remove(dir_ + "/volumes/" + name + ".yaml");
  }

  FakeKernel kernel_{FakePersonality::linux_7_2};
  Seen events_;  // their reasons
  EventFd stop_ = EventFd::must_create();
  std::unique_ptr<Agent> agent_;
  std::thread thread_;
};

TEST_F(WholeAgentTest, WhatAWatchSaysIsGoneIsGoneForWhoeverAsksThen) {
  Seen there;
  Seen gone;
  int found = 0;
  const uint64_t watch =
      agent_->watch([&](const std::string& name, const std::optional<Volume>& volume) {
        if (volume) return there.add(name);
        // A watcher may be as quick as this.
        found = std::async(std::launch::async, [&] { return agent_->get(name).err(); }).get();
        gone.add(name);
      });
  apply("vol", "{size: 4Mi, running: false, backend: {\"null\": {}}}");
  ASSERT_TRUE(there.wait_for("vol"));
  EXPECT_TRUE(agent_->get("vol").ok());
  remove("vol");
  ASSERT_TRUE(gone.wait_for("vol"));
  EXPECT_EQ(found, ENOENT);
  agent_->unwatch(watch);
}

// The kernel's driver is not loaded yet.
class DriverlessAgentTest : public WholeAgentTest {
 protected:
  void adjust(AgentOptions& options) override {
    std::filesystem::create_directories(dir_ + "/dev");
    std::filesystem::create_directories(dir_ + "/pool");
    options.paths.sys_dir = dir_ + "/sys";
    options.await_driver = true;
    options.on_driver = [this] { seen_.add("driver"); };
    options.on_ready = [this] { seen_.add("ready"); };
    options.open_control = [this]() -> Result<std::unique_ptr<ControlDevice>> {
      if (!std::filesystem::exists(dir_ + "/dev/ublk-control"))
        return Error{ENOENT, "open", "ublk-control", ""};
      return kernel_.open_control();
    };
  }
  uint64_t watch() {
    return agent_->watch([this](const std::string& name, const std::optional<Volume>& volume) {
      if (!volume) return seen_.add(name + " gone");
      const auto* ready = find_condition(volume->status.conditions, "Ready");
      if (ready != nullptr) seen_.add(name + " " + ready->reason);
      if (volume->status.device_id) seen_.add(name + " made");
    });
  }
  static std::string spec(const std::string& file) {
    return "{size: 4Mi, reclaimPolicy: Delete, backend: {file: {pool: default, path: " + file +
           "}}}";
  }
  Seen seen_;
};

TEST_F(DriverlessAgentTest, VolumesWaitForTheDriverAndAreMadeWhenItComes) {
  EXPECT_TRUE(seen_.wait_for("ready")) << "it does all that it can";
  const uint64_t watched = watch();
  apply("vol", spec("vol.img"));
  EXPECT_TRUE(seen_.wait_for("vol DriverMissing"));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/pool/vol.img")) << "nothing is made of it yet";
  touch("dev/ublk-control");
  EXPECT_TRUE(seen_.wait_for("driver"));
  EXPECT_TRUE(seen_.wait_for("vol made"));
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/pool/vol.img"));
  agent_->unwatch(watched);
}

TEST_F(DriverlessAgentTest, AVolumeThatIsDeletedGoesWithoutTheDriver) {
  const uint64_t watched = watch();
  apply("vol", spec("vol.img"));
  EXPECT_TRUE(seen_.wait_for("vol DriverMissing"));
  remove("vol");
  EXPECT_TRUE(seen_.wait_for("vol gone"));
  agent_->unwatch(watched);
}

TEST_F(WholeAgentTest, AManifestIsNoNewsToTheVolumesOfTheOthers) {
  constexpr unsigned others = 20;
  constexpr unsigned changes = 10;
  Seen with_device;
  Seen there;
  const uint64_t watch =
      agent_->watch([&](const std::string& name, const std::optional<Volume>& volume) {
        if (!volume) return;
        there.add(name);
        if (volume->status.device_id) with_device.add(name);
      });
  for (unsigned i = 0; i < others; ++i)
    apply("other" + std::to_string(i), "{size: 4Mi, backend: {\"null\": {}}}");
  for (unsigned i = 0; i < others; ++i)
    ASSERT_TRUE(with_device.wait_for("other" + std::to_string(i)));
  // Without a spawner each of them looks again every second, and whenever it is woken.
  const auto begun = std::chrono::steady_clock::now();
  const unsigned before = kernel_.calls("get_dev_info2");
  for (unsigned i = 0; i < changes; ++i) {
    apply("new" + std::to_string(i), "{size: 4Mi, running: false, backend: {\"null\": {}}}");
    ASSERT_TRUE(there.wait_for("new" + std::to_string(i)));
  }
  const unsigned looks = kernel_.calls("get_dev_info2") - before;
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begun;
  EXPECT_LT(looks, 2 * others * (time.count() + 1));
  agent_->unwatch(watch);
}

TEST_F(WholeAgentTest, AManifestThatComesBackAsItWasKeepsItsVolume) {
  const std::string spec = "{size: 4Mi, running: false, backend: {\"null\": {}}}";
  apply("vol", spec);
  ASSERT_TRUE(events_.wait_for("Accepted"));
  ASSERT_TRUE(agent_->pause("vol", true).ok());  // what it is told it does not do yet
  ASSERT_TRUE(events_.wait_for("Paused"));
  ASSERT_TRUE(agent_->remove("vol").ok());
  ASSERT_TRUE(events_.wait_for("Removed"));
  apply("vol", spec);
  EXPECT_TRUE(events_.wait_for("Kept"));
}

}  // namespace
}  // namespace ublk_operator
