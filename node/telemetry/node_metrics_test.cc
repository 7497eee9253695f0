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
    volume.status.last_recovery_duration = 40ms;
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
  EXPECT_THAT(scrape(), Not(HasSubstr("ublk_volume_recoveries_total")))
      << "what happened before this agent is not its to count";
  service_.put(volume(5, "QUIESCED"));
  EXPECT_THAT(scrape(), HasSubstr("ublk_volume_ready{volume=\"pgdata\"} 0"));
  service_.put(volume(6, "LIVE"));
  const std::string text = scrape();
  EXPECT_THAT(text,
              HasSubstr("ublk_volume_recoveries_total{reason=\"SIGKILL\",volume=\"pgdata\"} 1"));
  EXPECT_THAT(text, HasSubstr("ublk_volume_recovery_duration_seconds_count{mode=\"Reissue\"} 1"));
  EXPECT_THAT(text, HasSubstr("ublk_volume_ready{volume=\"pgdata\"} 1"));
  EXPECT_THAT(text, HasSubstr("ublk_volume_device_state{state=\"QUIESCED\",volume=\"pgdata\"} 0"));
  EXPECT_THAT(text, HasSubstr("ublk_volume_device_state{state=\"LIVE\",volume=\"pgdata\"} 1"));
}

TEST_F(NodeMetricsTest, HowAServerEndedIsOneOfFewWords) {
  service_.put(volume(0, "LIVE"));
  uint64_t recoveries = 0;
  for (const auto& [how, word] :
       std::vector<std::pair<std::string, std::string>>{{"was killed by SIGSEGV (11)", "SIGSEGV"},
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
  now.status.io_errors["EIO"] = 1;
  service_.put(now);
  all.refresh();
  EXPECT_EQ(metrics::exported_families(registry.text()),
            metrics::documented_families({"ublk_node_", "ublk_volume_"}));
}

}  // namespace
}  // namespace ublk_operator
