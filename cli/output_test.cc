// What get, describe and events print, to the letter.
#include "cli/output.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/table.h"
#include "cli/test_support.h"
#include "common/api/decode.h"

namespace ublk_operator {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class OutputTest : public ::testing::Test {
 protected:
  void SetUp() override {
    service_.put(pgdata());
    service_.put(scratch());
    service_.add_event({"pgdata", true, "ServerKilled", "the server died of signal 9",
                        "2026-01-02T03:04:59Z", "2026-01-02T03:04:59Z", 1});
    service_.add_event({"pgdata", false, "Recovered", "recovered in 41 ms", "2026-01-02T03:05:00Z",
                        "2026-01-02T03:05:00Z", 3});
  }
  Outcome run(const std::vector<std::string>& arguments) { return run_on(service_, arguments); }
  FakeVolumeService service_;
};

TEST_F(OutputTest, GetPrintsATable) {
  const Outcome got = run({"get"});
  EXPECT_EQ(got.code, 0);
  EXPECT_EQ(got.err, "");
  EXPECT_EQ(got.out,
            "NAME      SIZE   MODE      STATE   READY   RECOVERIES   DEVICE\n"
            "pgdata    10Gi   Reissue   LIVE    True    1            /dev/ublkb0\n"
            "scratch   64Mi   FailIO    -       False   0            -\n");
}

TEST_F(OutputTest, GetWideAddsWhoServesAndWhatHappened) {
  const Outcome got = run({"get", "pgdata", "-o", "wide"});
  EXPECT_EQ(got.out,
            "NAME     SIZE   MODE      STATE   READY   RECOVERIES   DEVICE        PID    GENERATION"
            "   LAST-PAUSE   REASON    BACKEND\n"
            "pgdata   10Gi   Reissue   LIVE    True    1            /dev/ublkb0   4242   2         "
            "   41ms         Serving   file default/pg.img\n");
  EXPECT_THAT(run({"get", "scratch", "-o", "wide"}).out,
              HasSubstr("-     0            -            UnsupportedByKernel   null\n"));
}

TEST_F(OutputTest, GetNamePrintsOneNameALine) {
  EXPECT_EQ(run({"get", "-o", "name"}).out, "pgdata\nscratch\n");
}

TEST_F(OutputTest, GetJsonOfOneIsTheVolumeAndOfSeveralAList) {
  const auto one = nlohmann::json::parse(run({"get", "pgdata", "-o", "json"}).out);
  EXPECT_EQ(one, to_json(pgdata()));
  const auto all = nlohmann::json::parse(run({"get", "-o", "json"}).out);
  EXPECT_EQ(all.at("kind"), "List");
  EXPECT_EQ(all.at("items").size(), 2U);
}

TEST_F(OutputTest, GetYamlCanBeAppliedAgain) {
  const Outcome got = run({"get", "pgdata", "-o", "yaml"});
  EXPECT_THAT(got.out, StartsWith("apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\n"));
  EXPECT_EQ(run_on(service_, {"apply", "-f", "-"}, got.out).code, 0);
}

TEST_F(OutputTest, GetOfNothingSaysSoOnStandardErrorAndSucceeds) {
  FakeVolumeService none;
  const Outcome got = run_on(none, {"get"});
  EXPECT_EQ(got.code, 0);
  EXPECT_EQ(got.out, "");
  EXPECT_THAT(got.err, HasSubstr("No volumes found"));
}

TEST_F(OutputTest, GetPrintsWhatThereIsAndNamesWhatIsNot) {
  const Outcome got = run({"get", "nosuch", "pgdata"});
  EXPECT_EQ(got.code, 3);
  EXPECT_THAT(got.out, HasSubstr("pgdata"));
  EXPECT_EQ(got.err,
            "ublkctl: ENOENT get volume nosuch: there is no such volume; 'ublkctl get' lists what "
            "there is\n");
}

TEST_F(OutputTest, DescribeShowsSpecStatusConditionsCountersAndEvents) {
  const Outcome got = run({"describe", "pgdata"});
  EXPECT_EQ(got.code, 0);
  EXPECT_EQ(got.out, R"(Name:         pgdata
UID:          6f9c
Generation:   2
Labels:       app=pg
Annotations:  -
Spec:
  Size:                10Gi
  Backend:             file default/pg.img
  Provisioning:        Thin
  Direct I/O:          false
  Recovery Mode:       Reissue
  Recovery Deadline:   none
  Restarts:            10 in a row, back-off 100ms to 30s
  Queues:              1 of depth 64
  Max I/O Size:        256Ki
  Logical Block Size:  512
  Read Only:           false
  Running:             true
  Device:              root:disk 0660
  Reclaim Policy:      Retain
Status:
  State:                LIVE
  Device:               /dev/ublkb0
  Link:                 /dev/ublk/by-name/pgdata
  Size:                 10Gi
  Server Pid:           4242
  Lease Generation:     2
  Observed Generation:  2
  Recoveries:           1
  Last Recovery:        41ms at 2026-01-02T03:05:00Z, ServerKilled (signal 9)
Conditions:
  TYPE    STATUS   SINCE                  REASON    MESSAGE
  Ready   True     2026-01-02T03:04:05Z   Serving   the device is served
  InUse   True     2026-01-02T03:04:06Z   Open      the device is open
I/O of the present server:
  OPERATION   COUNT   BYTES   ERRORS
  read        12      49152   0
  write       3       12288   1
I/O errors:
  ERROR    COUNT
  ENOSPC   1
Events:
  LAST-SEEN              TYPE      REASON         COUNT   MESSAGE
  2026-01-02T03:04:59Z   Warning   ServerKilled   1       the server died of signal 9
  2026-01-02T03:05:00Z   Normal    Recovered      3       recovered in 41 ms
)");
}

TEST_F(OutputTest, DescribeOfAVolumeWithoutADeviceHasGapsInsteadOfLies) {
  const Outcome got = run({"describe", "scratch"});
  EXPECT_THAT(got.out, HasSubstr("  State:                -\n"));
  EXPECT_THAT(got.out, HasSubstr("  Last Recovery:        none\n"));
  EXPECT_THAT(got.out, HasSubstr("I/O of the present server:  none\n"));
  EXPECT_THAT(got.out, HasSubstr("Events:  none\n"));
}

TEST_F(OutputTest, DescribeAsADocumentIsTheVolumeWithItsEvents) {
  const auto one = nlohmann::json::parse(run({"describe", "pgdata", "-o", "json"}).out);
  EXPECT_EQ(one.at("metadata").at("name"), "pgdata");
  EXPECT_EQ(one.at("status").at("state"), "LIVE");
  EXPECT_EQ(one.at("events").size(), 2U);
  EXPECT_EQ(one.at("events").at(0).at("reason"), "ServerKilled");
  const auto two = nlohmann::json::parse(run({"describe", "pgdata", "scratch", "-o", "json"}).out);
  EXPECT_EQ(two.at("items").size(), 2U);
  EXPECT_THAT(run({"describe", "scratch", "-o", "yaml"}).out, HasSubstr("events: []"));
}

TEST_F(OutputTest, EventsPrintATable) {
  EXPECT_EQ(
      run({"events", "pgdata"}).out,
      "LAST-SEEN              TYPE      REASON         VOLUME   COUNT   MESSAGE\n"
      "2026-01-02T03:04:59Z   Warning   ServerKilled   pgdata   1       the server died of "
      "signal 9\n"
      "2026-01-02T03:05:00Z   Normal    Recovered      pgdata   3       recovered in 41 ms\n");
  EXPECT_THAT(run({"events", "pgdata", "-o", "wide"}).out,
              AllOf(HasSubstr("FIRST-SEEN             LAST-SEEN"), HasSubstr("signal 9\n")));
  EXPECT_EQ(nlohmann::json::parse(run({"events", "-o", "json"}).out).at("items").size(), 2U);
}

TEST_F(OutputTest, EventsOfAnUnknownVolumeAreNotFoundOfAQuietOneEmpty) {
  EXPECT_EQ(run({"events", "nosuch"}).code, 3);
  const Outcome quiet = run({"events", "scratch"});
  EXPECT_EQ(quiet.code, 0);
  EXPECT_EQ(quiet.out, "");
}

TEST(TableTest, ATerminalIsNotObeyed) {
  std::ostringstream out;
  Table table({"A", "B"});
  table.add({"", "red \x1b[31m\nline"});
  table.print(out);
  EXPECT_EQ(out.str(), "A   B\n-   red ?[31m line\n");
}

TEST(FormatPauseTest, ThreeDigitsAndAUnit) {
  using std::chrono::microseconds;
  EXPECT_EQ(format_pause(microseconds(850)), "850us");
  EXPECT_EQ(format_pause(microseconds(4'120)), "4.1ms");
  EXPECT_EQ(format_pause(microseconds(41'234)), "41ms");
  EXPECT_EQ(format_pause(microseconds(999'499)), "999ms");
  EXPECT_EQ(format_pause(microseconds(999'500)), "1.00s");
  EXPECT_EQ(format_pause(microseconds(12'340'000)), "12.34s");
}

}  // namespace
}  // namespace ublk_operator
