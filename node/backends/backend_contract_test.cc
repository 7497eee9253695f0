// What every kind of backend promises, run on each of them over a real ring. A new kind joins the
// list at the end.
#include <fcntl.h>

#include <algorithm>
#include <filesystem>

#include "node/backends/test_harness.h"

namespace ublk_operator {
namespace {

constexpr uint64_t kSizeBytes = 1 << 20;

struct Kind {
  const char* name;
  bool keeps_data;
  bool direct;
  nlohmann::json config;
};

class BackendContractTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    if (!testing::ring_is_allowed()) GTEST_SKIP() << "io_uring is not allowed on this machine";
    std::vector<UniqueFd> fds;
    if (GetParam().config.at("kind") == "file") {
      const int flags = O_RDWR | O_CLOEXEC | O_TMPFILE | (GetParam().direct ? O_DIRECT : 0);
      UniqueFd file(open(std::filesystem::temp_directory_path().c_str(), flags, 0600));
      if (!file.valid() && GetParam().direct)
        GTEST_SKIP() << "the temporary folder's file system cannot do direct I/O";
      ASSERT_TRUE(file.valid());
      ASSERT_EQ(ftruncate(file.get(), kSizeBytes), 0);
      fds.push_back(std::move(file));
    }
    auto backend = make_backend(GetParam().config, std::move(fds));
    ASSERT_TRUE(backend.ok()) << backend.error().to_string();
    harness_ = std::make_unique<testing::BackendHarness>(std::move(backend).value());
  }

  // Reads must show `expected`, where the backend keeps data at all.
  void expect_data(uint64_t offset, const std::vector<std::byte>& expected) {
    const auto [result, data] = harness_->read(offset, static_cast<uint32_t>(expected.size()));
    EXPECT_EQ(result, static_cast<int32_t>(expected.size()));
    if (GetParam().keeps_data) {
      EXPECT_TRUE(data == expected) << "at offset " << offset;
    }
  }

  std::unique_ptr<testing::BackendHarness> harness_;
};

TEST_P(BackendContractTest, ReadReturnsWhatWasWritten) {
  const auto first = testing::pattern(4096, 1);
  const auto second = testing::pattern(65536, 2);
  EXPECT_EQ(harness_->write(8192, first), 4096);
  EXPECT_EQ(harness_->write(131072, second), 65536);
  expect_data(8192, first);
  expect_data(131072, second);
}

TEST_P(BackendContractTest, LastBlockOfTheVolumeIsUsable) {
  const auto data = testing::pattern(4096, 3);
  EXPECT_EQ(harness_->write(kSizeBytes - 4096, data), 4096);
  expect_data(kSizeBytes - 4096, data);
}

TEST_P(BackendContractTest, DurableWriteAndFlushSucceed) {
  const auto data = testing::pattern(4096, 4);
  EXPECT_EQ(harness_->write(0, data, true), 4096);
  EXPECT_EQ(harness_->simple(IoOp::flush), 0);
  expect_data(0, data);
}

TEST_P(BackendContractTest, DiscardLeavesTheNeighboursAlone) {
  const auto data = testing::pattern(65536, 5);
  ASSERT_EQ(harness_->write(65536, data), 65536);
  EXPECT_EQ(harness_->simple(IoOp::discard, 65536 + 16384, 32768), 32768);
  expect_data(65536, {data.begin(), data.begin() + 16384});
  expect_data(65536 + 49152, {data.begin() + 49152, data.end()});
}

TEST_P(BackendContractTest, WriteZeroesZeroesExactlyTheRange) {
  for (const bool may_unmap : {true, false}) {
    for (const bool fua : {true, false}) {
      auto data = testing::pattern(65536, 6);
      ASSERT_EQ(harness_->write(262144, data), 65536);
      const int32_t result =
          harness_->simple(IoOp::write_zeroes, 262144 + 8192, 16384, may_unmap, fua);
      if (result == -EOPNOTSUPP) continue;  // the block layer then writes the zeroes
      EXPECT_EQ(result, 16384);
      std::fill(data.begin() + 8192, data.begin() + 24576, std::byte{0});
      expect_data(262144, data);
    }
  }
}

TEST_P(BackendContractTest, AllTagsMayBeOnTheirWayAtOnce) {
  constexpr auto depth = testing::BackendHarness::depth;
  std::vector<std::vector<std::byte>> data;
  for (uint16_t tag = 0; tag < depth; ++tag) {
    data.push_back(testing::pattern(4096, 100u + tag));
    auto buffer = harness_->buffer(tag, 4096);
    std::copy(data[tag].begin(), data[tag].end(), buffer.begin());
    harness_->start({.op = IoOp::write,
                     .tag = tag,
                     .offset_bytes = uint64_t{tag} * 8192,
                     .length_bytes = 4096,
                     .buffer = buffer});
  }
  for (uint16_t tag = depth; tag-- > 0;) EXPECT_EQ(harness_->finish(tag), 4096);
  for (uint16_t tag = 0; tag < depth; ++tag) expect_data(uint64_t{tag} * 8192, data[tag]);
}

TEST_P(BackendContractTest, ATagMayBeUsedAgainForAnotherOperation) {
  const auto data = testing::pattern(4096, 7);
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(harness_->write(0, data, round == 1), 4096);
    ASSERT_EQ(harness_->simple(IoOp::flush), 0);
    expect_data(0, data);
  }
}

TEST_P(BackendContractTest, OutOfBoundsNeverReachesStorage) {
  if (!GetParam().keeps_data) return;  // no storage to protect
  EXPECT_EQ(harness_->write(kSizeBytes, testing::pattern(4096, 8)), -EIO);
  EXPECT_EQ(harness_->write(kSizeBytes - 512, testing::pattern(4096, 8)), -EIO);
  EXPECT_EQ(harness_->write(UINT64_MAX - 511, testing::pattern(4096, 8)), -EIO);
}

nlohmann::json file_config(bool direct, uint64_t latency_ns) {
  return {{"kind", "file"},
          {"path", "volume.img"},
          {"size_bytes", kSizeBytes},
          {"direct", direct},
          {"logical_block_bytes", direct ? 4096 : 512},
          {"latency_ns", latency_ns}};
}

INSTANTIATE_TEST_SUITE_P(Kinds, BackendContractTest,
                         ::testing::Values(Kind{"null", false, false, {{"kind", "null"}}},
                                           Kind{"file", true, false, file_config(false, 0)},
                                           Kind{"file_direct", true, true, file_config(true, 0)},
                                           Kind{"file_delayed", true, false,
                                                file_config(false, 1'000'000)}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(MakeBackendTest, UnknownKindIsNamed) {
  const auto made = make_backend({{"kind", "nbd"}}, {});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.err(), EINVAL);
  EXPECT_EQ(made.error().object, "nbd");
}

TEST(MakeBackendTest, WrongConfigIsEinval) {
  EXPECT_EQ(make_backend(nlohmann::json::array(), {}).err(), EINVAL);
  EXPECT_EQ(make_backend({{"kin", "null"}}, {}).err(), EINVAL);
  EXPECT_EQ(make_backend({{"kind", 3}}, {}).err(), EINVAL);
  EXPECT_EQ(make_backend({{"kind", "null"}, {"latency_ns", -1}}, {}).err(), EINVAL);
}

}  // namespace
}  // namespace ublk_operator
