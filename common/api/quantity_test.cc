#include "common/api/quantity.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <random>
#include <vector>

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;

TEST(QuantityTest, ReadsWhatKubernetesReads) {
  const std::vector<std::pair<const char*, uint64_t>> cases = {
      {"0", 0},
      {"4096", 4096},
      {"+1Ki", 1024},
      {"10Gi", uint64_t{10} << 30},
      {"1.5Gi", uint64_t{3} << 29},
      {".5Ki", 512},
      {"2.Ki", 2048},
      {"1k", 1000},
      {"1E", 1'000'000'000'000'000'000},
      {"1e3", 1000},
      {"1E3", 1000},
      {"1.5e3", 1500},
      {"5000e-3", 5},
      {"0.000001M", 1},
      {"1.0000000000000000000000000", 1},
      {"00012", 12},
      {"7Ei", uint64_t{7} << 60},
      {"9223372036854775807", 9223372036854775807U},
      {"0e99999999999", 0},
  };
  for (const auto& [text, bytes] : cases) {
    const auto parsed = parse_quantity(text);
    ASSERT_TRUE(parsed.ok()) << text << ": " << parsed.error().to_string();
    EXPECT_EQ(*parsed, bytes) << text;
  }
}

TEST(QuantityTest, SaysWhatIsWrong) {
  struct Case {
    const char* text;
    int err;
    const char* detail;
  };
  const std::vector<Case> cases = {
      {"", EINVAL, "is empty; expected a quantity such as 10Gi"},
      {"-1Gi", EINVAL, "is negative; expected a quantity such as 10Gi"},
      {"Gi", EINVAL, "is not a quantity; expected one such as 10Gi"},
      {".", EINVAL, "is not a quantity; expected one such as 10Gi"},
      {"+", EINVAL, "is not a quantity; expected one such as 10Gi"},
      {"0.5", EINVAL, "is not a whole number of bytes"},
      {"1e-1", EINVAL, "is not a whole number of bytes"},
      {"1.0001Ki", EINVAL, "is not a whole number of bytes"},
      {"0.0000000000000000000000001Ei", EINVAL, "is not a whole number of bytes"},
      {"10GiB", EINVAL,
       "has the unknown suffix 'GiB'; expected Ki, Mi, Gi, Ti, Pi, Ei, k, M, G, T, P, E or none "
       "(did you mean 'Gi'?)"},
      {"100m", EINVAL,
       "has the unknown suffix 'm'; expected Ki, Mi, Gi, Ti, Pi, Ei, k, M, G, T, P, E or none "
       "(did you mean 'Mi'?)"},
      {"1 Gi", EINVAL,
       "has the unknown suffix ' Gi'; expected Ki, Mi, Gi, Ti, Pi, Ei, k, M, G, T, P, E or none "
       "(did you mean 'Gi'?)"},
      {"8Ei", ERANGE, "is too large; at most 2^63-1 bytes"},
      {"9223372036854775808", ERANGE, "is too large; at most 2^63-1 bytes"},
      {"99999999999999999999999", ERANGE, "is too large; at most 2^63-1 bytes"},
      {"10E", ERANGE, "is too large; at most 2^63-1 bytes"},
      {"1e19", ERANGE, "is too large; at most 2^63-1 bytes"},
      {"1e99999999999", ERANGE, "is too large; at most 2^63-1 bytes"},
  };
  for (const auto& [text, err, detail] : cases) {
    const auto parsed = parse_quantity(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.err(), err) << text;
    EXPECT_EQ(parsed.error().detail, detail) << text;
  }
}

