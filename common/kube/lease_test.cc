// Election of a leader: who leads when, whatever calls fail and clocks say.
#include "common/kube/lease.h"

#include <gtest/gtest.h>

#include <cerrno>

#include "common/kube/elector.h"
#include "common/kube/fake_api_server.h"

namespace ublk_operator::kube {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

json lease(const std::string& holder, const std::string& version, int64_t transitions = 0) {
  return {{"metadata", {{"name", "l"}, {"resourceVersion", version}}},
          {"spec",
           {{"holderIdentity", holder},
            {"leaseDurationSeconds", 15},
            {"leaseTransitions", transitions},
            {"renewTime", "2001-01-01T00:00:00.000000Z"}}}};
}

class LeaderElectionTest : public ::testing::Test {
 protected:
  template <typename T>
  T expect() {
    const auto step = election_.next(now_, wall_, 0);
    EXPECT_TRUE(std::holds_alternative<T>(step)) << "step " << step.index();
    return std::holds_alternative<T>(step) ? std::get<T>(step) : T{};
  }
  void see_none() { election_.looked(Error{ENOENT, "get", "l", ""}, now_, now_); }
  // The server takes the write.
  void take(const LeaderElection::Write& write, const std::string& version) {
    json stored = write.lease;
    stored["metadata"]["resourceVersion"] = version;
    election_.written(stored, now_, now_);
  }
  void become_leader() {
    expect<LeaderElection::Look>();
    see_none();
    take(expect<LeaderElection::Write>(), "1");
    ASSERT_TRUE(election_.leads(now_));
  }
  // To when it wants to act again.
  void wait() { now_ = expect<LeaderElection::Wait>().until; }

