// What a node counts, as a scrape sees it.
#include "node/telemetry/node_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/localapi/fake_service.h"
#include "common/metrics/reference.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::Not;

class NodeMetricsTest : public ::testing::Test {
 protected:
  Volume volume(uint64_t recoveries, const std::string& state) {
    Volume volume;
    volume.metadata.name = "pgdata";
    volume.status.state = state;
    volume.status.recovery_count = recoveries;
    volume.status.last_recovery_reason = "was killed by SIGKILL (9)";
    volume.status.last_recovery_duration = 250ms;
    volume.status.last_recovery_work = 31'250us;
    set_condition(
        volume.status.conditions,
        {"Ready", state == "LIVE" ? ConditionStatus::yes : ConditionStatus::no, "r", "m", 1, ""},
        "now");
    return volume;
  }
  std::string scrape() {
    metrics_.refresh();
    return registry_.text();
  }

  FakeVolumeService service_;
  metrics::Registry registry_;
  NodeMetrics metrics_{registry_, service_, {}};
};

TEST_F(NodeMetricsTest, ARecoveryIsCountedByItsReasonAndItsDurationObserved) {
  service_.put(volume(5, "LIVE"));
  const std::string before = scrape();
  EXPECT_THAT(before,
              HasSubstr("ublk_volume_recoveries_total{reason=\"SIGKILL\",volume=\"pgdata\"} 0"))
      << "what happened before this agent is not its to count";
  for (const std::string error : {"EIO", "ENOSPC"})
    EXPECT_THAT(before, HasSubstr("ublk_volume_io_errors_total{errno=\"" + error +
                                  "\",volume=\"pgdata\"} 0"))
        << "an increase from nothing would be none";
  service_.put(volume(5, "QUIESCED"));
  EXPECT_THAT(scrape(), HasSubstr("ublk_volume_ready{volume=\"pgdata\"} 0"));
  service_.put(volume(6, "LIVE"));
  const std::string text = scrape();
  EXPECT_THAT(text,
              HasSubstr("ublk_volume_recoveries_total{reason=\"SIGKILL\",volume=\"pgdata\"} 1"));
  EXPECT_THAT(text, HasSubstr("ublk_volume_pause_duration_seconds_sum{mode=\"Reissue\"} 0.25"));
  EXPECT_THAT(text,
              HasSubstr("ublk_volume_recovery_duration_seconds_sum{mode=\"Reissue\"} 0.03125"));
  EXPECT_THAT(text, HasSubstr("ublk_volume_ready{volume=\"pgdata\"} 1"));
  EXPECT_THAT(text, HasSubstr("ublk_volume_device_state{state=\"QUIESCED\",volume=\"pgdata\"} 0"));
  EXPECT_THAT(text, HasSubstr("ublk_volume_device_state{state=\"LIVE\",volume=\"pgdata\"} 1"));
}

TEST_F(NodeMetricsTest, HowAServerEndedIsOneOfFewWords) {
  service_.put(volume(0, "LIVE"));
  uint64_t recoveries = 0;
  for (const auto& [how, word] : std::vector<std::pair<std::string, std::string>>{
           {"was killed by SIGSEGV (11)", "SIGSEGV"},
           {"was killed by SIGKILL (9), out of memory", "OutOfMemory"},
           {"was exited with status 1", "Exited"},
           {"was replaced", "Replaced"},
           {"ended", "Unknown"}}) {
    Volume now = volume(++recoveries, "LIVE");
    now.status.last_recovery_reason = how;
    service_.put(now);
    EXPECT_THAT(scrape(), HasSubstr("{reason=\"" + word + "\",volume=\"pgdata\"} 1"));
  }
}

TEST_F(NodeMetricsTest, CountersGoOnWhenAServerBeginsAnew) {
  Volume now = volume(0, "LIVE");
  now.status.io["read"] = {10, 40960, 0};
  service_.put(now);
  EXPECT_THAT(scrape(), HasSubstr("ublk_volume_io_total{operation=\"read\",volume=\"pgdata\"} 10"));
  now.status.io["read"] = {4, 16384, 0};  // another server
  now.status.io_errors["EIO"] = 2;
  service_.put(now);
  const std::string text = scrape();
  EXPECT_THAT(text, HasSubstr("ublk_volume_io_total{operation=\"read\",volume=\"pgdata\"} 14"));
  EXPECT_THAT(text, HasSubstr("ublk_volume_io_errors_total{errno=\"EIO\",volume=\"pgdata\"} 2"));
}

