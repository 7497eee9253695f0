#include "node/agent/event_log.h"

#include <gtest/gtest.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/ostream_sink.h>

#include <sstream>
#include <thread>

#include "common/base/limits.h"

namespace ublk_operator {
namespace {

class EventLogTest : public ::testing::Test {
 protected:
  EventLogTest()
      : logger_(std::make_shared<spdlog::logger>(
            "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(lines_))),
        log_([this] { return "t" + std::to_string(++time_); }, std::make_shared<Log>(logger_)) {
    logger_->set_pattern("%l %v");
  }
  std::ostringstream lines_;
  std::shared_ptr<spdlog::logger> logger_;
  int time_ = 0;
  EventLog log_;
};

TEST_F(EventLogTest, RepeatedEventsAreCountedAndMoveToTheEnd) {
  log_.record("a", true, "ServerDied", "signal 9");
  log_.record("a", false, "Recovered", "in 41 ms");
  log_.record("a", true, "ServerDied", "signal 9");
  const auto events = log_.list("a");
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[0].reason, "Recovered");
  EXPECT_EQ(events[1], (VolumeEvent{"a", true, "ServerDied", "signal 9", "t1", "t3", 2}));
}

TEST_F(EventLogTest, AnotherMessageSeverityOrVolumeIsAnotherEvent) {
  log_.record("a", true, "R", "m");
  log_.record("a", false, "R", "m");
  log_.record("a", true, "R", "n");
  log_.record("b", true, "R", "m");
  EXPECT_EQ(log_.list("a").size(), 3U);
  EXPECT_EQ(log_.list("").size(), 4U);
}

TEST_F(EventLogTest, AllVolumesAreListedInTheOrderThingsHappened) {
  log_.record("b", false, "First", "");
  log_.record("a", false, "Second", "");
  log_.record("b", false, "Third", "");
  const auto events = log_.list("");
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].reason, "First");
  EXPECT_EQ(events[1].reason, "Second");
  EXPECT_EQ(events[2].reason, "Third");
}

TEST_F(EventLogTest, TheOldestEventsOfAVolumeAreDropped) {
  for (size_t i = 0; i <= limits::events_per_volume_max; ++i)
    log_.record("a", false, "R", std::to_string(i));
  const auto events = log_.list("a");
  ASSERT_EQ(events.size(), limits::events_per_volume_max);
  EXPECT_EQ(events.front().message, "1");
}

TEST_F(EventLogTest, AForgottenVolumeKeepsItsLastEvents) {
  for (int i = 0; i < 20; ++i) log_.record("a", false, "R", std::to_string(i));
  log_.forget("a");
  const auto events = log_.list("a");
  ASSERT_EQ(events.size(), 8U);
  EXPECT_EQ(events.back().message, "19");
  log_.forget("never seen");
}

TEST_F(EventLogTest, ManyVolumesAreBoundedAndTheForgottenGoFirst) {
  log_.record("kept", false, "R", "");
  for (int i = 0; i < 100; ++i) {
    log_.record("gone-" + std::to_string(i), false, "R", "");
    log_.forget("gone-" + std::to_string(i));
  }
  for (size_t i = 0; i < limits::volumes_max; ++i)
    log_.record("v" + std::to_string(i), false, "R", "");
  EXPECT_EQ(log_.list("").size(), limits::volumes_max + 64);
  EXPECT_EQ(log_.list("kept").size(), 1U);
  EXPECT_TRUE(log_.list("gone-0").empty());
  EXPECT_EQ(log_.list("gone-99").size(), 1U);
}

TEST_F(EventLogTest, LogsOneLineOfKeysAndValues) {
  log_.record("a", true, "BackendGone", "file \"x\"\nwas removed");
  logger_->flush();
  EXPECT_EQ(lines_.str(),
            "warning volume=a event=BackendGone message=\"file \\\"x\\\" was removed\"\n");
}

TEST_F(EventLogTest, LongMessagesAreCutBetweenCharacters) {
  std::string message(1020, 'x');
  for (int i = 0; i < 10; ++i) message += "\xc3\xa9";  // e with acute
  log_.record("a", false, "R", message);
  EXPECT_EQ(log_.list("a")[0].message, std::string(1020, 'x') + "...");
}

TEST_F(EventLogTest, ManyThreadsMayRecord) {
  EventLog log([] { return "now"; }, null_logger());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&log] {
      for (int i = 0; i < 100; ++i) {
        log.record("a", false, "R", "same");
        (void)log.list("");
      }
    });
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(log.list("a").size(), 1U);
  EXPECT_EQ(log.list("a")[0].count, 400U);
}

}  // namespace
}  // namespace ublk_operator