  LeaderElection::Time now_{1000s};
  LeaderElection::WallTime wall_{std::chrono::seconds(1'700'000'000)};
  LeaderElection election_{{.namespace_name = "ns", .name = "l", .identity = "me"}};
};

TEST_F(LeaderElectionTest, ALeaseThatIsNotThereIsMade) {
  expect<LeaderElection::Look>();
  see_none();
  const auto write = expect<LeaderElection::Write>();
  EXPECT_TRUE(write.create);
  EXPECT_EQ(write.lease["metadata"]["namespace"], "ns");
  EXPECT_EQ(write.lease["spec"], json({{"holderIdentity", "me"},
                                       {"leaseDurationSeconds", 15},
                                       {"leaseTransitions", 0},
                                       {"acquireTime", "2023-11-14T22:13:20.000000Z"},
                                       {"renewTime", "2023-11-14T22:13:20.000000Z"}}));
  EXPECT_FALSE(election_.leads(now_)) << "not before the server took it";
  take(write, "1");
  EXPECT_TRUE(election_.leads(now_));
}

TEST_F(LeaderElectionTest, AHolderThatRenewsKeepsIt) {
  expect<LeaderElection::Look>();
  election_.looked(lease("other", "1"), now_, now_);
  for (int i = 2; i < 40; ++i) {
    now_ += 2s;
    const json renewed = lease("other", std::to_string(i));
    election_.observed(&renewed, now_);
    EXPECT_GE(expect<LeaderElection::Wait>().until, now_ + 15s);
  }
}

TEST_F(LeaderElectionTest, OneThatIsNotSeenToChangeIsTakenOver) {
  expect<LeaderElection::Look>();
  election_.looked(lease("other", "7", 3), now_, now_);
  const auto begun = now_;
  wait();
  EXPECT_EQ(now_, begun + 15s);
  const auto write = expect<LeaderElection::Write>();
  EXPECT_FALSE(write.create);
  EXPECT_EQ(write.lease["metadata"]["resourceVersion"], "7") << "it rests on what was seen";
  EXPECT_EQ(write.lease["spec"]["holderIdentity"], "me");
  EXPECT_EQ(write.lease["spec"]["leaseTransitions"], 4);
}

TEST_F(LeaderElectionTest, TheTimesWrittenInALeaseAreNotBelieved) {
  expect<LeaderElection::Look>();
  election_.looked(lease("other", "7"), now_, now_);  // "renewed in 2001"
  now_ += 14s;
  expect<LeaderElection::Wait>();
}

TEST_F(LeaderElectionTest, OneThatIsReleasedIsTakenAtOnce) {
  expect<LeaderElection::Look>();
  election_.looked(lease("other", "7"), now_, now_);
  expect<LeaderElection::Wait>();
  const json released = lease("", "8");
  election_.observed(&released, now_);
  EXPECT_EQ(expect<LeaderElection::Write>().lease["metadata"]["resourceVersion"], "8");
}

TEST_F(LeaderElectionTest, OwnLeaseOfALastLifeIsTakenAtOnce) {
  expect<LeaderElection::Look>();
  election_.looked(lease("me", "7", 3), now_, now_);
  EXPECT_EQ(expect<LeaderElection::Write>().lease["spec"]["leaseTransitions"], 3);
}

TEST_F(LeaderElectionTest, ALostRaceIsLookedAtAgain) {
  expect<LeaderElection::Look>();
  election_.looked(lease("", "7"), now_, now_);
  expect<LeaderElection::Write>();
  election_.written(Error{EBUSY, "update", "l", ""}, now_, now_);
  wait();
  expect<LeaderElection::Look>();
  election_.looked(lease("other", "8"), now_, now_);
  expect<LeaderElection::Wait>();
  EXPECT_FALSE(election_.leads(now_));
}

TEST_F(LeaderElectionTest, ALeaderRenewsEveryTwoSeconds) {
  become_leader();
  for (int i = 2; i < 30; ++i) {
    const auto before = now_;
    wait();
    EXPECT_EQ(now_ - before, 2s);
    take(expect<LeaderElection::Write>(), std::to_string(i));
    EXPECT_TRUE(election_.leads(now_));
  }
}

TEST_F(LeaderElectionTest, ALeaderThatCannotRenewStopsAtItsDeadline) {
  become_leader();
  const auto renewed = now_;
  while (now_ < renewed + 10s) {
    const auto step = election_.next(now_, wall_, 0);
    if (std::holds_alternative<LeaderElection::Wait>(step)) {
      now_ = std::get<LeaderElection::Wait>(step).until;
      continue;
    }
    EXPECT_TRUE(election_.leads(now_));
    election_.written(Error{ENOTCONN, "update", "l", ""}, now_, now_);
  }
  EXPECT_EQ(now_, renewed + 10s) << "it does not sleep past the deadline";
  EXPECT_FALSE(election_.leads(now_));
  expect<LeaderElection::Lost>();
  EXPECT_FALSE(election_.release(wall_).has_value()) << "whose it is by then is not known";
}

TEST_F(LeaderElectionTest, TheLeaseCountsFromWhenARenewalWasBegun) {
  become_leader();
  wait();
  auto write = expect<LeaderElection::Write>();
  write.lease["metadata"]["resourceVersion"] = "2";
  const auto begun = now_;
  now_ += 5s;  // so long it took
  election_.written(write.lease, begun, now_);
  EXPECT_TRUE(election_.leads(begun + 9s));
  EXPECT_FALSE(election_.leads(begun + 10s));
}

TEST_F(LeaderElectionTest, ARenewalThatHungIsTriedAgainAtOnce) {
  become_leader();
  wait();
  expect<LeaderElection::Write>();
  const auto begun = now_;
  now_ += 5s;
  election_.written(Error{ETIMEDOUT, "update", "l", ""}, begun, now_);
  wait();
  EXPECT_LT(now_ - begun, 5500ms) << "of the deadline's 10 s the hung one took 7";
  take(expect<LeaderElection::Write>(), "2");
  EXPECT_TRUE(election_.leads(now_ + 9s));
}

TEST_F(LeaderElectionTest, ALookThatHungIsTriedAgainAtOnce) {
  expect<LeaderElection::Look>();
  const auto begun = now_;
  now_ += 5s;
  election_.looked(Error{ETIMEDOUT, "get", "l", ""}, begun, now_);
  wait();
  EXPECT_LT(now_ - begun, 5500ms);
  expect<LeaderElection::Look>();
}

TEST_F(LeaderElectionTest, ARenewalThatFailsAtOnceIsTriedAgainInTwoSeconds) {
  become_leader();
  wait();
  expect<LeaderElection::Write>();
  const auto begun = now_;
  election_.written(Error{ENOTCONN, "update", "l", ""}, begun, now_);
  wait();
  EXPECT_EQ(now_ - begun, 2s);
}

TEST_F(LeaderElectionTest, LeadershipDoesNotComeBack) {
  become_leader();
  now_ += 10s;
  expect<LeaderElection::Lost>();
  election_.looked(lease("me", "2"), now_, now_);
  expect<LeaderElection::Lost>();
}

TEST_F(LeaderElectionTest, AHandOverByForceIsSeen) {
  become_leader();
  wait();
  expect<LeaderElection::Write>();
  election_.written(Error{EBUSY, "update", "l", ""}, now_, now_);
  wait();
  expect<LeaderElection::Look>();
  election_.looked(lease("other", "9"), now_, now_);
  expect<LeaderElection::Lost>();
}

TEST_F(LeaderElectionTest, ARenewalOfUnknownOutcomeIsNoHandOver) {
  become_leader();
  wait();
  expect<LeaderElection::Write>();
  election_.written(Error{ETIMEDOUT, "update", "l", ""}, now_, now_);  // the server took it
  wait();
  expect<LeaderElection::Write>();
  election_.written(Error{EBUSY, "update", "l", ""}, now_, now_);
  wait();
  expect<LeaderElection::Look>();
  election_.looked(lease("me", "2"), now_, now_);
  take(expect<LeaderElection::Write>(), "3");
  EXPECT_TRUE(election_.leads(now_));
}

TEST_F(LeaderElectionTest, ALeaseDeletedUnderItsLeaderIsMadeAnew) {
  become_leader();
  wait();
  expect<LeaderElection::Write>();
  election_.written(Error{ENOENT, "update", "l", ""}, now_, now_);
  wait();
  expect<LeaderElection::Look>();
  see_none();
  EXPECT_TRUE(expect<LeaderElection::Write>().create);
}

TEST_F(LeaderElectionTest, ItsOwnWritesComeBackLateAndDoNotConfuseALeader) {
  become_leader();
  const json old = lease("other", "0");
  election_.observed(&old, now_);
  EXPECT_TRUE(election_.leads(now_));
  wait();
  EXPECT_EQ(expect<LeaderElection::Write>().lease["metadata"]["resourceVersion"], "1");
}

TEST_F(LeaderElectionTest, ReleasingLetsTheNextOneIn) {
  become_leader();
  const auto released = election_.release(wall_);
  ASSERT_TRUE(released);
  EXPECT_EQ((*released)["spec"]["holderIdentity"], "");
  EXPECT_EQ((*released)["metadata"]["resourceVersion"], "1");
}

TEST_F(LeaderElectionTest, WithoutAServerItAsksEveryTwoSeconds) {
  for (int i = 0; i < 5; ++i) {
    expect<LeaderElection::Look>();
    election_.looked(Error{ENOTCONN, "get", "l", ""}, now_, now_);
    const auto before = now_;
    wait();
    EXPECT_EQ(now_ - before, 2s);
  }
}

TEST(ReadLeaseTest, WhatIsNoLeaseIsAnEmptyOne) {
  for (const json& wrong : {json(), json(7), json::object(), json{{"spec", 7}},
                            json{{"spec", {{"holderIdentity", 7}, {"leaseDurationSeconds", "x"}}}}})
    EXPECT_EQ(read_lease(wrong), LeaseSpec{}) << wrong;
}

// --- the thread around it

constexpr const char* path = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/l";

class LeaderElectorTest : public ::testing::Test {
 protected:
  std::unique_ptr<LeaderElector> start(const std::string& identity) {
    auto elector = std::make_unique<LeaderElector>(
        server_, LeaderElection::Options{.namespace_name = "ns", .name = "l", .identity = identity},
        LeaderElector::Callbacks{.on_leading = [] {}, .on_lost = [](const std::string&) {}},
        null_logger());
    elector->start();
    return elector;
  }
  bool holder_becomes(const std::string& identity) {
    return server_->wait_until([&] { return read_lease(server_->at(path)).holder == identity; });
  }
  std::shared_ptr<FakeApiServer> server_ = std::make_shared<FakeApiServer>();
};

TEST_F(LeaderElectorTest, TheSecondFollowsAsSoonAsTheFirstLeaves) {
  auto first = start("one");
  ASSERT_TRUE(holder_becomes("one"));
  auto second = start("two");
  first->release();
  EXPECT_FALSE(first->leads());
  EXPECT_EQ(read_lease(server_->at(path)).holder, "");
  const json released = server_->at(path);
  second->observed(&released);
  EXPECT_TRUE(holder_becomes("two"));
  EXPECT_EQ(read_lease(server_->at(path)).transitions, 1);
}

TEST_F(LeaderElectorTest, OneThatNeverLedReleasesNothing) {
  server_->put(path, lease("other", "1"));
  auto elector = start("me");
  elector->release();
  EXPECT_EQ(read_lease(server_->at(path)).holder, "other");
  EXPECT_TRUE(server_->writes().empty());
}

}  // namespace
}  // namespace ublk_operator::kube