TEST_F(NodeMetricsTest, WhatAServerCountedForAnAgentBeforeIsNotCountedAgain) {
  Volume now = volume(0, "LIVE");
  now.status.server_pid = 1;  // older than this process
  now.status.io["read"] = {10, 40960, 0};
  now.status.io_errors["EIO"] = 7;
  service_.put(now);
  EXPECT_THAT(scrape(),
              HasSubstr("ublk_volume_io_errors_total{errno=\"EIO\",volume=\"pgdata\"} 0"));
  now.status.io["read"].operations = 12;
  now.status.io_errors["EIO"] = 8;
  service_.put(now);
  const std::string text = scrape();
  EXPECT_THAT(text, HasSubstr("ublk_volume_io_errors_total{errno=\"EIO\",volume=\"pgdata\"} 1"));
  EXPECT_THAT(text, HasSubstr("ublk_volume_io_total{operation=\"read\",volume=\"pgdata\"} 2"));
}

TEST_F(NodeMetricsTest, LatencyIsAHistogramOfTheOperationsThatWereUsed) {
  Volume now = volume(0, "LIVE");
  auto& read = now.status.io["read"];
  read.operations = 3;
  read.latency.counts[IoLatency::bucket_of(20'000)] = 2;     // up to 65 us
  read.latency.counts[IoLatency::bucket_of(3'000'000)] = 1;  // up to 4.2 ms
  read.latency.sum_ns = 3'040'000;
  now.status.io["flush"] = {};
  service_.put(now);
  EXPECT_THAT(
      scrape(),
      HasSubstr(
          "ublk_volume_io_latency_seconds_sum{operation=\"read\",volume=\"pgdata\"} 0.00304"));
  read.latency.counts.fill(0);  // another server
  read.latency.counts[1] = 1;
  read.latency.sum_ns = 20'000;
  service_.put(now);
  const std::string text = scrape();
  EXPECT_THAT(text, HasSubstr("seconds_count{operation=\"read\",volume=\"pgdata\"} 4"));
  EXPECT_THAT(text, HasSubstr("volume=\"pgdata\",le=\"6.5536e-05\"} 3"));
  EXPECT_THAT(text, Not(HasSubstr("ublk_volume_io_latency_seconds_sum{operation=\"flush\"")));
}

TEST_F(NodeMetricsTest, AttemptsThatFailedAreCountedByReason) {
  NodeMetrics::count_failure(registry_, "StartFailed");
  EXPECT_THAT(scrape(), HasSubstr("ublk_node_reconcile_errors_total{reason=\"StartFailed\"} 1"));
}

TEST_F(NodeMetricsTest, AVolumeThatIsGoneLeavesNoSeries) {
  service_.put(volume(0, "LIVE"));
  EXPECT_THAT(scrape(), HasSubstr("pgdata"));
  service_.erase("pgdata");
  EXPECT_THAT(scrape(), Not(HasSubstr("pgdata")));
}

TEST_F(NodeMetricsTest, TheReferenceHasEveryFamilyAsItIs) {
  metrics::Registry registry;
  NodeMetrics all(registry, service_, [] { return 1000ms; });
  service_.put(volume(0, "LIVE"));
  Volume now = volume(1, "LIVE");  // after a recovery
  now.status.io["read"] = {1, 4096, 1};
  now.status.io["read"].latency.counts[0] = 1;
  now.status.io_errors["EIO"] = 1;
  service_.put(now);
  NodeMetrics::count_failure(registry, "StartFailed");
  all.refresh();
  EXPECT_EQ(metrics::exported_families(registry.text()),
            metrics::documented_families({"ublk_node_", "ublk_volume_"}));
}

}  // namespace
}  // namespace ublk_operator
