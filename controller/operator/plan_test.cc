// What the controller does about a volume, whatever its state and its node's.
#include "controller/operator/plan.h"

#include <gmock/gmock.h>

#include "controller/operator/test_objects.h"

namespace ublk_operator::controller {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class PlanTest : public ::testing::Test {
 protected:
  void SetUp() override { add_node("a", Life::alive); }

  void add_node(const std::string& name, Life life) {
    (void)inventory_.node_changed(name, testing::node(name));
    set_life(name, life);
  }
  void set_life(const std::string& name, Life life) {
    if (life == Life::silent) {
      (void)inventory_.node_lease_changed(name, std::nullopt, now_, wall_);
      return;
    }
    LeaseRecord lease;
    lease.version = std::to_string(++version_);
    lease.renewed = life == Life::alive ? wall_ : wall_ - 3600s;
    (void)inventory_.node_lease_changed(name, lease, now_, wall_);
    ASSERT_EQ(inventory_.life(name), life);
  }
  // As after a first plan was executed.
  static VolumeRecord settled(const std::string& name, const std::string& node) {
    VolumeRecord volume = testing::volume(name, node);
    volume.bound = Condition{
        "Bound", ConditionStatus::yes, "Bound", "the volume belongs to node " + node, 1, "t"};
    volume.ready = Condition{"Ready", ConditionStatus::yes, "Serving", "m", 1, "t"};
    return volume;
  }
  // Executes the plan's conditions.
  static void apply(const Plan& todo, VolumeRecord& volume) {
    for (const auto& condition : todo.conditions)
      (condition.type == "Bound" ? volume.bound : volume.ready) = condition;
  }
  static void expect_nothing(const Plan& todo) {
    EXPECT_EQ(todo.write, Write::none);
    EXPECT_THAT(todo.conditions, IsEmpty());
    EXPECT_THAT(todo.events, IsEmpty());
  }

