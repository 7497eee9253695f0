// The parts of the control plane that need no kernel: names, modes, geometry, sentences.
#include <gtest/gtest.h>

#include <cerrno>

#include "node/ublk/explain.h"
#include "node/ublk/geometry.h"
#include "node/ublk/modes.h"

namespace ublk_operator {
namespace {

constexpr uint64_t all_of_7_2 = 0xfffff;
constexpr uint64_t recovery_of_6_12 = flags::user_recovery | flags::user_recovery_reissue;

Geometry good_geometry() {
  Geometry geometry;
  geometry.size_bytes = 1 << 30;
  return geometry;
}

TEST(DeviceTest, FlagsAreNamedAsInTheKernel) {
  EXPECT_EQ(flags_to_string(0), "none");
  EXPECT_EQ(flags_to_string(flags::user_recovery | flags::quiesce), "USER_RECOVERY|QUIESCE");
  EXPECT_EQ(flags_to_string(flags::user_recovery | 1ull << 40), "USER_RECOVERY|0x10000000000");
  for (unsigned bit = 0; bit < 20; ++bit)
    EXPECT_EQ(flags_to_string(1ull << bit).find("0x"), std::string::npos) << "bit " << bit;
}

TEST(ModesTest, EveryModeComesBackFromItsFlags) {
  for (const RecoveryMode mode :
       {RecoveryMode::none, RecoveryMode::queue, RecoveryMode::reissue, RecoveryMode::fail_io}) {
    const Result<uint64_t> wanted = flags_for(mode, all_of_7_2);
    ASSERT_TRUE(wanted);
    EXPECT_EQ(mode_of(*wanted), mode);
  }
}

TEST(ModesTest, RecoverableModesCanBeHandedOverWhereTheKernelCan) {
  EXPECT_NE(*flags_for(RecoveryMode::reissue, all_of_7_2) & flags::quiesce, 0u);
  EXPECT_EQ(*flags_for(RecoveryMode::none, all_of_7_2), 0u) << "QUIESCE needs USER_RECOVERY";
  EXPECT_EQ(*flags_for(RecoveryMode::reissue, recovery_of_6_12) & flags::quiesce, 0u);
}

TEST(ModesTest, FailIoOnAnOlderKernelNamesTheVersionThatHasIt) {
  const Result<uint64_t> wanted = flags_for(RecoveryMode::fail_io, recovery_of_6_12);
  ASSERT_EQ(wanted.err(), ENOTSUP);
  EXPECT_NE(wanted.error().detail.find("Linux 6.13"), std::string::npos);
}

TEST(ModesTest, FlagsThatWereClearedSilentlyShowInTheRecoveryBits) {
  const uint64_t wanted = *flags_for(RecoveryMode::fail_io, all_of_7_2);
  const uint64_t granted = wanted & recovery_of_6_12;
  EXPECT_NE(recovery_bits(wanted), recovery_bits(granted));
}

TEST(GeometryTest, SurvivesTheTripThroughTheKernelsParameters) {
  Geometry geometry = good_geometry();
  geometry.logical_block_bytes = 4096;
  geometry.read_only = true;
  geometry.fua = false;
  geometry.discard_granularity_bytes = 8192;
  geometry.discard_max_bytes = 1 << 20;
  geometry.write_zeroes_max_bytes = 2 << 20;
  const Result<abi::Params> params = to_params(geometry, "ublk3");
  ASSERT_TRUE(params) << params.error().to_string();
  EXPECT_EQ(from_params(*params), geometry);
}

TEST(GeometryTest, WithoutDiscardNoneIsOffered) {
  const Result<abi::Params> params = to_params(good_geometry(), "ublk3");
  ASSERT_TRUE(params);
  EXPECT_EQ(params->types, abi::param::basic);
}

TEST(GeometryTest, WhatIsWrongIsNamed) {
  const auto fault = [](auto&& spoil) {
    Geometry geometry = good_geometry();
    spoil(geometry);
    const Result<abi::Params> params = to_params(geometry, "ublk3");
    return params ? std::string("nothing") : params.error().detail;
  };
  EXPECT_NE(fault([](Geometry& g) { g.logical_block_bytes = 700; }).find("logical block size 700"),
            std::string::npos);
  EXPECT_NE(fault([](Geometry& g) { g.logical_block_bytes = 0; }).find("logical block size 0"),
            std::string::npos);
  EXPECT_NE(fault([](Geometry& g) { g.physical_block_bytes = 256; }).find("physical block size"),
            std::string::npos);
  EXPECT_NE(fault([](Geometry& g) { g.size_bytes = 0; }).find("size 0"), std::string::npos);
  EXPECT_NE(fault([](Geometry& g) { g.size_bytes += 100; }).find("size "), std::string::npos);
  EXPECT_NE(fault([](Geometry& g) { g.max_io_bytes = 5000; }).find("maximal I/O size 5000"),
            std::string::npos);
  EXPECT_NE(fault([](Geometry& g) { g.max_io_bytes = 64 << 20; }).find("maximal I/O size"),
            std::string::npos);
  EXPECT_NE(fault([](Geometry& g) { g.discard_max_bytes = 4096; }).find("discard granularity"),
            std::string::npos);
  EXPECT_EQ(fault([](Geometry&) {}), "nothing");
}

TEST(ExplainTest, BusyRecoveryIsToldApartByTheState) {
  Verdict verdict{"start_user_recovery", EBUSY, 3, DeviceInfo{}, 0};
  verdict.device->state = DeviceState::live;
  EXPECT_NE(explain(verdict).find("/dev/ublkc3 (state LIVE)"), std::string::npos);
  verdict.device->state = DeviceState::dead;
  EXPECT_NE(explain(verdict).find("no disk to recover (state DEAD)"), std::string::npos);
  verdict.device->state = DeviceState::quiesced;
  EXPECT_NE(explain(verdict).find("state QUIESCED"), std::string::npos);
}

TEST(ExplainTest, RecoveryOfNoneIsOneClearSentence) {
  const Verdict verdict{"start_user_recovery", EINVAL, 3, DeviceInfo{}, 0};
  EXPECT_EQ(explain(verdict), "the device was made without USER_RECOVERY (recovery.mode None)");
}

TEST(ExplainTest, IllegalFlagsAreNamed) {
  const Verdict verdict{"add_dev", EINVAL, 3, std::nullopt, flags::user_recovery_reissue};
  EXPECT_NE(explain(verdict).find("USER_RECOVERY_REISSUE"), std::string::npos);
}

TEST(ExplainTest, NoErrnoIsLeftWithoutASentence) {
  for (const char* operation : {"add_dev", "start_dev", "end_user_recovery", "quiesce_dev"}) {
    for (int err = 1; err < 134; ++err)
      EXPECT_NE(explain(Verdict{operation, err, 3, std::nullopt, 0}), "") << operation << err;
  }
}

}  // namespace
}  // namespace ublk_operator
