// The server as far as it goes without a ublk device: the channel, the steps of its queues, and
// what it answers when a grant cannot be honoured. The rest is in server_kernel_test.cc.
#include "node/server/server.h"

#include <poll.h>

#include <future>

#include "gtest/gtest.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr DeviceId kNoSuchDevice = 1048575;

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (auto ring = Ring::create(2, 0); !ring) GTEST_SKIP() << ring.error().to_string();
    auto pair = MessageSocket::pair();
    ASSERT_TRUE(pair.ok());
    agent_ = std::move(pair->first);
    auto server = Server::create(std::move(pair->second), Mapping{});
    ASSERT_TRUE(server.ok());
    status_ = std::async(std::launch::async, [server = std::move(server).value()] {
      return server->run(ReadyMessage{});
    });
    ASSERT_EQ(receive().at("type"), "ready");
  }
  void TearDown() override { agent_.close(); }

  json receive() {
    auto message = agent_.receive(20s);
    return message ? message->body : json{{"type", message.error().to_string()}};
  }
  json ask(const json& body) {
    EXPECT_TRUE(agent_.send(body).ok());
    return receive();
  }
  static Geometry geometry(uint16_t queues, uint16_t depth) {
    Geometry value;
    value.queues = queues;
    value.queue_depth = depth;
    value.max_io_bytes = 4096;
    value.size_bytes = 1 << 20;
    return value;
  }
  static GrantMessage grant() {
    GrantMessage message;
    message.volume = "test";
    message.device = kNoSuchDevice;
    message.geometry = geometry(2, 8);
    message.backend = {{"kind", "null"}};
    return message;
  }

  MessageSocket agent_;
  std::future<int> status_;
};

TEST_F(ServerTest, PreparesAgainWhenTheGeometryChanges) {
  for (const auto& shape : {geometry(2, 8), geometry(2, 8), geometry(1, 64), geometry(3, 1)})
    EXPECT_EQ(ask(to_json(PrepareMessage{shape})).at("type"), "prepared");
  agent_.close();
  EXPECT_EQ(status_.get(), 0);
}

TEST_F(ServerTest, StandbyWithoutAChannelLeaves) {
  agent_.close();
  EXPECT_EQ(status_.get(), 0);
}

TEST_F(ServerTest, StandbyAnswersWhatItIs) {
  const auto described = described_from_json(ask({{"type", "describe"}}));
  ASSERT_TRUE(described.ok());
  EXPECT_FALSE(described->granted);
  const auto stats = stats_from_json(ask({{"type", "stats"}, {"id", 4u}}));
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->id, 4u);
  EXPECT_EQ(stats->io.size(), io_op_count);
}

TEST_F(ServerTest, HeraldTellsWhenTheServerEnds) {
  ASSERT_TRUE(agent_.send({{"type", "describe"}}).ok());
  const auto described = agent_.receive(20s);
  ASSERT_TRUE(described.ok());
  if (described->fds.empty())
    GTEST_SKIP() << "this kernel has no descriptors of threads (Linux 6.9)";
  pollfd herald{described->fds.front().get(), POLLIN, 0};
  EXPECT_EQ(poll(&herald, 1, 0), 0);
  agent_.close();
  EXPECT_EQ(status_.get(), 0);
  EXPECT_EQ(poll(&herald, 1, 20'000), 1);
}

TEST_F(ServerTest, GrantOfADeviceThatIsNotThereFails) {
  EXPECT_EQ(ask(to_json(grant())).at("type"), "opening");
  const auto answer = receive();
  EXPECT_EQ(answer.at("type"), "failed");
  const Error error = failed_from_json(answer);
  EXPECT_EQ(error.err, ENOENT);
  EXPECT_EQ(error.object, "/dev/ublkc1048575");
  EXPECT_EQ(status_.get(), 1);
}

TEST_F(ServerTest, GrantOfAnUnknownBackendFails) {
  auto message = grant();
  message.backend["kind"] = "tape";
  const auto answer = ask(to_json(message));
  EXPECT_EQ(failed_from_json(answer).err, EINVAL);
  EXPECT_EQ(status_.get(), 1);
}

TEST_F(ServerTest, HaltPointWithoutADescriptorFails) {
  auto message = grant();
  message.halt_at = "before_open";
  EXPECT_EQ(failed_from_json(ask(to_json(message))).err, EPROTO);
  EXPECT_EQ(status_.get(), 1);
}

TEST_F(ServerTest, UnknownMessageEndsAServerThatServesNothing) {
  const auto answer = ask({{"type", "sing"}});
  EXPECT_EQ(answer.at("type"), "failed");
  EXPECT_EQ(failed_from_json(answer).err, EPROTO);
  EXPECT_EQ(status_.get(), 1);
}

TEST_F(ServerTest, ImpossibleGeometryEndsAServerThatServesNothing) {
  EXPECT_EQ(failed_from_json(ask(to_json(PrepareMessage{geometry(0, 8)}))).err, EINVAL);
  EXPECT_EQ(status_.get(), 1);
}

}  // namespace
}  // namespace ublk_operator
