#include "common/api/io_latency.h"

#include <gtest/gtest.h>

namespace ublk_operator {
namespace {

TEST(IoLatencyTest, ABoundBelongsToTheBucketBelowIt) {
  EXPECT_EQ(IoLatency::bucket_of(0), 0U);
  for (size_t i = 0; i < IoLatency::bounds; ++i) {
    EXPECT_EQ(IoLatency::bucket_of(IoLatency::bound_ns(i)), i);
    EXPECT_EQ(IoLatency::bucket_of(IoLatency::bound_ns(i) + 1), i + 1);
  }
  EXPECT_EQ(IoLatency::bucket_of(UINT64_MAX), IoLatency::bounds);
}

TEST(IoLatencyTest, BoundsGoFromMicrosecondsToAMinute) {
  EXPECT_EQ(IoLatency::bound_ns(0), 16'384U);
  EXPECT_GT(IoLatency::bound_ns(IoLatency::bounds - 1), 60'000'000'000U);
}

}  // namespace
}  // namespace ublk_operator
