// What the controller knows: loads of nodes, and who is alive.
#include "controller/operator/inventory.h"

#include <gmock/gmock.h>

#include "controller/operator/test_objects.h"

namespace ublk_operator::controller {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::GiB;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class InventoryTest : public ::testing::Test {
 protected:
  void put(VolumeRecord volume) {
    const std::string name = volume.name;
    (void)inventory_.volume_changed(name, std::move(volume));
  }
  // A renewal; the leader's come in between, as they do.
  Inventory::Names renew(const std::string& node, std::chrono::seconds age = 0s) {
    LeaseRecord lease;
    lease.version = std::to_string(++version_);
    lease.duration = 40s;
    lease.renewed = wall_ - age;
    return inventory_.node_lease_changed(node, lease, now_, wall_);
  }
  // Time passes while leases are heard.
  Inventory::Names pass(std::chrono::seconds time) {
    Inventory::Names names;
    for (; time > 0s; time -= 2s) {
      now_ += 2s;
      wall_ += 2s;
      for (auto& name : inventory_.leases_heard(now_)) names.push_back(std::move(name));
    }
    return names;
  }
  const NodeView& view(const std::string& node) {
    views_ = inventory_.views(testing::volume("new"));
    for (const auto& view : views_)
      if (view.node->name == node) return view;
    ADD_FAILURE() << "no node " << node;
    return views_.front();
  }

