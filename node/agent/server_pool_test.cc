// The pool's standbys, with a real spawner and stand-ins for servers
// (node/spawner/fake_server_main.cc).
#include "node/agent/server_pool.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <csignal>
#include <functional>

#include "node/server/protocol.h"
#include "node/spawner/daemon.h"
#include "node/spawner/test_support.h"

namespace ublk_operator {
namespace {

Geometry geometry_of(uint16_t queue_depth) {
  Geometry geometry;
  geometry.queues = 1;
  geometry.queue_depth = queue_depth;
  geometry.max_io_bytes = 4096;
  geometry.size_bytes = 1 << 20;
  return geometry;
}

class ServerPoolTest : public ::testing::Test {
 protected:
  void SetUp() override {
    start_spawner();
    ASSERT_FALSE(HasFatalFailure());
    ServerPoolOptions pool;
    pool.spawner_socket = socket();
    pool.server_program = install_program(helper_program("spawner_fake_server"), directory_.path());
    pool_ = std::make_unique<ServerPool>(pool, null_logger(), [this] { changed_.signal(); });
    pool_->start();
    ASSERT_TRUE(pool_->wait_connected(patience));
    auto client = connect_spawner(socket());
    ASSERT_TRUE(client.ok()) << client.error().to_string();
    beside_ = std::move(client).value();
  }
  void TearDown() override {
    pool_.reset();
    beside_.reset();
    if (auto spawner = connect_spawner(socket())) (void)(*spawner)->shutdown(patience);
  }
  [[nodiscard]] std::string socket() const { return directory_.path() + "/spawner.sock"; }
  void start_spawner() {
    SpawnerDaemonOptions options;
    options.program = helper_program("spawner_test_daemon");
    options.arguments = {socket(), directory_.path() + "/uids", "no-cgroups"};
    options.log_file = directory_.path() + "/spawner.log";
    options.timeout = patience;
    auto started = start_spawner_daemon(options);
    ASSERT_TRUE(started.ok()) << started.error().to_string();
  }
  // Asks again whenever the pool says that something changed.
  [[nodiscard]] bool comes_true(const std::function<bool()>& what) {
    const auto until = std::chrono::steady_clock::now() + patience;
    while (!what()) {
      pollfd fd{changed_.fd(), POLLIN, 0};
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
      if (left.count() <= 0 || ::poll(&fd, 1, static_cast<int>(left.count())) != 1) return false;
      changed_.drain();
    }
    return true;
  }
  // A standby that has prepared for a queue depth of 8. What it says is read from a copy of its
  // channel, which the spawner hands out.
  void await_standby() {
    pool_->note_geometry(geometry_of(8));
    const auto until = std::chrono::steady_clock::now() + patience;
    while (!standby_ && std::chrono::steady_clock::now() < until) {
      auto servers = beside_->list(patience);
      if (!servers || servers->empty()) continue;
      while (auto message = servers->front().channel.receive(patience)) {
        if (message->body.at("type") != "prepared") continue;
        standby_ = std::move(servers->front());
        break;
      }
    }
    ASSERT_TRUE(standby_.has_value());
  }

  TempDirectory directory_;
  EventFd changed_ = EventFd::must_create();
  std::unique_ptr<ServerPool> pool_;
  std::unique_ptr<SpawnerClient> beside_;
  std::optional<SpawnedServer> standby_;
};

TEST_F(ServerPoolTest, AStandbyPreparesBeforeAnyVolumeNeedsIt) {
  await_standby();
  ASSERT_FALSE(HasFatalFailure());
  auto acquired = pool_->acquire(geometry_of(8));
  ASSERT_TRUE(acquired.ok()) << acquired.error().to_string();
  EXPECT_EQ(acquired->server.info.pid, standby_->info.pid);
  EXPECT_TRUE(acquired->told);
}

TEST_F(ServerPoolTest, AStandbyOfAnotherGeometryIsTakenAndToldAnew) {
  await_standby();
  ASSERT_FALSE(HasFatalFailure());
  auto acquired = pool_->acquire(geometry_of(4));
  ASSERT_TRUE(acquired.ok()) << acquired.error().to_string();
  EXPECT_EQ(acquired->server.info.pid, standby_->info.pid);
  EXPECT_FALSE(acquired->told);
}

TEST_F(ServerPoolTest, WhatNoStandbyHasRoomForGetsAServerOfItsOwn) {
  await_standby();
  ASSERT_FALSE(HasFatalFailure());
  auto acquired = pool_->acquire(geometry_of(16));
  ASSERT_TRUE(acquired.ok()) << acquired.error().to_string();
  EXPECT_NE(acquired->server.info.pid, standby_->info.pid);
  EXPECT_EQ(acquired->server.info.arena_bytes, geometry_of(16).buffer_bytes());
  EXPECT_FALSE(acquired->told);
}

TEST_F(ServerPoolTest, HowAServerEndedIsToBeSaidUntilItsSpawnerSaysIt) {
  auto acquired = pool_->acquire(geometry_of(8));
  ASSERT_TRUE(acquired.ok()) << acquired.error().to_string();
  const ServerInfo server = acquired->server.info;
  EXPECT_TRUE(pool_->end_of(server.id, server.pid).to_be_said);
  ASSERT_TRUE(acquired->server.pidfd.kill(SIGKILL).ok());
  ASSERT_TRUE(comes_true([&] { return !pool_->end_of(server.id, server.pid).to_be_said; }));
  const auto end = pool_->end_of(server.id, server.pid);
  ASSERT_TRUE(end.notice.has_value());
  EXPECT_EQ(end.notice->to_string(), "killed by SIGKILL (9)");
  EXPECT_FALSE(pool_->end_of(server.id + 1, server.pid).notice) << "a pid may be another's next";
}

TEST_F(ServerPoolTest, HowAServerEndedIsSaidByNobodyOnceAnotherSpawnerAnswers) {
  auto acquired = pool_->acquire(geometry_of(8));
  ASSERT_TRUE(acquired.ok()) << acquired.error().to_string();
  const ServerInfo server = acquired->server.info;
  const Pidfd spawner = listener_of(socket());
  ASSERT_TRUE(spawner.kill(SIGKILL).ok());
  ASSERT_TRUE(wait_readable(spawner.fd()));
  ASSERT_TRUE(comes_true([&] { return !pool_->connected(); }));
  EXPECT_TRUE(pool_->end_of(server.id, server.pid).to_be_said)
      << "it may be the connection that was lost";
  start_spawner();
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_TRUE(comes_true([&] { return !pool_->end_of(server.id, server.pid).to_be_said; }));
  EXPECT_FALSE(pool_->end_of(server.id, server.pid).notice.has_value());
}

}  // namespace
}  // namespace ublk_operator
