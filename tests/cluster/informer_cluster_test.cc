// The informer on a real API server, with a network in between that delays, hangs, cuts and
// truncates, and a server that forgets.
#include <gtest/gtest.h>

#include <thread>

#include "common/kube/config.h"
#include "tests/cluster/cluster.h"
#include "tests/cluster/proxy.h"

namespace ublk_operator::cluster {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

const kube::Resource kMaps{"", "v1", "configmaps", "ublk-system"};

class InformerClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!available()) GTEST_SKIP() << "no KUBECONFIG; tests/cluster/apiserver.sh gives one";
    cluster_ = std::make_unique<Cluster>();
    proxy_ = std::make_unique<Proxy>(api_port());
    const auto config = kube::default_config(cluster_->kubeconfig_through(proxy_->port()));
    ASSERT_TRUE(config.ok());
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
  EXPECT_EQ(watcher->counters().lists, 1U) << "half an event is no reason to list";
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