  Inventory::Time now_{1000s};
  Inventory::WallTime wall_{std::chrono::seconds(1'700'000'000)};
  uint64_t version_ = 0;
  Inventory inventory_;
};

TEST_F(PlanTest, AVolumeWithoutANodeIsBound) {
  const Plan todo = plan(testing::volume("v"), inventory_);
  EXPECT_EQ(todo.write, Write::bind);
  EXPECT_EQ(todo.node, "a");
  ASSERT_THAT(todo.events, SizeIs(1));
  EXPECT_EQ(todo.events[0], (Said{false, "Bound", "bound to node a"}));
}

TEST_F(PlanTest, WhatIsBoundSaysSo) {
  const Plan todo = plan(testing::volume("v", "a"), inventory_);
  EXPECT_EQ(todo.write, Write::none);
  ASSERT_THAT(todo.conditions, SizeIs(1));
  EXPECT_EQ(todo.conditions[0].type, "Bound");
  EXPECT_EQ(todo.conditions[0].status, ConditionStatus::yes);
  EXPECT_EQ(todo.conditions[0].observed_generation, 1);
}

TEST_F(PlanTest, WhatIsSettledStaysAsItIs) { expect_nothing(plan(settled("v", "a"), inventory_)); }

TEST_F(PlanTest, AVolumeThatAPersonPutOnANodeGetsTheFinalizerOnly) {
  VolumeRecord volume = testing::volume("v", "a");
  volume.finalizers = {"other"};
  const Plan todo = plan(volume, inventory_);
  EXPECT_EQ(todo.write, Write::add_finalizer);
  EXPECT_EQ(todo.node, "");
}

TEST_F(PlanTest, WhyItIsNotBoundIsSaidOnce) {
  VolumeRecord volume = testing::volume("v");
  volume.pool = "fast";
  const Plan todo = plan(volume, inventory_);
  EXPECT_EQ(todo.write, Write::none);
  EXPECT_EQ(todo.refusal, "NoPool");
  ASSERT_THAT(todo.conditions, SizeIs(2));
  EXPECT_EQ(todo.conditions[0].type, "Bound");
  EXPECT_EQ(todo.conditions[1].type, "Ready") << "the summary, until its node has its own";
  for (const Condition& condition : todo.conditions) {
    EXPECT_EQ(condition.status, ConditionStatus::no);
    EXPECT_EQ(condition.reason, "NoPool");
  }
  ASSERT_THAT(todo.events, SizeIs(1));
  EXPECT_TRUE(todo.events[0].warning);
  apply(todo, volume);
  expect_nothing(plan(volume, inventory_));
}

TEST_F(PlanTest, AnotherSentenceOfTheSameReasonIsNoEvent) {
  VolumeRecord volume = testing::volume("v");
  volume.pool = "fast";
  apply(plan(volume, inventory_), volume);
  volume.pool = "slow";
  const Plan todo = plan(volume, inventory_);
  EXPECT_THAT(todo.conditions, SizeIs(2));
  EXPECT_THAT(todo.events, IsEmpty());
}

TEST_F(PlanTest, AVolumeOnANodeThatDoesNotExistIsReportedAndLeftAlone) {
  VolumeRecord volume = testing::volume("v", "gone");
  const Plan todo = plan(volume, inventory_);
  EXPECT_EQ(todo.write, Write::none);
  ASSERT_THAT(todo.conditions, SizeIs(2));
  EXPECT_EQ(todo.conditions[0].reason, "NodeUnknown");
  EXPECT_EQ(todo.conditions[0].status, ConditionStatus::no);
  EXPECT_EQ(todo.conditions[1].reason, "NodeSilent");
  EXPECT_THAT(todo.events, SizeIs(2));
  apply(todo, volume);
  expect_nothing(plan(volume, inventory_));
}

TEST_F(PlanTest, ASilentNodesVolumesAreUnknown) {
  set_life("a", Life::silent);
  VolumeRecord volume = settled("v", "a");
  const Plan todo = plan(volume, inventory_);
  EXPECT_EQ(todo.write, Write::none);
  ASSERT_THAT(todo.conditions, SizeIs(2)) << "Bound too: what an apply leaves out is taken away";
  EXPECT_EQ(todo.conditions[0].message, volume.bound->message) << "unchanged";
  EXPECT_EQ(todo.conditions[1].type, "Ready");
  EXPECT_EQ(todo.conditions[1].status, ConditionStatus::unknown);
  EXPECT_EQ(todo.conditions[1].reason, "NodeSilent");
  ASSERT_THAT(todo.events, SizeIs(1));
  apply(todo, volume);
  expect_nothing(plan(volume, inventory_));
}

TEST_F(PlanTest, TheNodeTakesReadyBackItself) {
  set_life("a", Life::silent);
  VolumeRecord volume = settled("v", "a");
  apply(plan(volume, inventory_), volume);
  set_life("a", Life::alive);
  expect_nothing(plan(volume, inventory_));
  // Another reason to write meanwhile does not take it away.
  volume.generation = 2;
  const Plan todo = plan(volume, inventory_);
  ASSERT_THAT(todo.conditions, SizeIs(2));
  EXPECT_EQ(todo.conditions[1], volume.ready);
  // And when the node has it back, it is left out.
  volume.ready->reason = "Serving";
  EXPECT_THAT(plan(volume, inventory_).conditions, SizeIs(1));
}

TEST_F(PlanTest, ANodeThatMayBeAliveIsNotCalledSilent) {
  add_node("b", Life::unsure);
  expect_nothing(plan(settled("v", "b"), inventory_));
}

VolumeRecord deleting(VolumeRecord volume) {
  volume.deleting = true;
  return volume;
}

TEST_F(PlanTest, WhatNoNodeHadGoesAtOnce) {
  VolumeRecord volume = testing::volume("v");
  volume.finalizers = {kFinalizer};
  EXPECT_EQ(plan(deleting(volume), inventory_).write, Write::remove_finalizer);
}

TEST_F(PlanTest, AVolumeWithoutTheFinalizerIsNoneOfOurs) {
  VolumeRecord volume = testing::volume("v", "a");
  volume.finalizers = {"other"};
  expect_nothing(plan(deleting(volume), inventory_));
  expect_nothing(plan(deleting(testing::volume("u")), inventory_));
}

TEST_F(PlanTest, ADeletedVolumeWaitsForItsNode) {
  for (const Life life : {Life::alive, Life::unsure}) {
    set_life("a", life == Life::alive ? Life::alive : Life::silent);
    if (life == Life::unsure) set_life("a", Life::unsure);
    expect_nothing(plan(deleting(settled("v", "a")), inventory_));
  }
}

TEST_F(PlanTest, ItGoesWhenTheNodeSaysThatNothingIsLeft) {
  for (const Life life : {Life::alive, Life::silent}) {
    set_life("a", life);
    VolumeRecord volume = deleting(settled("v", "a"));
    volume.device_removed = true;
    EXPECT_EQ(plan(volume, inventory_).write, Write::remove_finalizer);
  }
}

TEST_F(PlanTest, DeviceRemovedOfAVolumeThatIsNotDeletedMeansNothing) {
  VolumeRecord volume = settled("v", "a");
  volume.device_removed = true;
  expect_nothing(plan(volume, inventory_));
}

TEST_F(PlanTest, ADeletionIsNoReasonForAStatus) {
  VolumeRecord volume = deleting(settled("v", "a"));
  volume.generation = 2;
  expect_nothing(plan(volume, inventory_));
}

TEST_F(PlanTest, ForceReleaseIsForSilentNodes) {
  VolumeRecord volume = deleting(settled("v", "a"));
  volume.force_release = "a";
  Plan todo = plan(volume, inventory_);
  EXPECT_EQ(todo.write, Write::none);
  ASSERT_THAT(todo.events, SizeIs(1));
  EXPECT_EQ(todo.events[0].reason, "ForceReleaseRefused");
  EXPECT_THAT(todo.events[0].message, HasSubstr("alive"));
  set_life("a", Life::silent);
  todo = plan(volume, inventory_);
  EXPECT_EQ(todo.write, Write::remove_finalizer);
  ASSERT_THAT(todo.events, SizeIs(1));
  EXPECT_EQ(todo.events[0].reason, "ForceReleased");
  EXPECT_TRUE(todo.events[0].warning);
}

TEST_F(PlanTest, ForceReleaseWaitsUntilItIsKnown) {
  add_node("b", Life::unsure);
  VolumeRecord volume = deleting(settled("v", "b"));
  volume.force_release = "b";
  const Plan todo = plan(volume, inventory_);
  EXPECT_EQ(todo.write, Write::none);
  EXPECT_THAT(todo.events[0].message, HasSubstr("not known yet"));
}

TEST_F(PlanTest, ForceReleaseMustNameTheNode) {
  set_life("a", Life::silent);
  for (const char* wrong : {"b", "true", "A"}) {
    VolumeRecord volume = deleting(settled("v", "a"));
    volume.force_release = wrong;
    const Plan todo = plan(volume, inventory_);
    EXPECT_EQ(todo.write, Write::none) << wrong;
    EXPECT_EQ(todo.events[0].reason, "ForceReleaseRefused");
    EXPECT_THAT(todo.events[0].message, HasSubstr("must name that node"));
  }
}

TEST_F(PlanTest, ForceReleaseOfAVolumeThatIsNotDeletedDoesNothing) {
  set_life("a", Life::silent);
  VolumeRecord volume = settled("v", "a");
  volume.force_release = "a";
  EXPECT_EQ(plan(volume, inventory_).write, Write::none);
}

TEST_F(PlanTest, ForceReleaseServesANodeThatNeverWas) {
  VolumeRecord volume = deleting(testing::volume("v", "typo"));
  volume.force_release = "typo";
  EXPECT_EQ(plan(volume, inventory_).write, Write::remove_finalizer);
}

// Every combination of what decides about the finalizer and the node.
TEST_F(PlanTest, NeverReleasesWithoutARightAndNeverMovesAVolume) {
  add_node("silent", Life::silent);
  add_node("unsure", Life::unsure);
  int combinations = 0;
  for (const char* node : {"", "a", "silent", "unsure", "gone"})
    for (const bool going : {false, true})
      for (const bool finalizer : {false, true})
        for (const bool removed : {false, true})
          for (const char* force : {"", "a", "silent", "unsure", "gone"}) {
            VolumeRecord volume = testing::volume("v", node);
            volume.finalizers.clear();
            if (finalizer) volume.finalizers = {kFinalizer};
            volume.deleting = going;
            volume.device_removed = removed;
            volume.force_release = force;
            const Plan todo = plan(volume, inventory_);
            ++combinations;
            const bool forced = !volume.force_release.empty() &&
                                volume.force_release == volume.node_name &&
                                inventory_.life(node) == Life::silent;
            if (todo.write == Write::remove_finalizer) {
              EXPECT_TRUE(going && finalizer);
              EXPECT_TRUE(volume.node_name.empty() || removed || forced);
            }
            if (todo.write == Write::bind) {
              EXPECT_TRUE(volume.node_name.empty() && !going);
              EXPECT_EQ(todo.node, "a") << "the only one that is alive";
            }
            if (todo.write == Write::add_finalizer) {
              EXPECT_TRUE(!going && !finalizer);
            }
            if (going && finalizer && (volume.node_name.empty() || removed || forced)) {
              EXPECT_EQ(todo.write, Write::remove_finalizer) << "and it must not be kept for ever";
            }
            for (const auto& condition : todo.conditions) {
              EXPECT_TRUE(condition.type == "Bound" || condition.type == "Ready");
              EXPECT_FALSE(condition.reason.empty());
              EXPECT_FALSE(condition.message.empty());
            }
          }
  EXPECT_EQ(combinations, 200);
}

}  // namespace
}  // namespace ublk_operator::controller