  Inventory::Time now_{1000s};
  Inventory::WallTime wall_{std::chrono::seconds(1'700'000'000)};
  uint64_t version_ = 0;
  Inventory inventory_;
  std::vector<NodeView> views_;
};

TEST_F(InventoryTest, ANodesLoadIsWhatIsBoundToIt) {
  (void)inventory_.node_changed("a", testing::node("a"));
  VolumeRecord made = testing::volume("made", "a");
  made.made = true;
  put(made);
  put(testing::volume("not-made", "a"));
  put(testing::volume("elsewhere", "b"));
  put(testing::volume("unbound"));
  VolumeRecord other_pool = testing::volume("other-pool", "a");
  other_pool.pool = "fast";
  put(other_pool);
  EXPECT_EQ(view("a").volumes, 3U);
  EXPECT_EQ(view("a").pool->promised_bytes, 2 * GiB);
  EXPECT_EQ(view("a").pool->not_made_bytes, GiB);
}

TEST_F(InventoryTest, AChangeReplacesWhatAVolumeWasCountedWith) {
  (void)inventory_.node_changed("a", testing::node("a"));
  VolumeRecord volume = testing::volume("v", "a");
  put(volume);
  volume.size_bytes = 2 * GiB;
  volume.made = true;
  put(volume);
  EXPECT_EQ(view("a").pool->promised_bytes, 2 * GiB);
  EXPECT_EQ(view("a").pool->not_made_bytes, 0U);
  (void)inventory_.volume_changed("v", std::nullopt);
  EXPECT_EQ(view("a").pool->promised_bytes, 0U);
  EXPECT_EQ(view("a").volumes, 0U);
}

TEST_F(InventoryTest, AVolumeThatIsBeingDeletedHoldsItsSpaceUntilItIsGone) {
  (void)inventory_.node_changed("a", testing::node("a"));
  VolumeRecord volume = testing::volume("v", "a");
  volume.deleting = true;
  put(volume);
  EXPECT_EQ(view("a").pool->promised_bytes, GiB);
}

TEST_F(InventoryTest, TheSameFileIsSeen) {
  (void)inventory_.node_changed("a", testing::node("a"));
  VolumeRecord volume = testing::volume("v", "a");
  volume.path = "new.img";
  put(volume);
  EXPECT_EQ(view("a").same_file, "v");
}

TEST_F(InventoryTest, AnOwnWriteCountsAtOnceAndIsNotUndoneByOlderNews) {
  put(testing::volume("v"));
  VolumeRecord bound = testing::volume("v", "a");
  bound.resource_version = "12";
  inventory_.assume(bound);
  EXPECT_EQ(inventory_.volume("v")->node_name, "a");
  VolumeRecord older = testing::volume("v");
  older.resource_version = "9";
  EXPECT_THAT(inventory_.volume_changed("v", older), IsEmpty());
  EXPECT_EQ(inventory_.volume("v")->node_name, "a");
  bound.resource_version = "13";
  EXPECT_THAT(inventory_.volume_changed("v", bound), ElementsAre("v"));
}

TEST_F(InventoryTest, AnAnswerOlderThanTheNewsIsPassedOver) {
  VolumeRecord newer = testing::volume("v", "a");
  newer.resource_version = "100";
  put(newer);
  VolumeRecord answer = testing::volume("v");
  answer.resource_version = "99";
  inventory_.assume(answer);
  EXPECT_EQ(inventory_.volume("v")->node_name, "a");
}

TEST_F(InventoryTest, AnAnswerAboutWhatIsGoneBringsNothingBack) {
  put(testing::volume("v"));
  (void)inventory_.volume_changed("v", std::nullopt);
  inventory_.assume(testing::volume("v", "a"));
  EXPECT_EQ(inventory_.volume("v"), nullptr);
}

TEST_F(InventoryTest, VersionsGoBackWhereNoOwnWriteStands) {
  VolumeRecord volume = testing::volume("v");
  volume.resource_version = "100";
  put(volume);
  volume.resource_version = "7";  // etcd was restored from a backup
  EXPECT_THAT(inventory_.volume_changed("v", volume), ElementsAre("v"));
}

TEST_F(InventoryTest, UnboundVolumesAreLookedAtWhenThereMayBeAPlace) {
  put(testing::volume("u"));
  put(testing::volume("b", "a"));
  EXPECT_THAT(inventory_.node_changed("n", testing::node("n")), ElementsAre("u"));
  EXPECT_THAT(inventory_.node_changed("n", testing::node("n")), IsEmpty()) << "nothing changed";
  EXPECT_THAT(inventory_.node_changed("n", testing::node("n", 20 * GiB)), ElementsAre("u"));
  EXPECT_THAT(renew("n"), ElementsAre("u")) << "it is alive now";
  EXPECT_THAT(renew("n"), IsEmpty());
  EXPECT_THAT(inventory_.volume_changed("b", std::nullopt), UnorderedElementsAre("b", "u"));
}

TEST_F(InventoryTest, VolumesOfANodeThatComesOrGoesAreLookedAt) {
  put(testing::volume("v", "a"));
  EXPECT_THAT(inventory_.node_changed("a", testing::node("a")), ElementsAre("v"));
  EXPECT_THAT(inventory_.node_changed("a", std::nullopt), ElementsAre("v"));
  EXPECT_EQ(inventory_.counts().orphaned, 1U);
}

TEST_F(InventoryTest, ANodeWithoutALeaseIsSilent) { EXPECT_EQ(inventory_.life("a"), Life::silent); }

TEST_F(InventoryTest, ANodeThatRenewsIsAlive) {
  put(testing::volume("v", "a"));
  EXPECT_THAT(renew("a"), ElementsAre("v"));
  for (int i = 0; i < 20; ++i) {
    EXPECT_THAT(pass(10s), IsEmpty());
    EXPECT_EQ(inventory_.life("a"), Life::alive);
    EXPECT_THAT(renew("a"), IsEmpty());
  }
}

TEST_F(InventoryTest, ANodeThatStopsRenewingIsSilentAfterItsTime) {
  put(testing::volume("v", "a"));
  (void)renew("a");
  EXPECT_THAT(pass(38s), IsEmpty());
  EXPECT_EQ(inventory_.next_change(now_), now_ + 2s);
  EXPECT_THAT(pass(2s), ElementsAre("v"));
  EXPECT_EQ(inventory_.life("a"), Life::silent);
  EXPECT_FALSE(inventory_.next_change(now_));
  EXPECT_THAT(renew("a"), ElementsAre("v"));
  EXPECT_EQ(inventory_.life("a"), Life::alive);
}

TEST_F(InventoryTest, TimeAloneShowsItToo) {
  put(testing::volume("v", "a"));
  (void)renew("a");
  (void)pass(38s);
  now_ += 2s;
  EXPECT_THAT(inventory_.time_passed(now_), ElementsAre("v"));
}

TEST_F(InventoryTest, ALeaseThatIsTakenAwayIsSilenceAtOnce) {
  put(testing::volume("v", "a"));
  (void)renew("a");
  EXPECT_THAT(inventory_.node_lease_changed("a", std::nullopt, now_, wall_), ElementsAre("v"));
  EXPECT_EQ(inventory_.life("a"), Life::silent);
}

TEST_F(InventoryTest, AnOldLeaseFoundAtTheStartProvesNothingYet) {
  (void)renew("a", 3600s);
  EXPECT_EQ(inventory_.life("a"), Life::unsure);
  (void)pass(10s);
  (void)renew("a", 3600s);  // the node's clock is an hour late
  EXPECT_EQ(inventory_.life("a"), Life::alive);
}

TEST_F(InventoryTest, AnOldLeaseThatStaysOldIsSilentAfterItsTime) {
  (void)renew("a", 3600s);
  (void)pass(40s);
  EXPECT_EQ(inventory_.life("a"), Life::silent);
}

TEST_F(InventoryTest, WhoHearsNothingBlamesNobody) {
  put(testing::volume("v", "a"));
  (void)renew("a");
  now_ += 300s;
  EXPECT_THAT(inventory_.time_passed(now_), IsEmpty());
  EXPECT_EQ(inventory_.life("a"), Life::alive);
  EXPECT_FALSE(inventory_.next_change(now_)) << "only hearing helps";
  // The watch is back, and brings another's lease first.
  EXPECT_THAT(inventory_.leases_heard(now_), IsEmpty());
  EXPECT_EQ(inventory_.life("a"), Life::alive);
  EXPECT_THAT(pass(40s), ElementsAre("v")) << "its whole time anew";
}

TEST_F(InventoryTest, WhoWasSilentBeforeNothingWasHeardIsSilentAfterIt) {
  put(testing::volume("v", "dead"));
  put(testing::volume("pending"));
  (void)renew("dead");
  (void)renew("dead");
  (void)pass(60s);
  ASSERT_EQ(inventory_.life("dead"), Life::silent);
  now_ += 300s;
  EXPECT_THAT(renew("other"), ElementsAre("pending")) << "another node's is the first to be heard";
  EXPECT_EQ(inventory_.life("dead"), Life::silent);
  EXPECT_THAT(renew("dead"), UnorderedElementsAre("v", "pending")) << "heard itself it is alive";
  EXPECT_EQ(inventory_.life("dead"), Life::alive);
}

TEST_F(InventoryTest, CountsAreOfWhatIsThere) {
  (void)inventory_.node_changed("a", testing::node("a"));
  (void)inventory_.node_changed("b", testing::node("b"));
  NodeRecord without_driver = testing::node("c");
  without_driver.ready = false;
  (void)inventory_.node_changed("c", without_driver);
  (void)renew("a");
  (void)renew("c");
  put(testing::volume("u"));
  put(testing::volume("v", "a"));
  put(testing::volume("o", "gone"));
  const auto counts = inventory_.counts();
  EXPECT_EQ(counts.volumes, 3U);
  EXPECT_EQ(counts.unbound, 1U);
  EXPECT_EQ(counts.orphaned, 1U);
  EXPECT_EQ(counts.nodes, 3U);
  EXPECT_EQ(counts.silent_nodes, 1U);
  EXPECT_EQ(counts.not_ready_nodes, 1U);
}

}  // namespace
}  // namespace ublk_operator::controller
