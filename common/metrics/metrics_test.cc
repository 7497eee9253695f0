// What Prometheus would read.
#include "common/metrics/metrics.h"

#include <gmock/gmock.h>

namespace ublk_operator::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(MetricsTest, ASeriesIsTheSameWhenAskedAgain) {
  Registry registry;
  registry.counter("ublk_tries_total", "Tries.", {{"reason", "a"}}).add();
  registry.counter("ublk_tries_total", "Tries.", {{"reason", "a"}}).add(2);
  registry.counter("ublk_tries_total", "Tries.", {{"reason", "b"}}).add();
  const std::string text = registry.text();
  EXPECT_THAT(text, HasSubstr("# HELP ublk_tries_total Tries.\n# TYPE ublk_tries_total counter\n"));
  EXPECT_THAT(text, HasSubstr("ublk_tries_total{reason=\"a\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("ublk_tries_total{reason=\"b\"} 1\n"));
}

TEST(MetricsTest, AHistogramCountsIntoItsBuckets) {
  Registry registry;
  const auto pause = registry.histogram("ublk_pause_seconds", "Pauses.", {0.1, 1});
  pause.observe(0.05);
  pause.observe(0.5);
  pause.observe(5);
  const std::string text = registry.text();
  EXPECT_THAT(text, HasSubstr("ublk_pause_seconds_count 3\n"));
  EXPECT_THAT(text, HasSubstr("ublk_pause_seconds_bucket{le=\"0.1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("ublk_pause_seconds_bucket{le=\"1\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("ublk_pause_seconds_bucket{le=\"+Inf\"} 3\n"));
}

TEST(MetricsTest, AHistogramTakesWhatWasCountedElsewhere) {
  Registry registry;
  const auto latency = registry.histogram("ublk_latency_seconds", "Latency.", {0.1, 1});
  latency.observe_many({2, 0, 1}, 7.5);
  latency.observe_many({1, 1, 0}, 0.5);
  const std::string text = registry.text();
  EXPECT_THAT(text, HasSubstr("ublk_latency_seconds_count 5\n"));
  EXPECT_THAT(text, HasSubstr("ublk_latency_seconds_sum 8\n"));
  EXPECT_THAT(text, HasSubstr("ublk_latency_seconds_bucket{le=\"0.1\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("ublk_latency_seconds_bucket{le=\"1\"} 4\n"));
}

TEST(MetricsTest, WhatIsOnlyKnownByLookingIsLookedAtForEachText) {
  Registry registry;
  const auto age = registry.gauge("ublk_age_seconds", "Age.");
  int looks = 0;
  registry.on_scrape([&] { age.set(++looks); });
  EXPECT_THAT(registry.text(), HasSubstr("ublk_age_seconds 1\n"));
  EXPECT_THAT(registry.text(), HasSubstr("ublk_age_seconds 2\n"));
}

TEST(MetricsTest, SeriesOfWhatIsNoMoreGo) {
  Registry registry;
  registry.counter("ublk_io_total", "I/O.", {{"volume", "a"}, {"operation", "read"}}).add();
  registry.counter("ublk_io_total", "I/O.", {{"volume", "b"}, {"operation", "read"}}).add();
  registry.gauge("ublk_state", "State.", {{"volume", "a"}}).set(1);
  registry.remove({{"volume", "a"}});
  const std::string text = registry.text();
  EXPECT_THAT(text, Not(HasSubstr("volume=\"a\"")));
  EXPECT_THAT(text, HasSubstr("volume=\"b\""));
  EXPECT_EQ(
      registry.counter("ublk_io_total", "I/O.", {{"volume", "a"}, {"operation", "read"}}).value(),
      0);
}

TEST(MetricsDeathTest, ANameOfAnotherTypeIsABrokenAssumption) {
  Registry registry;
  (void)registry.counter("ublk_x_total", "X.");
  EXPECT_DEATH((void)registry.gauge("ublk_x_total", "X."), "ublk_x_total|name");
}

}  // namespace
}  // namespace ublk_operator::metrics
