// Events as a person sees them: counted up instead of repeated, and never a flood.
#include "common/kube/events.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "common/kube/fake_api_server.h"

namespace ublk_operator::kube {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using Create = EventCorrelator::Create;
using Count = EventCorrelator::Count;
using Drop = EventCorrelator::Drop;

Event event(const std::string& volume, const std::string& message = "no node has pool fast") {
  return {
      {"ublk.dev/v1alpha1", "UblkVolume", volume, "uid-" + volume, ""}, true, "NoPool", message};
}

class EventCorrelatorTest : public ::testing::Test {
 protected:
  template <typename T>
  T expect(const Event& what) {
    const auto step = correlator_.next(what, now_, wall_, 0xabc);
    EXPECT_TRUE(std::holds_alternative<T>(step)) << "step " << step.index();
    return std::holds_alternative<T>(step) ? std::get<T>(step) : T{};
  }
  EventCorrelator::Time now_{1000s};
  EventCorrelator::WallTime wall_{std::chrono::seconds(1'700'000'000)};
  EventCorrelator correlator_{{.component = "ublk-controller",
                               .instance = "pod-1",
                               .cached_max = 3,
                               .burst = 4,
                               .refill = 300s}};
};

TEST_F(EventCorrelatorTest, AnEventSaysWhatItIsAbout) {
  const json made = expect<Create>(event("pgdata")).event;
  EXPECT_EQ(made["metadata"]["name"], "pgdata.0000000000000abc");
  EXPECT_EQ(made["metadata"]["namespace"], "default");
  EXPECT_EQ(made["involvedObject"], json({{"apiVersion", "ublk.dev/v1alpha1"},
                                          {"kind", "UblkVolume"},
                                          {"name", "pgdata"},
                                          {"uid", "uid-pgdata"}}));
  EXPECT_EQ(made["type"], "Warning");
  EXPECT_EQ(made["reason"], "NoPool");
  EXPECT_EQ(made["firstTimestamp"], "2023-11-14T22:13:20Z");
  EXPECT_EQ(made["count"], 1);
  EXPECT_EQ(made["source"]["component"], "ublk-controller");
}

TEST_F(EventCorrelatorTest, TheSameAgainIsCountedUp) {
  (void)expect<Create>(event("pgdata"));
  wall_ += 60s;
  const auto counted = expect<Count>(event("pgdata"));
  EXPECT_EQ(counted.name, "pgdata.0000000000000abc");
  EXPECT_EQ(counted.namespace_name, "default");
  EXPECT_EQ(counted.patch, json({{"count", 2}, {"lastTimestamp", "2023-11-14T22:14:20Z"}}));
}

TEST_F(EventCorrelatorTest, AnotherObjectReasonOrSentenceIsAnotherEvent) {
  (void)expect<Create>(event("pgdata"));
  (void)expect<Create>(event("other"));
  (void)expect<Create>(event("pgdata", "no node has pool slow"));
}

TEST_F(EventCorrelatorTest, OnlySoManyAreRemembered) {
  (void)expect<Create>(event("a"));
  (void)expect<Create>(event("b"));
  (void)expect<Create>(event("c"));
  (void)expect<Count>(event("a"));
  (void)expect<Create>(event("d"));  // b was the longest unused
  (void)expect<Count>(event("a"));
  (void)expect<Create>(event("b"));
}

TEST_F(EventCorrelatorTest, AnObjectHasABudget) {
  (void)expect<Create>(event("a"));
  for (int i = 0; i < 3; ++i) (void)expect<Count>(event("a"));
  (void)expect<Drop>(event("a"));
  (void)expect<Create>(event("b"));  // others have their own
  now_ += 300s;
  (void)expect<Count>(event("a"));
  (void)expect<Drop>(event("a"));
}

TEST_F(EventCorrelatorTest, OneThatTheServerForgotBeginsAnew) {
  (void)expect<Create>(event("a"));
  correlator_.forget(event("a"));
  (void)expect<Create>(event("a"));
}

TEST_F(EventCorrelatorTest, NamesAndSentencesKeepTheServersLimits) {
  Event long_one = event(std::string(240, 'a') + "." + std::string(12, 'b'));
  long_one.message = std::string(1023, 'x') + "\xc3\xa4 and more";
  const json made = expect<Create>(long_one).event;
  EXPECT_LE(made["metadata"]["name"].get<std::string>().size(), 253U);
  EXPECT_EQ(made["message"], std::string(1023, 'x')) << "no half of a character";
}

constexpr const char* events = "/api/v1/namespaces/default/events";

class EventRecorderTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakeApiServer> server_ = std::make_shared<FakeApiServer>();
  EventRecorder recorder_{server_, {.component = "c", .instance = "i"}, null_logger()};
};

TEST_F(EventRecorderTest, WhatIsSaidTwiceIsOneEventWithACount) {
  recorder_.say(event("a"));
  recorder_.say(event("a"));
  EXPECT_TRUE(server_->wait_until([&] {
    const auto all = server_->below(events);
    return all.size() == 1 && all[0]["count"] == 2;
  }));
}

TEST_F(EventRecorderTest, ACountOfWhatTheServerForgotIsANewEvent) {
  recorder_.say(event("a"));
  ASSERT_TRUE(server_->wait_until([&] { return !server_->below(events).empty(); }));
  const std::string name = server_->below(events)[0]["metadata"]["name"];
  server_->erase(std::string(events) + "/" + name);
  recorder_.say(event("a"));
  EXPECT_TRUE(server_->wait_until([&] { return !server_->below(events).empty(); }));
  EXPECT_NE(server_->below(events)[0]["metadata"]["name"], name);
}

TEST_F(EventRecorderTest, WhatTheServerRefusesIsNotSentAgain) {
  server_->interfere([](const HttpRequest&) -> std::optional<Result<HttpResponse>> {
    return HttpResponse{403, "{}"};
  });
  recorder_.say(event("a"));
  EXPECT_TRUE(server_->wait_until([&] { return !server_->writes().empty(); }));
  server_->interfere({});
  recorder_.say(event("b"));
  ASSERT_TRUE(server_->wait_until([&] { return !server_->below(events).empty(); }));
  EXPECT_EQ(server_->below(events).size(), 1U);
}

}  // namespace
}  // namespace ublk_operator::kube
