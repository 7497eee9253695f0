#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <future>
#include <mutex>
#include <thread>

#include "common/base/unique_fd.h"
#include "common/localapi/client.h"
#include "common/localapi/fake_service.h"
#include "common/localapi/protocol.h"
#include "common/localapi/server.h"
#include "common/localapi/wait.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using std::chrono::steady_clock;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kSoon = 20s;  // an upper bound for what takes milliseconds

Volume volume_named(const std::string& name) {
  Volume volume;
  volume.metadata.name = name;
  volume.metadata.uid = "uid-" + name;
  volume.spec.size_bytes = 1 << 30;
  volume.spec.backend = FileBackendSpec{.path = name + ".img"};
  volume.status.state = "LIVE";
  volume.status.device_id = 3;
  volume.status.conditions.push_back(
      {"Ready", ConditionStatus::yes, "Serving", "all is well", 1, "2026-01-02T03:04:05Z"});
  return volume;
}

// A connection that sends exactly what a test says.
class RawClient {
 public:
  explicit RawClient(const std::string& path)
      : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
    connected_ =
        ::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  }
  [[nodiscard]] bool connected() const { return connected_; }
  void send(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t sent = ::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      text.remove_prefix(static_cast<size_t>(sent));
    }
  }
  // The next line as JSON; null at the end of the stream or when nothing comes.
  json receive() {
    while (true) {
      if (const size_t end = in_.find('\n'); end != std::string::npos) {
        const json message = json::parse(in_.substr(0, end));
        in_.erase(0, end + 1);
        return message;
      }
      pollfd polled{fd_.get(), POLLIN, 0};
      if (::poll(&polled, 1, 20'000) <= 0) return nullptr;
      char buffer[4096];
      const ssize_t count = ::recv(fd_.get(), buffer, sizeof(buffer), 0);
      if (count <= 0) return nullptr;
      in_.append(buffer, static_cast<size_t>(count));
    }
  }
  json ask(std::string_view line) {
    send(line);
    return receive();
  }
  void half_close() const { ::shutdown(fd_.get(), SHUT_WR); }
  void close() { fd_.reset(); }

 private:
  UniqueFd fd_;
  bool connected_ = false;
  std::string in_;
};

class LocalApiTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "localapi.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    options_.path = dir_ + "/run/agent.sock";
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(dir_);
  }
  void start() {
    auto server = LocalApiServer::start(service_, options_, null_logger());
    ASSERT_TRUE(server.ok()) << server.error().to_string();
    server_ = std::move(*server);
  }

  std::string dir_;
  LocalApiServer::Options options_;
  FakeVolumeService service_;
  std::unique_ptr<LocalApiServer> server_;
};

// ---- calls ----

TEST_F(LocalApiTest, ListAndGetCarryWholeVolumes) {
  start();
  service_.put(volume_named("a"));
  service_.put(volume_named("b"));
  LocalApiClient client(options_.path);

  EXPECT_THAT(client.list(), ElementsAre(volume_named("a"), volume_named("b")));
  EXPECT_TRUE(client.reachable().ok());
  const auto one = client.get("b");
  ASSERT_TRUE(one.ok()) << one.error().to_string();
  EXPECT_EQ(*one, volume_named("b"));
}

