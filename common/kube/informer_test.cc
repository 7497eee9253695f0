// How a client of the Kubernetes API keeps up with changes: list, watch, and what can go wrong.
#include "common/kube/informer.h"

#include <gtest/gtest.h>

#include <vector>

namespace ublk_operator::kube {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

json object(const std::string& name, const std::string& version) {
  return {{"metadata", {{"name", name}, {"resourceVersion", version}}}};
}
json page(const std::string& version, std::vector<json> items, const std::string& more = "") {
  json metadata{{"resourceVersion", version}};
  if (!more.empty()) metadata["continue"] = more;
  return {{"metadata", metadata}, {"items", std::move(items)}};
}
json event(const std::string& type, json what) { return {{"type", type}, {"object", what}}; }
json gone() { return event("ERROR", {{"kind", "Status"}, {"code", 410}}); }

class InformerTest : public ::testing::Test {
 protected:
  InformerTest()
      : informer_({.page_limit = 2}, [this](const std::string& name, const json* what) {
          seen_.push_back(what == nullptr ? "-" + name : "+" + name);
        }) {}

  template <typename T>
  T expect() {
    const auto step = informer_.next(0.5);
    EXPECT_TRUE(std::holds_alternative<T>(step)) << "step " << step.index();
    return std::holds_alternative<T>(step) ? std::get<T>(step) : T{};
  }
  void sync(const std::string& version, std::vector<json> items) {
    expect<Informer::List>();
    informer_.listed(page(version, std::move(items)));
  }
  std::vector<std::string> take() { return std::exchange(seen_, {}); }

