// The pool's standbys, with a real spawner and stand-ins for servers (node/spawner/fake_server_main.cc).
#include "node/agent/server_pool.h"

#include <gtest/gtest.h>

#include <thread>

#include "node/server/protocol.h"
#include "node/spawner/spawner.h"
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
    const std::string socket = directory_.path() + "/spawner.sock";
    SpawnerOptions options;
    options.socket_path = socket;
    options.uid_lock_directory = directory_.path() + "/uids";
    options.use_cgroups = false;
    auto spawner = Spawner::create(options, null_logger());
    ASSERT_TRUE(spawner.ok()) << spawner.error().to_string();
    spawner_ =
        std::thread([this, s = std::move(spawner).value()]() mutable { (void)s.run(stop_.fd()); });
    ServerPoolOptions pool;
    pool.spawner_socket = socket;
    pool.server_program = install_program(helper_program("spawner_fake_server"), directory_.path());
    pool_ = std::make_unique<ServerPool>(pool, null_logger(), [] {});
    pool_->start();
    ASSERT_TRUE(pool_->wait_connected(patience));
    auto client = connect_spawner(socket);
    ASSERT_TRUE(client.ok()) << client.error().to_string();
    beside_ = std::move(client).value();
  }
  void TearDown() override {
    pool_.reset();
    stop_.signal();
    if (spawner_.joinable()) spawner_.join();
  }
  // A standby that has prepared for a queue depth of 8. What it says is read from a copy of its channel, which the spawner
  // hands out.
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
  EventFd stop_ = EventFd::must_create();
  std::thread spawner_;
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

}  // namespace
}  // namespace ublk_operator