TEST_F(LocalApiTest, EventsAreCarriedForAllOrOneVolume) {
  start();
  const VolumeEvent killed{
      "a", true, "ServerKilled", "signal 9", "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z", 2};
  const VolumeEvent started{
      "b", false, "Started", "", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z", 1};
  service_.add_event(killed);
  service_.add_event(started);
  LocalApiClient client(options_.path);

  EXPECT_THAT(client.events(""), ElementsAre(killed, started));
  EXPECT_THAT(client.events("b"), ElementsAre(started));
}

TEST_F(LocalApiTest, ChangesArriveWithTheirFlags) {
  start();
  service_.put(volume_named("a"));
  LocalApiClient client(options_.path);

  EXPECT_TRUE(client.stop("a", true, false).ok());
  EXPECT_TRUE(client.stop("a", false, true).ok());
  EXPECT_TRUE(client.recover("a", true).ok());
  EXPECT_TRUE(client.pause("a", true).ok());
  EXPECT_TRUE(client.pause("a", false).ok());
  EXPECT_TRUE(client.remove("a").ok());
  EXPECT_THAT(service_.calls(),
              ElementsAre("stop a stopped=true force=false", "stop a stopped=false force=true",
                          "recover a replace_server=true", "pause a paused=true",
                          "pause a paused=false", "remove a"));
  EXPECT_EQ(client.get("a").err(), ENOENT);
}

TEST_F(LocalApiTest, AManifestArrivesByteByByte) {
  start();
  LocalApiClient client(options_.path);
  const std::string manifest =
      "# a comment with \"quotes\" and \xc3\xa4\n"
      "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata: {name: a}\n"
      "spec:\n  size: 1Gi\n  backend:\n    null: {}\n";

  const auto names = client.apply(manifest);
  ASSERT_TRUE(names.ok()) << names.error().to_string();
  EXPECT_THAT(*names, ElementsAre("a"));
  EXPECT_EQ(service_.last_manifest(), manifest);
}

TEST_F(LocalApiTest, AManifestThatIsTooLargeOrNotUtf8IsNotSent) {
  start();
  LocalApiClient client(options_.path);
  EXPECT_EQ(client.apply(std::string(limits::manifest_bytes_max + 1, '#')).err(), EFBIG);
  EXPECT_EQ(client.apply("# \xff\xfe").err(), EINVAL);
  EXPECT_THAT(service_.calls(), ElementsAre());
}

TEST_F(LocalApiTest, ErrorsArriveWithErrnoObjectAndDetail) {
  start();
  service_.put(volume_named("a"));
  service_.set_in_use("a", true);
  LocalApiClient client(options_.path);

  const auto busy = client.stop("a", true, false);
  ASSERT_FALSE(busy.ok());
  EXPECT_EQ(busy.error().err, EBUSY);
  EXPECT_EQ(busy.error().operation, "stop");
  EXPECT_EQ(busy.error().object, "volume a");
  EXPECT_EQ(busy.error().detail, "the device is open by mount");
  EXPECT_EQ(client.pause("nosuch", true).err(), ENOENT);
  EXPECT_TRUE(client.reachable().ok());
}

TEST_F(LocalApiTest, TheSupportBundleIsCarriedEvenWhenItsTextIsNotUtf8) {
  start();
  service_.set_bundle({{"kernel", "6.12"}, {"log", "broken \xff byte"}});
  LocalApiClient client(options_.path);
  EXPECT_EQ(client.support_bundle().at("kernel"), "6.12");
}

TEST_F(LocalApiTest, AnAnswerThatIsTooLargeIsAnError) {
  start();
  service_.set_bundle({{"log", std::string(limits::local_api_bytes_max, 'x')}});
  LocalApiClient client(options_.path);
  EXPECT_EQ(client.support_bundle(), json::object());
  EXPECT_EQ(client.reachable().err(), EMSGSIZE);
}

TEST_F(LocalApiTest, NobodyAtTheSocketIsNotReachableAndSaysWhatToDo) {
  LocalApiClient client(options_.path);
  const auto gone = client.get("a");
  ASSERT_EQ(gone.err(), ENOTCONN);
  EXPECT_EQ(gone.error().object, options_.path);
  EXPECT_THAT(gone.error().detail, HasSubstr("systemctl start ublk-node"));
  EXPECT_TRUE(client.list().empty());
  EXPECT_EQ(client.reachable().err(), ENOTCONN);
  EXPECT_EQ(client.watch([](const std::string&, const std::optional<Volume>&) {}), 0U);
}

TEST_F(LocalApiTest, AnAgentThatDoesNotAnswerTimesOut) {
  start();
  std::promise<void> release;
  service_.set_on_call([held = release.get_future().share()](const std::string&) { held.wait(); });
  LocalApiClient client(options_.path, 50ms);
  EXPECT_EQ(client.get("a").err(), ETIMEDOUT);
  release.set_value();
}

TEST_F(LocalApiTest, ASlowCallHoldsUpNobodyElse) {
  start();
  service_.put(volume_named("a"));
  std::promise<void> entered;
  std::promise<void> release;
  service_.set_on_call([&, held = release.get_future().share()](const std::string& method) {
    if (method != "stop") return;
    entered.set_value();
    held.wait();
  });
  LocalApiClient client(options_.path);
  std::thread slow([&] { EXPECT_TRUE(client.stop("a", true, false).ok()); });
  entered.get_future().wait();
  EXPECT_TRUE(client.get("a").ok());
  release.set_value();
  slow.join();
}

// ---- what is not a proper request ----

TEST_F(LocalApiTest, MalformedRequestsGetAnErrorAndTheConnectionGoesOn) {
  start();
  RawClient raw(options_.path);
  EXPECT_EQ(raw.ask("not json\n").at("error").at("name"), "EPROTO");
  EXPECT_EQ(raw.ask("[1,2]\n").at("error").at("name"), "EPROTO");
  EXPECT_EQ(raw.ask("{\"id\":1}\n").at("error").at("name"), "EINVAL");
  EXPECT_EQ(raw.ask("{\"id\":2,\"method\":7}\n").at("error").at("name"), "EINVAL");
  EXPECT_EQ(raw.ask("{\"id\":3,\"method\":\"format\"}\n").at("error").at("name"), "EOPNOTSUPP");
  EXPECT_EQ(raw.ask("{\"id\":4,\"method\":\"get\"}\n").at("error").at("name"), "EINVAL");
  EXPECT_EQ(
      raw.ask("{\"id\":5,\"method\":\"get\",\"params\":{\"name\":1}}\n").at("error").at("name"),
      "EINVAL");
  EXPECT_EQ(raw.ask("{\"id\":6,\"method\":\"list\",\"params\":[]}\n").at("error").at("name"),
            "EINVAL");
  const json last = raw.ask("{\"id\":\"seven\",\"method\":\"list\"}\n");
  EXPECT_EQ(last, (json{{"id", "seven"}, {"result", json::array()}}));
}

TEST_F(LocalApiTest, AnUnknownParameterIsRefusedInsteadOfIgnored) {
  start();
  service_.put(volume_named("a"));
  RawClient raw(options_.path);
  const json answer = raw.ask(
      "{\"id\":1,\"method\":\"stop\",\"params\":"
      "{\"name\":\"a\",\"stopped\":true,\"force\":false,\"gently\":true}}\n");
  EXPECT_EQ(answer.at("error").at("name"), "EINVAL");
  EXPECT_THAT(answer.at("error").at("detail").get<std::string>(), HasSubstr("'gently'"));
  EXPECT_THAT(service_.calls(), ElementsAre());
}

TEST_F(LocalApiTest, ADeeplyNestedRequestIsRefusedUnparsed) {
  start();
  RawClient raw(options_.path);
  EXPECT_EQ(raw.ask(std::string(100'000, '[') + "\n").at("error").at("name"), "EPROTO");
  // Brackets in a string are text, not nesting.
  const json answer = raw.ask("{\"id\":1,\"method\":\"get\",\"params\":{\"name\":\"" +
                              std::string(1000, '[') + "\"}}\n");
  EXPECT_EQ(answer.at("error").at("name"), "ENOENT");
}

TEST_F(LocalApiTest, ARequestThatIsTooLongGetsAnErrorAndTheEndOfTheStream) {
  options_.may_change = [](uid_t) { return false; };  // readers have the smaller bound
  start();
  RawClient raw(options_.path);
  EXPECT_EQ(raw.ask(std::string(limits::message_bytes_max + 1, 'x')).at("error").at("name"),
            "EMSGSIZE");
  EXPECT_EQ(raw.receive(), nullptr);
}

TEST_F(LocalApiTest, SeveralRequestsInOneWriteAreAnsweredInOrder) {
  start();
  RawClient raw(options_.path);
  raw.send("{\"id\":1,\"method\":\"list\"}\n\n{\"id\":2,\"method\":\"list\"}\n{\"id\":3,");
  EXPECT_EQ(raw.receive().at("id"), 1);
  EXPECT_EQ(raw.receive().at("id"), 2);
  EXPECT_EQ(raw.ask("\"method\":\"list\"}\n").at("id"), 3);
}

TEST_F(LocalApiTest, AClientThatClosedItsSendingSideStillGetsItsAnswer) {
  start();
  RawClient raw(options_.path);
  raw.send("{\"id\":1,\"method\":\"list\"}\n");
  raw.half_close();
  EXPECT_EQ(raw.receive().at("id"), 1);
  EXPECT_EQ(raw.receive(), nullptr);
}

// ---- who may what ----

TEST_F(LocalApiTest, WhoMayNotChangeThingsMayStillRead) {
  options_.may_change = [](uid_t) { return false; };
  start();
  service_.put(volume_named("a"));
  LocalApiClient client(options_.path);

  EXPECT_EQ(client.list().size(), 1U);
  EXPECT_TRUE(client.get("a").ok());
  EXPECT_TRUE(client.events("").empty());
  EXPECT_TRUE(client.reachable().ok());
  EXPECT_EQ(client.stop("a", true, true).err(), EPERM);
  EXPECT_EQ(client.remove("a").err(), EPERM);
  EXPECT_EQ(client.recover("a", true).err(), EPERM);
  EXPECT_EQ(client.pause("a", true).err(), EPERM);
  EXPECT_EQ(client.apply("").err(), EPERM);
  EXPECT_EQ(client.support_bundle(), json::object());
  EXPECT_EQ(client.reachable().err(), EPERM);
  EXPECT_THAT(service_.calls(), ElementsAre("list", "get a", "events"));
}

TEST_F(LocalApiTest, TheSocketIsForRootAloneUnlessToldOtherwise) {
  start();
  struct stat found{};
  ASSERT_EQ(::stat(options_.path.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0660U);
}

// ---- watch ----

// What a watcher was told, in order: "a", or "-a" for gone.
class Told {
 public:
  VolumeService::OnChange on_change() {
    return [this](const std::string& name, const std::optional<Volume>& volume) {
      const std::lock_guard lock(mutex_);
      told_.push_back((volume ? "" : "-") + name);
      changed_.notify_all();
    };
  }
  bool wait_until_told(const std::string& what, size_t times = 1) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kSoon, [&] {
      return std::count(told_.begin(), told_.end(), what) >= static_cast<ptrdiff_t>(times);
    });
  }
  std::vector<std::string> all() {
    const std::lock_guard lock(mutex_);
    return told_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> told_;
};

TEST_F(LocalApiTest, AWatchTellsWhatIsWhatChangesAndWhatIsGone) {
  start();
  service_.put(volume_named("a"));
  LocalApiClient client(options_.path);
  Told told;
  const uint64_t watch = client.watch(told.on_change());
  ASSERT_NE(watch, 0U);
  ASSERT_TRUE(told.wait_until_told("a"));
  service_.put(volume_named("b"));
  ASSERT_TRUE(told.wait_until_told("b"));
  service_.erase("a");
  ASSERT_TRUE(told.wait_until_told("-a"));
  client.unwatch(watch);
  service_.put(volume_named("c"));
  EXPECT_THAT(told.all(), ElementsAre("a", "b", "-a"));
}

TEST_F(LocalApiTest, AWatchOutlivesARestartOfTheAgent) {
  start();
  service_.put(volume_named("a"));
  service_.put(volume_named("b"));
  LocalApiClient client(options_.path);
  Told told;
  const uint64_t watch = client.watch(told.on_change());
  ASSERT_TRUE(told.wait_until_told("b"));

  server_.reset();
  // As systemd does with RuntimeDirectory=.
  std::filesystem::remove_all(dir_ + "/run");
  service_.erase("a");
  start();
  EXPECT_TRUE(told.wait_until_told("b", 2));
  EXPECT_TRUE(told.wait_until_told("-a"));
  client.unwatch(watch);
}

TEST_F(LocalApiTest, AWatcherThatDoesNotReadIsDroppedWithAMessageAndHoldsUpNobody) {
  options_.watch_changes_max = 16;
  start();
  Volume large = volume_named("a");
  large.metadata.annotations["filler"] = std::string(64 << 10, 'x');
  service_.put(large);
  RawClient raw(options_.path);
  raw.send("{\"id\":\"w\",\"method\":\"watch\"}\n");
  EXPECT_EQ(raw.receive().at("result"), json::object());
  for (int i = 0; i < 200; ++i) service_.put(large);  // does not block, though nobody reads

  json last;
  for (json message = raw.receive(); !message.is_null(); message = raw.receive()) last = message;
  EXPECT_EQ(last.at("id"), "w");
  EXPECT_EQ(last.at("error").at("name"), "ENOBUFS");
}

TEST_F(LocalApiTest, AClientThatLeavesItsAnswersUnreadIsCutOff) {
  options_.stall_max = 50ms;
  start();
  Volume large = volume_named("a");
  large.metadata.annotations["filler"] = std::string(4 << 20, 'x');
  service_.put(large);
  RawClient raw(options_.path);
  raw.send("{\"id\":1,\"method\":\"watch\"}\n");
  // The server's thread ends, and with it the watch, without the client doing anything.
  const auto deadline = steady_clock::now() + kSoon;
  while (service_.watchers() == 0 && steady_clock::now() < deadline) std::this_thread::yield();
  while (service_.watchers() != 0 && steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_EQ(service_.watchers(), 0U);
}

TEST_F(LocalApiTest, ASecondWatchOnOneConnectionIsRefused) {
  start();
  RawClient raw(options_.path);
  EXPECT_TRUE(raw.ask("{\"id\":1,\"method\":\"watch\"}\n").contains("result"));
  EXPECT_EQ(raw.ask("{\"id\":2,\"method\":\"watch\"}\n").at("error").at("name"), "EALREADY");
}

TEST_F(LocalApiTest, AnUnwatchedOrClosedWatcherIsForgotten) {
  start();
  RawClient raw(options_.path);
  raw.ask("{\"id\":1,\"method\":\"watch\"}\n");
  EXPECT_EQ(service_.watchers(), 1U);
  raw.close();
  const auto deadline = steady_clock::now() + kSoon;
  while (service_.watchers() != 0 && steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_EQ(service_.watchers(), 0U);
}

// ---- lives and deaths ----

TEST_F(LocalApiTest, AClientThatLeavesDuringItsCallDisturbsNobody) {
  start();
  service_.put(volume_named("a"));
  std::promise<void> entered;
  std::promise<void> release;
  service_.set_on_call([&, held = release.get_future().share()](const std::string& method) {
    if (method != "pause") return;
    entered.set_value();
    held.wait();
  });
  RawClient raw(options_.path);
  raw.send("{\"id\":1,\"method\":\"pause\",\"params\":{\"name\":\"a\",\"paused\":true}}\n");
  entered.get_future().wait();
  raw.close();
  release.set_value();
  EXPECT_TRUE(LocalApiClient(options_.path).get("a").ok());
}

TEST_F(LocalApiTest, StopCutsOffClientsAndRemovesTheSocket) {
  start();
  service_.put(volume_named("a"));
  RawClient idle(options_.path);
  RawClient watching(options_.path);
  watching.send("{\"id\":1,\"method\":\"watch\"}\n");
  EXPECT_TRUE(watching.receive().contains("result"));
  EXPECT_TRUE(watching.receive().contains("event"));

  server_->stop();
  EXPECT_EQ(idle.receive(), nullptr);
  EXPECT_EQ(watching.receive(), nullptr);
  EXPECT_EQ(service_.watchers(), 0U);
  EXPECT_FALSE(std::filesystem::exists(options_.path));
  server_->stop();  // safe to repeat
}

TEST_F(LocalApiTest, ClientsBeyondTheBoundAreToldAndPlacesComeFreeAgain) {
  options_.clients_max = 2;
  start();
  RawClient first(options_.path);
  RawClient second(options_.path);
  EXPECT_TRUE(first.ask("{\"id\":1,\"method\":\"list\"}\n").contains("result"));
  EXPECT_TRUE(second.ask("{\"id\":1,\"method\":\"list\"}\n").contains("result"));
  LocalApiClient client(options_.path);
  const auto third = client.get("a");
  EXPECT_EQ(third.err(), ENOTCONN);
  EXPECT_THAT(third.error().detail, HasSubstr("2 clients are connected"));

  first.close();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(client.get("a").err(), ENOENT);
}

TEST_F(LocalApiTest, AClientThatAsksNothingGivesUpItsPlace) {
  options_.idle_max = 20ms;
  start();
  RawClient idle(options_.path);
  EXPECT_EQ(idle.receive(), nullptr);
}

TEST_F(LocalApiTest, ASecondServerAtOnePathIsRefusedAndTheFirstServesOn) {
  start();
  auto second = LocalApiServer::start(service_, options_, null_logger());
  EXPECT_EQ(second.err(), EADDRINUSE);
  EXPECT_EQ(LocalApiClient(options_.path).get("a").err(), ENOENT);
}

TEST_F(LocalApiTest, ASocketFileThatNobodyAnswersIsReplaced) {
  std::filesystem::create_directories(dir_ + "/run");
  {
    UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_TRUE(dead.valid());
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, options_.path.c_str(), sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  start();
  EXPECT_EQ(LocalApiClient(options_.path).get("a").err(), ENOENT);
}

TEST_F(LocalApiTest, APathThatNoSocketCanHaveIsAnError) {
  options_.path = dir_ + "/" + std::string(120, 'x');
  EXPECT_EQ(LocalApiServer::start(service_, options_, null_logger()).err(), ENAMETOOLONG);
  EXPECT_EQ(LocalApiClient(options_.path).get("a").err(), ENOTCONN);
}

// ---- wait_for ----

bool is_live(const std::optional<Volume>& volume) {
  return volume && volume->status.state == "LIVE";
}

TEST_F(LocalApiTest, WaitForEndsWhenTheVolumeIsAsWanted) {
  start();
  Volume volume = volume_named("a");
  volume.status.state = "QUIESCED";
  service_.put(volume);
  LocalApiClient client(options_.path);
  auto waited = std::async(std::launch::async, [&] {
    return wait_for(client, "a", is_live, steady_clock::now() + kSoon);
  });
  service_.change("a", [](Volume& edited) { edited.status.state = "LIVE"; });
  EXPECT_TRUE(waited.get().ok());
}

TEST_F(LocalApiTest, WaitForSeesAVolumeThatComesLaterAndOneThatGoes) {
  start();
  LocalApiClient client(options_.path);
  const auto until = steady_clock::now() + kSoon;
  auto waited =
      std::async(std::launch::async, [&] { return wait_for(client, "a", is_live, until); });
  service_.put(volume_named("a"));
  EXPECT_TRUE(waited.get().ok());

  const auto is_gone = [](const std::optional<Volume>& volume) { return !volume; };
  waited = std::async(std::launch::async, [&] { return wait_for(client, "a", is_gone, until); });
  service_.erase("a");
  EXPECT_TRUE(waited.get().ok());
}

TEST_F(LocalApiTest, WaitForGivesUpAtItsDeadlineAndLooksAtLeastOnce) {
  start();
  service_.put(volume_named("a"));
  LocalApiClient client(options_.path);
  EXPECT_TRUE(wait_for(client, "a", is_live, steady_clock::now() - 1s).ok());
  EXPECT_EQ(wait_for(client, "b", is_live, steady_clock::now() + 20ms).err(), ETIMEDOUT);
}

TEST_F(LocalApiTest, WaitForNeedsAnAgentAtItsStartOnly) {
  LocalApiClient client(options_.path);
  EXPECT_EQ(wait_for(client, "a", is_live, steady_clock::now() + kSoon).err(), ENOTCONN);

  start();
  std::promise<void> looked;
  std::atomic<int> looks = 0;
  auto waited = std::async(std::launch::async, [&] {
    return wait_for(
        client, "a",
        [&](const std::optional<Volume>& volume) {
          if (++looks == 1) looked.set_value();
          return is_live(volume);
        },
        steady_clock::now() + kSoon);
  });
  looked.get_future().wait();
  server_.reset();
  service_.put(volume_named("a"));
  start();
  EXPECT_TRUE(waited.get().ok());
}

}  // namespace
}  // namespace ublk_operator
