#include "node/server/protocol.h"

#include "gtest/gtest.h"

namespace ublk_operator {
namespace {

using nlohmann::json;

Geometry geometry() {
  Geometry value;
  value.queues = 2;
  value.queue_depth = 128;
  value.max_io_bytes = 65536;
  value.logical_block_bytes = 4096;
  value.size_bytes = uint64_t{1} << 40;
  value.read_only = true;
  value.discard_granularity_bytes = 4096;
  value.discard_max_bytes = 1 << 30;
  return value;
}

GrantMessage grant() {
  GrantMessage message;
  message.volume = "pgdata";
  message.generation = UINT64_MAX;
  message.device = 7;
  message.geometry = geometry();
  message.queue_cpus = {{0, 2}, {1}};
  message.backend = {{"kind", "null"}};
  message.latency_ns = 5;
  message.halt_at = "half_fetched";
  return message;
}

// As it arrives: through text.
json sent(const json& message) { return json::parse(message.dump()); }

TEST(ServerProtocolTest, ReadyComesBackAsItWas) {
  const ReadyMessage message{.uid = 990,
                             .has_capabilities = true,
                             .no_new_privileges = true,
                             .io_flusher = true,
                             .memory_locked = true,
                             .arena_bytes = 1 << 24,
                             .startup_us = 812,
                             .warning = "w"};
  const auto read = ready_from_json(sent(to_json(message)));
  ASSERT_TRUE(read.ok()) << read.error().to_string();
  EXPECT_EQ(read->uid, 990u);
  EXPECT_TRUE(read->has_capabilities && read->no_new_privileges && read->io_flusher &&
              read->memory_locked);
  EXPECT_EQ(read->arena_bytes, 1u << 24);
  EXPECT_EQ(read->startup_us, 812u);
  EXPECT_EQ(read->warning, "w");
}

TEST(ServerProtocolTest, PrepareComesBackAsItWas) {
  const auto read = prepare_from_json(sent(to_json(PrepareMessage{geometry(), true})));
  ASSERT_TRUE(read.ok()) << read.error().to_string();
  EXPECT_EQ(read->geometry, geometry());
  EXPECT_TRUE(read->run_first);
}

TEST(ServerProtocolTest, GrantComesBackAsItWas) {
  const auto read = grant_from_json(sent(to_json(grant())));
  ASSERT_TRUE(read.ok()) << read.error().to_string();
  EXPECT_EQ(read->volume, "pgdata");
  EXPECT_EQ(read->generation, UINT64_MAX);
  EXPECT_EQ(read->device, 7u);
  EXPECT_EQ(read->geometry, geometry());
  EXPECT_EQ(read->queue_cpus, grant().queue_cpus);
  EXPECT_EQ(read->backend, grant().backend);
  EXPECT_EQ(read->latency_ns, 5u);
  EXPECT_EQ(read->halt_at, "half_fetched");
}

TEST(ServerProtocolTest, StatsComeBackAsTheyWere) {
  StatsMessage message;
  message.id = 3;
  message.io["read"] = {.operations = 1, .bytes = UINT64_MAX, .errors = 2};
  message.io["read"].latency.counts[IoLatency::bounds] = 1;
  message.io["read"].latency.sum_ns = 99'000'000'000;
  message.io_errors["ENOSPC"] = 4;
  const auto read = stats_from_json(sent(to_json(message)));
  ASSERT_TRUE(read.ok()) << read.error().to_string();
  EXPECT_EQ(read->id, 3u);
  EXPECT_EQ(read->io, message.io);
  EXPECT_EQ(read->io_errors, message.io_errors);
}

TEST(ServerProtocolTest, AnOlderServersStatsHaveNoLatencyAndWrongOnesAreRefused) {
  StatsMessage message;
  message.io["read"] = {.operations = 1, .bytes = 4096, .errors = 0};
  json older = sent(to_json(message));
  older["io"]["read"].erase("latency");
  older["io"]["read"].erase("latency_ns");
  const auto read = stats_from_json(older);
  ASSERT_TRUE(read.ok()) << read.error().to_string();
  EXPECT_EQ(read->io, message.io);
  for (const json& wrong : {json(3), json::array({1, 2}), json(std::vector<int>(13, -1))}) {
    json bad = sent(to_json(message));
    bad["io"]["read"]["latency"] = wrong;
    EXPECT_FALSE(stats_from_json(bad).ok()) << wrong.dump();
  }
}

TEST(ServerProtocolTest, DescribedComesBackAsItWas) {
  const DescribedMessage message{
      .granted = true, .volume = "a", .generation = 2, .device = 9, .fetching = true};
  const auto read = described_from_json(sent(to_json(message)));
  ASSERT_TRUE(read.ok()) << read.error().to_string();
  EXPECT_TRUE(read->granted && read->fetching);
  EXPECT_EQ(read->volume, "a");
  EXPECT_EQ(read->generation, 2u);
  EXPECT_EQ(read->device, 9u);
}

TEST(ServerProtocolTest, FailedKeepsTheErrno) {
  const Error error = failed_from_json(
      sent(failed_to_json(Error{EBUSY, "open", "/dev/ublkc3", "the old server still holds it"})));
  EXPECT_EQ(error.to_string(), "EBUSY open /dev/ublkc3: the old server still holds it");
}

TEST(ServerProtocolTest, MisshapenFailedIsStillAnError) {
  for (const char* text :
       {"{}", "[]", "{\"errno\":0,\"operation\":\"\",\"object\":\"\",\"detail\":\"\"}",
        "{\"errno\":\"EIO\"}"})
    EXPECT_EQ(failed_from_json(json::parse(text)).err, EPROTO) << text;
}

TEST(ServerProtocolTest, PrepareOfAnOlderAgentIsRead) {
  json older = sent(to_json(PrepareMessage{geometry(), true}));
  older.erase("run_first");
  const auto read = prepare_from_json(older);
  ASSERT_TRUE(read.ok()) << read.error().to_string();
  EXPECT_FALSE(read->run_first);
}

TEST(ServerProtocolTest, EveryFieldOfAGrantIsNeededAndTyped) {
  const json good = sent(to_json(grant()));
  for (const auto& [key, value] : good.items()) {
    json bad = good;
    bad.erase(key);
    EXPECT_EQ(grant_from_json(bad).err(), EPROTO) << "without " << key;
    bad = good;
    bad[key] = nullptr;
    EXPECT_EQ(grant_from_json(bad).err(), EPROTO) << key << " null";
  }
  for (const auto& [key, value] : good["geometry"].items()) {
    json bad = good;
    bad["geometry"].erase(key);
    EXPECT_EQ(grant_from_json(bad).err(), EPROTO) << "without geometry." << key;
  }
}

TEST(ServerProtocolTest, ImpossibleGeometryIsRefused) {
  const json good = sent(to_json(geometry()));
  ASSERT_TRUE(geometry_from_json(good).ok());
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, json>>{
           {"queues", 0},
           {"queues", 4097},
           {"queues", 65536},
           {"queue_depth", 0},
           {"queue_depth", 4097},
           {"max_io_bytes", 0},
           {"max_io_bytes", 5000},
           {"max_io_bytes", 64 << 20},
           {"max_io_bytes", 8 << 20},  // 2 x 128 x 8 MiB
           {"logical_block_bytes", 0},
           {"logical_block_bytes", 1000},
           {"logical_block_bytes", 8192},
           {"size_bytes", 0},
           {"size_bytes", 4097}}) {
    json bad = good;
    bad[key] = value;
    EXPECT_EQ(geometry_from_json(bad).err(), EINVAL) << key << " " << value;
  }
  json bad = good;
  bad["size_bytes"] = -4096;
  EXPECT_EQ(geometry_from_json(bad).err(), EPROTO);
}

TEST(ServerProtocolTest, WrongTypeOrShapeIsEproto) {
  EXPECT_EQ(grant_from_json(json::array()).err(), EPROTO);
  EXPECT_EQ(grant_from_json(sent(to_json(PrepareMessage{geometry()}))).err(), EPROTO);
  EXPECT_EQ(stats_from_json({{"type", "stats"}, {"id", 1}, {"io", {{"read", 3}}}}).err(), EPROTO);
  json bad = sent(to_json(grant()));
  bad["queue_cpus"] = {0, 1};
  EXPECT_EQ(grant_from_json(bad).err(), EPROTO);
  bad["queue_cpus"] = {{-1}, {1}};
  EXPECT_EQ(grant_from_json(bad).err(), EPROTO);
}

TEST(ServerProtocolTest, QueueCpusMustBeOneListAQueueOrNone) {
  json message = sent(to_json(grant()));
  message["queue_cpus"] = json::array();
  EXPECT_TRUE(grant_from_json(message).ok());
  message["queue_cpus"] = {{0}};
  EXPECT_EQ(grant_from_json(message).err(), EINVAL);
}

TEST(ServerProtocolTest, UnknownHaltPointIsRefused) {
  json message = sent(to_json(grant()));
  message["halt_at"] = "before_breakfast";
  EXPECT_EQ(grant_from_json(message).err(), EINVAL);
}

}  // namespace
}  // namespace ublk_operator
