// Where a volume goes, or why nowhere.
#include "controller/operator/placement.h"

#include <gmock/gmock.h>

#include "controller/operator/test_objects.h"

namespace ublk_operator::controller {
namespace {

using testing::GiB;
using ::testing::HasSubstr;

class PlacementTest : public ::testing::Test {
 protected:
  // Nodes are made once, because views point to them.
  NodeView view(const NodeRecord& node, uint64_t volumes = 0, uint64_t promised = 0,
                uint64_t not_made = 0) {
    nodes_.push_back(std::make_unique<NodeRecord>(node));
    NodeView view{nodes_.back().get(), Life::alive, volumes, std::nullopt, ""};
    const auto pool = node.pools.find(volume_.pool);
    if (pool != node.pools.end()) view.pool = PoolView{pool->second, promised, not_made};
    return view;
  }
  void expect_refused(const std::vector<NodeView>& views, const std::string& reason,
                      const std::string& sentence) {
    const Placement found = place(volume_, views);
    EXPECT_EQ(found.node, "");
    EXPECT_EQ(found.reason, reason);
    EXPECT_THAT(found.message, HasSubstr(sentence));
  }
  VolumeRecord volume_ = testing::volume("pgdata");
  std::vector<std::unique_ptr<NodeRecord>> nodes_;
};

TEST_F(PlacementTest, GoesWhereMostSpaceIsFree) {
  EXPECT_EQ(place(volume_, {view(testing::node("a", 10 * GiB, 5 * GiB)),
                            view(testing::node("b", 10 * GiB, 6 * GiB)),
                            view(testing::node("c", 10 * GiB, 4 * GiB))})
                .node,
            "b");
}

TEST_F(PlacementTest, ThenWhereFewestVolumesAre) {
  EXPECT_EQ(place(volume_, {view(testing::node("a"), 3), view(testing::node("b"), 2),
                            view(testing::node("c"), 4)})
                .node,
            "b");
}

TEST_F(PlacementTest, ThenByName) {
  EXPECT_EQ(place(volume_, {view(testing::node("b")), view(testing::node("a"))}).node, "a");
}

TEST_F(PlacementTest, WithoutAPoolWhereFewestVolumesAre) {
  volume_.pool.clear();
  EXPECT_EQ(place(volume_, {view(testing::node("a"), 3), view(testing::node("b"), 2)}).node, "b");
}

TEST_F(PlacementTest, NoNodeAtAll) { expect_refused({}, "NoNode", "there is no UblkNode"); }

TEST_F(PlacementTest, OnlyNodesThatAreAliveAndReadyCount) {
  auto silent = view(testing::node("a"));
  silent.life = Life::silent;
  auto unsure = view(testing::node("b"));
  unsure.life = Life::unsure;
  NodeRecord broken = testing::node("c");
  broken.ready = false;
  expect_refused({silent, unsure, view(broken)}, "NoNode", "alive and ready");
  EXPECT_EQ(place(volume_, {silent, unsure, view(broken), view(testing::node("d"))}).node, "d");
}

TEST_F(PlacementTest, NoNodeHasThePool) {
  volume_.pool = "fast";
  expect_refused({view(testing::node("a"))}, "NoPool", "the pool \"fast\"");
}

TEST_F(PlacementTest, APoolOnASilentNodeIsNoPool) {
  volume_.pool = "fast";
  NodeRecord has = testing::node("a");
  has.pools["fast"] = {GiB, GiB};
  auto silent = view(has);
  silent.life = Life::silent;
  expect_refused({silent, view(testing::node("b"))}, "NoPool", "alive");
}

TEST_F(PlacementTest, NoNodeCanServeTheMode) {
  volume_.mode = "FailIO";
  NodeRecord old = testing::node("a");
  old.modes = {"None", "Queue", "Reissue"};
  expect_refused({view(old)}, "ModeUnsupported", "recovery.mode FailIO");
}

TEST_F(PlacementTest, TooManyQueuesForEveryNode) {
  volume_.queues = 8;
  NodeRecord small = testing::node("a");
  small.queues_max = 4;
  expect_refused({view(small)}, "NoNode", "spec.queues 8");
  volume_.queues = 1;
  volume_.queue_depth = 512;
  small.queue_depth_max = 256;
  expect_refused({view(small)}, "NoNode", "spec.queueDepth 512");
}

TEST_F(PlacementTest, EveryNodeIsFull) {
  NodeRecord small = testing::node("a");
  small.volumes_max = 2;
  expect_refused({view(small, 2)}, "NoNode", "as many volumes");
  EXPECT_EQ(place(volume_, {view(small, 1)}).node, "a");
}

TEST_F(PlacementTest, TheFileIsAnotherVolumesThere) {
  auto taken = view(testing::node("a"));
  taken.same_file = "other";
  expect_refused({taken}, "NoNode", "pgdata.img");
  EXPECT_EQ(place(volume_, {taken, view(testing::node("b", GiB, GiB))}).node, "b");
}

TEST_F(PlacementTest, NoSpace) {
  expect_refused({view(testing::node("a", 10 * GiB, GiB - 1)), view(testing::node("b", GiB - 1))},
                 "NoSpace", "1Gi do not fit into pool \"default\"");
  EXPECT_EQ(place(volume_, {view(testing::node("a", GiB, GiB))}).node, "a") << "to the last byte";
}

TEST_F(PlacementTest, WhatIsPromisedIsNeverMoreThanThereIs) {
  // 9 GiB of sparse files: all of the space is free, and none of it is.
  expect_refused({view(testing::node("a", 10 * GiB, 10 * GiB), 9, 9 * GiB + 1)}, "NoSpace", "");
  EXPECT_EQ(place(volume_, {view(testing::node("a", 10 * GiB, 10 * GiB), 9, 9 * GiB)}).node, "a");
}

TEST_F(PlacementTest, WhatOthersHaveInTheFileSystemCounts) {
  // 4 GiB free, 3 of them for a volume the node is about to make.
  expect_refused({view(testing::node("a", 100 * GiB, 4 * GiB), 1, 3 * GiB, 3 * GiB + 1)}, "NoSpace",
                 "");
  EXPECT_EQ(
      place(volume_, {view(testing::node("a", 100 * GiB, 4 * GiB), 1, 3 * GiB, 3 * GiB)}).node,
      "a");
  // Made: its file is in what is free, or rather is not.
  EXPECT_EQ(place(volume_, {view(testing::node("a", 100 * GiB, GiB), 1, 3 * GiB, 0)}).node, "a");
}

TEST_F(PlacementTest, MostSpaceMeansWhatIsLeftByThatRule) {
  EXPECT_EQ(place(volume_, {view(testing::node("a"), 1, 5 * GiB),
                            view(testing::node("b", 10 * GiB, 6 * GiB))})
                .node,
            "b");
}

TEST_F(PlacementTest, WhatCannotBeReadIsSaid) {
  volume_.unreadable = "spec.size has no unit";
  expect_refused({view(testing::node("a"))}, "NoNode", "spec.size has no unit");
}

TEST_F(PlacementTest, ASentenceStaysAsItIsWhileFiguresMove) {
  const auto before = place(volume_, {view(testing::node("a", GiB - 1))}).message;
  EXPECT_EQ(
      place(volume_, {view(testing::node("a", GiB / 2)), view(testing::node("b", 1))}).message,
      before)
      << "each other sentence would be a write";
}

}  // namespace
}  // namespace ublk_operator::controller
