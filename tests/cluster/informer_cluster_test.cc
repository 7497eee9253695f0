// The informer on a real API server, with a network in between that delays, hangs, cuts and truncates,
// and a server that forgets.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <deque>
#include <list>
#include <thread>

#include "common/base/strings.h"
#include "common/base/unique_fd.h"
#include "common/kube/config.h"
#include "tests/cluster/cluster.h"

namespace ublk_operator::cluster {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

const kube::Resource kMaps{"", "v1", "configmaps", "ublk-system"};

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Carries connections to the API server, byte by byte; TLS goes through it as it is.
class Proxy {
 public:
  explicit Proxy(int server_port) : server_port_(server_port) {
    listener_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = loopback(0);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    socklen_t size = sizeof address;
    EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
    EXPECT_EQ(::listen(listener_.get(), 16), 0);
    thread_ = std::thread([this] { run(); });
  }
  ~Proxy() {
    stopping_ = true;
    wake_.signal();
    thread_.join();
  }
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;
  [[nodiscard]] int port() const { return port_; }

  // Nothing goes through the connections there are, and nobody closes them. New ones are served.
  void hang() { command(Command::hang); }
  // From now on what the server sends comes so much later, in its order.
  void delay(std::chrono::milliseconds time) { delay_ = time; }
  // All connections are closed now.
  void cut() { command(Command::cut); }
  // Each connection that is there passes so many more bytes to the client, and is closed then.
  void truncate(size_t bytes) {
    allowance_ = bytes;
    command(Command::truncate);
  }

