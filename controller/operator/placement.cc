#include "controller/operator/placement.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <tuple>

#include "common/api/quantity.h"

namespace ublk_operator::controller {

namespace {

uint64_t less(uint64_t from, uint64_t what) { return from > what ? from - what : 0; }

// Keeps the nodes that pass. False: none does.
bool keep(std::vector<const NodeView*>& nodes, const std::function<bool(const NodeView&)>& passes) {
  std::erase_if(nodes, [&](const NodeView* view) { return !passes(*view); });
  return !nodes.empty();
}

uint64_t available(const NodeView& view) { return view.pool ? view.pool->available_bytes() : 0; }

Placement no_node(const std::vector<NodeView>& nodes) {
  if (nodes.empty())
    return {"", "NoNode", "there is no UblkNode; is the DaemonSet ublk-node running on any node?"};
  return {"", "NoNode",
          "no node with ublk is alive and ready; see `kubectl get ublknodes` and the pods of the "
          "DaemonSet ublk-node"};
}

}  // namespace

uint64_t PoolView::available_bytes() const {
  return std::min(less(pool.capacity_bytes, promised_bytes), less(pool.free_bytes, not_made_bytes));
}

Placement place(const VolumeRecord& volume, const std::vector<NodeView>& nodes) {
  if (!volume.unreadable.empty()) return {"", "NoNode", volume.unreadable};
  std::vector<const NodeView*> left;
  left.reserve(nodes.size());
  for (const auto& view : nodes) left.push_back(&view);

  if (!keep(left, [](const NodeView& v) { return v.life == Life::alive && v.node->ready; }))
    return no_node(nodes);
  if (!volume.pool.empty() && !keep(left, [](const NodeView& v) { return v.pool.has_value(); }))
    return {"", "NoPool",
            "no node that is alive has the pool \"" + volume.pool +
                "\"; see `kubectl get ublknodes -o yaml` for the pools there are, and "
                "spec.backend.file.pool"};
  if (!keep(left, [&](const NodeView& v) { return v.node->modes.contains(volume.mode); }))
    return {"", "ModeUnsupported",
            "no node that would do can serve recovery.mode " + volume.mode +
                ": set another mode, or add a node with a newer kernel (status.modes of `kubectl "
                "get ublknodes -o yaml` says what each can do)"};
  if (!keep(left, [&](const NodeView& v) {
        constexpr uint64_t any = std::numeric_limits<uint64_t>::max();
        return volume.queues <= v.node->queues_max.value_or(any) &&
               volume.queue_depth <= v.node->queue_depth_max.value_or(any);
      }))
    return {"", "NoNode",
            "spec.queues " + std::to_string(volume.queues) + " and spec.queueDepth " +
                std::to_string(volume.queue_depth) +
                " are more than any node that would do can serve; see status.limits of `kubectl "
                "get ublknodes -o yaml`"};
  if (!keep(left, [](const NodeView& v) {
        return !v.node->volumes_max || v.volumes < *v.node->volumes_max;
      }))
    return {"", "NoNode", "every node that would do has as many volumes as it can serve"};
  if (!keep(left, [](const NodeView& v) { return v.same_file.empty(); }))
    return {"", "NoNode",
            "on every node that would do another volume has the file \"" + volume.path +
                "\" of pool \"" + volume.pool + "\"; see spec.backend.file.path"};
  if (!volume.pool.empty() &&
      !keep(left, [&](const NodeView& v) { return available(v) >= volume.size_bytes; }))
    return {"", "NoSpace",
            format_quantity(volume.size_bytes) + " do not fit into pool \"" + volume.pool +
                "\" of any node that would do, beside what is there and what is promised to other "
                "volumes; free some space, add a node, or set spec.nodeName to promise more than "
                "there is"};
  const auto* best =
      *std::min_element(left.begin(), left.end(), [](const NodeView* a, const NodeView* b) {
        return std::tuple(available(*b), a->volumes, a->node->name) <
               std::tuple(available(*a), b->volumes, b->node->name);
      });
  return {best->node->name, "Bound", ""};
}

}  // namespace ublk_operator::controller