TEST(QuantityTest, FormatsTheShortestExactForm) {
  const std::vector<std::pair<uint64_t, const char*>> cases = {
      {0, "0"},        {512, "512"},
      {4096, "4Ki"},   {uint64_t{10} << 30, "10Gi"},
      {1000, "1k"},    {uint64_t{1536} << 20, "1536Mi"},
      {513, "513"},    {1'000'000'000, "1G"},
      {1'025, "1025"}, {9223372036854775807U, "9223372036854775807"},
  };
  for (const auto& [bytes, text] : cases) EXPECT_EQ(format_quantity(bytes), text);
}

TEST(QuantityTest, WhatIsFormattedReadsBackTheSame) {
  std::mt19937_64 random(20250101);
  for (int i = 0; i < 10'000; ++i) {
    const uint64_t bytes = (random() >> 1) >> (random() % 63) << (random() % 8);
    if (bytes > uint64_t{INT64_MAX}) continue;
    const auto parsed = parse_quantity(format_quantity(bytes));
    ASSERT_TRUE(parsed.ok()) << bytes;
    ASSERT_EQ(*parsed, bytes);
  }
}

TEST(DurationTest, ReadsWhatGoReads) {
  const std::vector<std::pair<const char*, std::chrono::milliseconds>> cases = {
      {"0", 0ms},         {"0s", 0ms},      {"500ms", 500ms},          {"1m30s", 90s},
      {"2h", 2h},         {"1.5s", 1500ms}, {"1h0m0.001s", 3600001ms}, {"1000us", 1ms},
      {"2000000ns", 2ms}, {"576h", 576h},
  };
  for (const auto& [text, duration] : cases) {
    const auto parsed = parse_duration(text);
    ASSERT_TRUE(parsed.ok()) << text << ": " << parsed.error().to_string();
    EXPECT_EQ(*parsed, duration) << text;
  }
}

TEST(DurationTest, SaysWhatIsWrong) {
  struct Case {
    const char* text;
    int err;
    const char* detail;
  };
  const std::vector<Case> cases = {
      {"", EINVAL, "is empty; expected a duration such as 30s or 1m30s"},
      {"30", EINVAL, "has no unit; expected one of h, m, s, ms (did you mean '30s'?)"},
      {"-5s", EINVAL, "is negative; expected a duration such as 30s"},
      {"soon", EINVAL, "is not a duration; expected one such as 500ms, 30s, 1m30s or 2h"},
      {"3d", EINVAL, "has the unknown unit 'd'; expected h, m, s or ms"},
      {"5 s", EINVAL, "has the unknown unit ' s'; expected h, m, s or ms"},
      {"1us", EINVAL, "is not a whole number of milliseconds"},
      {"577h", ERANGE, "is too long; at most 24 days"},
      {"300h300h", ERANGE, "is too long; at most 24 days"},
      {"99999999999999999999h", ERANGE, "is too long; at most 24 days"},
  };
  for (const auto& [text, err, detail] : cases) {
    const auto parsed = parse_duration(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.err(), err) << text;
    EXPECT_EQ(parsed.error().detail, detail) << text;
  }
}

TEST(DurationTest, FormatsLikeAPersonWouldWrite) {
  EXPECT_EQ(format_duration(0ms), "0s");
  EXPECT_EQ(format_duration(100ms), "100ms");
  EXPECT_EQ(format_duration(30s), "30s");
  EXPECT_EQ(format_duration(90500ms), "1m30.5s");
  EXPECT_EQ(format_duration(2h), "2h");
  EXPECT_EQ(format_duration(25h + 1s), "25h1s");
  EXPECT_EQ(format_duration_micro(41'234us), "41.234ms");
  EXPECT_EQ(format_duration_micro(834us), "834us");
  EXPECT_EQ(format_duration_micro(-1us), "0s");
}

TEST(DurationTest, WhatIsFormattedReadsBackTheSame) {
  std::mt19937_64 random(20250102);
  for (int i = 0; i < 10'000; ++i) {
    const std::chrono::microseconds duration((random() >> 1) >> (random() % 63));
    const auto parsed = parse_duration_micro(format_duration_micro(duration));
    ASSERT_TRUE(parsed.ok()) << duration.count();
    ASSERT_EQ(*parsed, duration);
  }
}

TEST(TimeTest, IsRfc3339InUtc) {
  const std::chrono::system_clock::time_point time(1'700'000'000s + 250'001us);
  EXPECT_EQ(format_time(time), "2023-11-14T22:13:20Z");
  EXPECT_EQ(format_time_micro(time), "2023-11-14T22:13:20.250001Z");
}

}  // namespace
}  // namespace ublk_operator