 private:
  enum class Command { none, hang, cut, truncate };
  struct Pair {
    UniqueFd client;
    UniqueFd server;
    bool hangs = false;
    bool ended = false;  // the server closed it; what is held is still to come
    std::deque<std::pair<Clock::time_point, std::string>> held;  // to the client: when, what
    std::optional<size_t> left;                                  // bytes to the client
  };
  void command(Command what) {
    command_ = what;
    wake_.signal();
  }
  void obey() {
    wake_.drain();
    switch (command_.exchange(Command::none)) {
      case Command::hang:
        for (auto& pair : pairs_) pair.hangs = true;
        break;
      case Command::cut:
        pairs_.clear();
        break;
      case Command::truncate:
        for (auto& pair : pairs_) pair.left = allowance_;
        break;
      case Command::none:
        break;
    }
  }
  void accept() {
    Pair pair;
    pair.client.reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    pair.server.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(server_port_);
    if (pair.client.valid() &&
        ::connect(pair.server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
            0)
      pairs_.push_back(std::move(pair));
  }
  // These three: false: the connection is over.
  static bool send_all(const UniqueFd& to, const std::string& bytes) {
    for (size_t sent = 0; sent < bytes.size();) {
      const ssize_t n = ::send(to.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return false;
      sent += static_cast<size_t>(n);
    }
    return true;
  }
  static bool to_server(const Pair& pair) {
    const std::string bytes = receive(pair.client);
    return !bytes.empty() && send_all(pair.server, bytes);
  }
  bool to_client(Pair& pair) const {
    std::string bytes = receive(pair.server);
    if (bytes.empty()) {
      pair.ended = true;
      return !pair.held.empty();
    }
    bool goes_on = true;
    if (pair.left) {
      goes_on = bytes.size() < *pair.left;
      bytes.resize(std::min(bytes.size(), *pair.left));
      *pair.left -= bytes.size();
    }
    const auto time = delay_.load();
    if (time == 0ms && pair.held.empty()) return send_all(pair.client, bytes) && goes_on;
    pair.held.emplace_back(Clock::now() + time, std::move(bytes));
    return goes_on;
  }
  static bool send_due(Pair& pair) {
    while (!pair.held.empty() && pair.held.front().first <= Clock::now()) {
      if (!send_all(pair.client, pair.held.front().second)) return false;
      pair.held.pop_front();
    }
    return !(pair.ended && pair.held.empty());
  }
  static std::string receive(const UniqueFd& from) {
    std::string bytes(16384, '\0');
    const ssize_t n = ::recv(from.get(), bytes.data(), bytes.size(), 0);
    bytes.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return bytes;
  }
  void run() {
    while (!stopping_) {
      std::vector<pollfd> fds{{wake_.fd(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      std::vector<Pair*> polled;
      auto next = Clock::time_point::max();
      for (auto& pair : pairs_) {
        if (pair.hangs) continue;
        polled.push_back(&pair);
        fds.push_back({pair.client.get(), POLLIN, 0});
        fds.push_back({pair.ended ? -1 : pair.server.get(), POLLIN, 0});
        if (!pair.held.empty()) next = std::min(next, pair.held.front().first);
      }
      const auto wait = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now());
      const int timeout =
          next == Clock::time_point::max() ? -1 : std::max<int>(0, static_cast<int>(wait.count()));
      if (::poll(fds.data(), fds.size(), timeout) < 0) continue;
      std::vector<Pair*> over;
      for (size_t i = 0; i < polled.size(); ++i) {
        Pair& pair = *polled[i];
        bool good = true;
        if (fds[2 + 2 * i].revents != 0) good = to_server(pair);
        if (good && fds[3 + 2 * i].revents != 0) good = to_client(pair);
        if (good) good = send_due(pair);
        if (!good) over.push_back(&pair);
      }
      pairs_.remove_if([&](const Pair& pair) {
        return std::find(over.begin(), over.end(), &pair) != over.end();
      });
      if (fds[1].revents != 0) accept();
      if (fds[0].revents != 0) obey();
    }
  }

  const int server_port_;
  int port_ = 0;
  UniqueFd listener_;
  EventFd wake_ = EventFd::must_create();
  std::atomic<bool> stopping_ = false;
  std::atomic<Command> command_ = Command::none;
  std::atomic<size_t> allowance_ = 0;
  std::atomic<std::chrono::milliseconds> delay_ = 0ms;
  std::list<Pair> pairs_;
  std::thread thread_;
};

class InformerClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!available()) GTEST_SKIP() << "no KUBECONFIG; tests/cluster/apiserver.sh gives one";
    cluster_ = std::make_unique<Cluster>();
    auto config = kube::default_config("");
    ASSERT_TRUE(config.ok());
    const size_t colon = config->server.rfind(':');
    proxy_ = std::make_unique<Proxy>(std::stoi(config->server.substr(colon + 1)));
    config->server = config->server.substr(0, colon + 1) + std::to_string(proxy_->port());
    auto through = kube::make_transport(*config);
    ASSERT_TRUE(through.ok());
    through_ = std::move(through).value();
  }
  void TearDown() override {
    if (!cluster_) return;
    const json left = cluster_->get(kMaps.path() + "?limit=500");
    for (const auto& map : left.value("items", json::array()))
      (void)cluster_->client().remove(kMaps.path(map["metadata"]["name"]), cluster_->never());
  }
  std::unique_ptr<Watcher> watch(std::chrono::seconds server_time = 50s) {
    auto options = Watcher::quick();
    options.page_limit = 3;
    options.watch_min = options.watch_max = server_time;
    auto watcher = std::make_unique<Watcher>(through_, kMaps, options);
    EXPECT_TRUE(watcher->wait_synced());
    return watcher;
  }
  void write(const std::string& name, const std::string& value) {
    const auto done = cluster_->client().apply(kMaps.path(name),
                                               {{"apiVersion", "v1"},
                                                {"kind", "ConfigMap"},
                                                {"metadata", {{"name", name}}},
                                                {"data", {{"value", value}}}},
                                               "test", cluster_->never());
    ASSERT_TRUE(done.ok()) << done.error().to_string();
  }
  static std::function<bool(const json&)> is(const std::string& value) {
    return [value](const json& o) { return o.is_object() && o["data"]["value"] == value; };
  }

  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<Proxy> proxy_;
  std::shared_ptr<kube::Transport> through_;
};

TEST_F(InformerClusterTest, ListsInPagesAndHearsOfChanges) {
  for (int i = 0; i < 10; ++i) write("m" + std::to_string(i), "1");
  const auto watcher = watch();
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(is("1")(watcher->at("m" + std::to_string(i))));
  write("m3", "2");
  EXPECT_TRUE(watcher->wait("m3", is("2")));
  cluster_->remove(kMaps.path("m3"));
  EXPECT_TRUE(watcher->wait("m3", [](const json& o) { return o.is_null(); }));
  EXPECT_FALSE(watcher->at("m4")["metadata"].contains("managedFields"));
}

TEST_F(InformerClusterTest, AWatchThatTheServerEndsGoesOnWhereItWas) {
  const auto watcher = watch(2s);
  const auto before = watcher->counters();
  for (int i = 0; i < 4; ++i) {
    write("m", std::to_string(i));
    ASSERT_TRUE(watcher->wait("m", is(std::to_string(i))));
    std::this_thread::sleep_for(1500ms);  // so that watches end in between
  }
  const auto after = watcher->counters();
  EXPECT_GT(after.watches, before.watches + 1);
  EXPECT_EQ(after.lists, before.lists) << "no list for that";
}

// All that the server says comes a second and a half after it was said.
TEST_F(InformerClusterTest, DelayedStreamsLoseNothing) {
  proxy_->delay(1500ms);
  const auto watcher = watch();
  for (int i = 0; i < 8; ++i) {
    write("m", std::to_string(i));
    if (i % 2 == 1) {
      const auto begun = Clock::now();
      ASSERT_TRUE(watcher->wait("m", is(std::to_string(i))));
      EXPECT_GE(Clock::now() - begun, 1s) << "through the proxy";
    }
  }
  EXPECT_EQ(watcher->counters().lists, 1U) << "late is not lost";
  EXPECT_EQ(watcher->counters().expired, 0U);
  EXPECT_EQ(watcher->counters().failures, 0U) << "and no connection broke on the way";
}

TEST_F(InformerClusterTest, CutConnectionsLoseNothing) {
  const auto watcher = watch();
  for (int i = 0; i < 5; ++i) {
    proxy_->cut();
    write("m", std::to_string(i));
    const auto begun = Clock::now();
    EXPECT_TRUE(watcher->wait("m", is(std::to_string(i))));
    EXPECT_LT(Clock::now() - begun, 5s);
  }
  EXPECT_EQ(watcher->counters().lists, 1U) << "what it has, it need not list again";
}

TEST_F(InformerClusterTest, TruncatedStreamsLoseNothing) {
  const auto watcher = watch();
  const std::string much(3000, 'x');  // so that an event is cut in its middle
  for (size_t bytes = 100; bytes < 4000; bytes += 650) {
    proxy_->truncate(bytes);
    const std::string value = std::to_string(bytes) + much;
    write("m", value);
    EXPECT_TRUE(watcher->wait("m", is(value))) << bytes;
  }
}

TEST_F(InformerClusterTest, AWatchThatHangsSilentlyIsFoundTenSecondsAfterItsTime) {
  const auto watcher = watch(2s);
  write("m", "0");
  ASSERT_TRUE(watcher->wait("m", is("0")));
  proxy_->hang();
  write("m", "1");
  const auto begun = Clock::now();
  EXPECT_TRUE(watcher->wait("m", is("1"), 60s));
  const auto took = std::chrono::duration<double>(Clock::now() - begun).count();
  std::printf("found after %.1f s (the watch's time: 2 s)\n", took);
  EXPECT_LT(took, 20);
}

TEST_F(InformerClusterTest, WhatWasCompactedMeanwhileIsListedAnew) {
  write("kept", "1");
  write("gone", "1");
  const auto watcher = watch();
  write("kept", "1.5");
  ASSERT_TRUE(watcher->wait("kept", is("1.5")));
  // The watch is held up, and behind it the server restarts with its past compacted.
  proxy_->hang();
  write("kept", "2");
  cluster_->remove(kMaps.path("gone"));
  write("new", "1");
  cluster_->compact();
  cluster_->stop_api();
  cluster_->start_api();
  proxy_->cut();
  EXPECT_TRUE(watcher->wait("kept", is("2")));
  EXPECT_TRUE(watcher->wait("new", is("1")));
  EXPECT_TRUE(watcher->wait("gone", [](const json& o) { return o.is_null(); }));
  EXPECT_EQ(watcher->counters().expired, 1U);
}

}  // namespace
}  // namespace ublk_operator::cluster