  std::vector<std::string> seen_;
  Informer informer_;
};

using Names = std::vector<std::string>;

TEST_F(InformerTest, ListsPageByPageAndThenWatchesFromThere) {
  auto list = expect<Informer::List>();
  EXPECT_EQ(list.continue_token, "");
  EXPECT_EQ(list.limit, 2U);
  informer_.listed(page("10", {object("a", "1"), object("b", "2")}, "next"));
  EXPECT_FALSE(informer_.synced());
  EXPECT_EQ(expect<Informer::List>().continue_token, "next");
  informer_.listed(page("10", {object("c", "3")}));
  EXPECT_TRUE(informer_.synced());
  EXPECT_EQ(take(), (Names{"+a", "+b", "+c"}));
  const auto watch = expect<Informer::Watch>();
  EXPECT_EQ(watch.resource_version, "10");
  EXPECT_GE(watch.timeout, 50s);
  EXPECT_LE(watch.timeout, 60s);
}

TEST_F(InformerTest, APageIsToldWhenItIsThere) {
  expect<Informer::List>();
  informer_.listed(page("10", {object("a", "1"), object("b", "2")}, "next"));
  EXPECT_EQ(take(), (Names{"+a", "+b"}));
  expect<Informer::List>();
  informer_.listed(page("10", {object("c", "3")}));
  EXPECT_EQ(take(), Names{"+c"});
}

TEST_F(InformerTest, WhatIsNoObjectIsPassedOver) {
  expect<Informer::List>();
  informer_.listed(page("10", {json(7), json{{"metadata", 7}}, json{{"metadata", {{"name", 7}}}}}));
  EXPECT_TRUE(informer_.synced());
  EXPECT_EQ(take(), Names{});
  expect<Informer::Watch>();
  EXPECT_TRUE(informer_.event(event("ADDED", {{"metadata", {{"resourceVersion", 7}}}})));
  EXPECT_FALSE(informer_.event(event("ERROR", {{"code", "410"}})));
}

TEST_F(InformerTest, TheListenerIsSparedManagedFields) {
  json seen;
  Informer informer({}, [&](const std::string&, const json* what) { seen = *what; });
  (void)informer.next(0.5);
  json full = object("a", "1");
  full["metadata"]["managedFields"] = json::array({1, 2, 3});
  informer.listed(page("10", {full}));
  EXPECT_EQ(seen, object("a", "1"));
}

TEST_F(InformerTest, AWatchGoesOnWhereTheLastOneEnded) {
  sync("10", {object("a", "1")});
  expect<Informer::Watch>();
  EXPECT_TRUE(informer_.event(event("MODIFIED", object("a", "11"))));
  EXPECT_TRUE(informer_.event(event("BOOKMARK", object("", "40"))));
  informer_.watch_ended({}, 50s);
  EXPECT_EQ(expect<Informer::Watch>().resource_version, "40");
  EXPECT_TRUE(informer_.event(event("DELETED", object("a", "41"))));
  EXPECT_EQ(take(), (Names{"+a", "+a", "-a"}));
  EXPECT_TRUE(informer_.versions().empty());
}

TEST_F(InformerTest, ClientsThatBeganTogetherPartOnceAndThenWatchOnceAMinute) {
  const auto next = [this](double random) {
    const auto step = informer_.next(random);
    EXPECT_TRUE(std::holds_alternative<Informer::Watch>(step));
    return std::get<Informer::Watch>(step).timeout;
  };
  sync("10", {});
  EXPECT_EQ(next(0.5), 55s);
  informer_.watch_ended({}, 55s);
  EXPECT_EQ(next(0.9), 60s);
  informer_.watch_ended({}, 60s);
  EXPECT_EQ(next(0.1), 60s);
  // A server that went away lost all its clients at one moment.
  informer_.watch_ended(Error{ENOTCONN, "watch", "x", ""}, 20s);
  expect<Informer::Wait>();
  informer_.waited();
  EXPECT_EQ(next(0.9), 51s);
  informer_.watch_ended({}, 51s);
  EXPECT_EQ(next(0.9), 60s);
}

TEST_F(InformerTest, ClientsThatLostTheServerTogetherDoNotComeBackTogether) {
  const auto wait = [this](double random) {
    const auto step = informer_.next(random);
    EXPECT_TRUE(std::holds_alternative<Informer::Wait>(step));
    return std::get<Informer::Wait>(step).time;
  };
  expect<Informer::List>();
  informer_.listed(Error{ENOTCONN, "list", "x", ""});
  EXPECT_EQ(wait(0), 100ms);
  EXPECT_EQ(wait(1), 200ms);
  for (int i = 0; i < 20; ++i) {
    informer_.waited();
    expect<Informer::List>();
    informer_.listed(Error{ENOTCONN, "list", "x", ""});
  }
  EXPECT_EQ(wait(0), 15s);
  EXPECT_EQ(wait(1), 30s) << "no longer, however often it failed";
}

TEST_F(InformerTest, WhatAnExpiredWatchMissedIsFoundByListingAnew) {
  sync("10", {object("a", "1"), object("b", "2")});
  take();
  expect<Informer::Watch>();
  EXPECT_FALSE(informer_.event(gone()));
  informer_.watch_ended({}, 5s);
  expect<Informer::Wait>();
  informer_.waited();
  sync("90", {object("b", "70"), object("c", "80")});
  EXPECT_EQ(take(), (Names{"+b", "+c", "-a"}));
  EXPECT_EQ(expect<Informer::Watch>().resource_version, "90");
  EXPECT_EQ(informer_.counters().expired, 1U);
}

TEST_F(InformerTest, AnExpiredVersionSaidAsStatusListsAnewToo) {
  sync("10", {});
  expect<Informer::Watch>();
  informer_.watch_ended(Error{ESTALE, "watch", "x", ""}, 5s);
  expect<Informer::List>();
}

TEST_F(InformerTest, NothingIsDroppedBeforeTheLastPageIsThere) {
  sync("10", {object("a", "1"), object("b", "2")});
  take();
  expect<Informer::Watch>();
  informer_.watch_ended(Error{ESTALE, "watch", "x", ""}, 5s);
  expect<Informer::List>();
  informer_.listed(page("20", {object("a", "1")}, "more"));
  EXPECT_EQ(take(), Names{});
  expect<Informer::List>();
  informer_.listed(Error{ENOTCONN, "list", "x", ""});
  EXPECT_EQ(take(), Names{});
  EXPECT_EQ(informer_.versions().size(), 2U);
}

TEST_F(InformerTest, AContinueTokenThatExpiredStartsTheListOver) {
  expect<Informer::List>();
  informer_.listed(page("10", {object("a", "1")}, "old"));
  expect<Informer::List>();
  informer_.listed(Error{ESTALE, "list", "x", ""});
  expect<Informer::Wait>();
  informer_.waited();
  EXPECT_EQ(expect<Informer::List>().continue_token, "");
}

TEST_F(InformerTest, FailuresBackOffAndSuccessEndsThat) {
  Informer::milliseconds last{0};
  for (int i = 0; i < 12; ++i) {
    expect<Informer::List>();
    informer_.listed(Error{ENOTCONN, "list", "x", ""});
    const auto wait = expect<Informer::Wait>();
    EXPECT_GE(wait.time, last);
    EXPECT_LE(wait.time, 30s);
    last = wait.time;
    informer_.waited();
  }
  EXPECT_GT(last, 10s);
  sync("10", {});
  expect<Informer::Watch>();
  informer_.watch_ended(Error{ENOTCONN, "watch", "x", ""}, 10s);
  EXPECT_LT(expect<Informer::Wait>().time, 1s);
}

TEST_F(InformerTest, AWatchThatEndsAtOnceIsNotAskedAgainWithoutAPause) {
  sync("10", {});
  expect<Informer::Watch>();
  informer_.watch_ended({}, 3ms);
  expect<Informer::Wait>();
}

TEST_F(InformerTest, AnEventThatMakesNoSenseEndsTheWatchAndLosesNothing) {
  sync("10", {object("a", "1")});
  expect<Informer::Watch>();
  EXPECT_FALSE(informer_.event({{"type", "ADDED"}}));
  informer_.watch_ended({}, 5s);
  expect<Informer::Wait>();
  informer_.waited();
  EXPECT_EQ(expect<Informer::Watch>().resource_version, "10");
  EXPECT_EQ(informer_.versions().size(), 1U);
}

TEST_F(InformerTest, WhatDidNotChangeIsNotToldAgain) {
  sync("10", {object("a", "1")});
  take();
  expect<Informer::Watch>();
  informer_.watch_ended(Error{ESTALE, "watch", "x", ""}, 5s);
  sync("20", {object("a", "1")});
  EXPECT_EQ(take(), Names{});
}

}  // namespace
}  // namespace ublk_operator::kube
