#include "controller/operator/plan.h"

namespace ublk_operator::controller {

namespace {

constexpr const char* node_silent = "NodeSilent";

Condition condition(const VolumeRecord& volume, const char* type, ConditionStatus status,
                    std::string reason, std::string message) {
  return {type, status, std::move(reason), std::move(message), volume.generation, ""};
}

bool same_verdict(const std::optional<Condition>& have, const Condition& wanted) {
  return have && have->status == wanted.status && have->reason == wanted.reason;
}

// A deletion is a generation of its own, and no reason for a write.
bool same(const VolumeRecord& volume, const std::optional<Condition>& have,
          const Condition& wanted) {
  return same_verdict(have, wanted) && have->message == wanted.message &&
         (volume.deleting || have->observed_generation == wanted.observed_generation);
}

Condition silent_ready(const VolumeRecord& volume) {
  std::string message = "node " + volume.node_name +
                        " does not renew its Lease; what the volume does there is not known. It "
                        "may serve on: recovery needs no API server";
  if (volume.deleting)
    message +=
        ". The volume is being deleted and waits for the node; if that is lost for ever, see "
        "the annotation " +
        std::string(kForceRelease);
  return condition(volume, "Ready", ConditionStatus::unknown, node_silent, std::move(message));
}

Condition bound(const VolumeRecord& volume, bool node_known) {
  if (node_known)
    return condition(volume, "Bound", ConditionStatus::yes, "Bound",
                     "the volume belongs to node " + volume.node_name);
  return condition(volume, "Bound", ConditionStatus::no, "NodeUnknown",
                   "there is no UblkNode " + volume.node_name +
                       ", which spec.nodeName names; nothing is deleted because of that. Bring the "
                       "node back, or delete the volume and release it with the annotation " +
                       std::string(kForceRelease) + ": " + volume.node_name);
}

// Of a volume that names a node. Applied together: what is left out of an apply is taken away.
void plan_conditions(const VolumeRecord& volume, const Inventory& inventory, Plan& plan) {
  const bool silent = inventory.life(volume.node_name) == Life::silent;
  std::vector<Condition> wanted{bound(volume, inventory.has_node(volume.node_name))};
  bool changed = !same(volume, volume.bound, wanted[0]);
  if (wanted[0].status == ConditionStatus::no && !same_verdict(volume.bound, wanted[0]))
    plan.events.push_back({true, wanted[0].reason, wanted[0].message});
  if (silent) {
    wanted.push_back(silent_ready(volume));
    changed = changed || !same(volume, volume.ready, wanted[1]);
    if (!same_verdict(volume.ready, wanted[1]))
      plan.events.push_back({true, wanted[1].reason, wanted[1].message});
  } else if (volume.ready && volume.ready->reason == node_silent) {
    wanted.push_back(*volume.ready);
  }
  if (changed) plan.conditions = std::move(wanted);
}

// Why the volume may not be released by force; empty: it may.
std::string refused(const VolumeRecord& volume, const Inventory& inventory) {
  if (volume.force_release != volume.node_name)
    return "the annotation " + std::string(kForceRelease) + " names \"" + volume.force_release +
           "\", but the volume belongs to node \"" + volume.node_name +
           "\"; it must name that node";
  switch (inventory.life(volume.node_name)) {
    case Life::silent:
      return "";
    case Life::alive:
      return "node " + volume.node_name +
             " is alive: it renews its Lease, and removes the volume itself; see the volume's "
             "conditions for what it waits for";
    case Life::unsure:
      return "whether node " + volume.node_name +
             " is alive is not known yet; it is decided within a minute";
  }
  return "";
}

void plan_deletion(const VolumeRecord& volume, const Inventory& inventory, Plan& plan) {
  if (volume.node_name.empty() || volume.device_removed) {
    plan.write = Write::remove_finalizer;
    return;
  }
  if (!volume.force_release.empty()) {
    std::string why = refused(volume, inventory);
    if (why.empty()) {
      plan.write = Write::remove_finalizer;
      plan.events.push_back({true, "ForceReleased",
                             "released by force while node " + volume.node_name +
                                 " was silent: a device, a server and a file may be left there"});
      return;
    }
    plan.events.push_back({true, "ForceReleaseRefused", std::move(why)});
  }
  plan_conditions(volume, inventory, plan);
}

void plan_binding(const VolumeRecord& volume, const Inventory& inventory, Plan& plan) {
  Placement found = place(volume, inventory.views(volume));
  if (!found.node.empty()) {
    plan.write = Write::bind;
    plan.events.push_back({false, "Bound", "bound to node " + found.node});
    plan.node = std::move(found.node);
    return;
  }
  plan.refusal = found.reason;
  Condition wanted = condition(volume, "Bound", ConditionStatus::no, std::move(found.reason),
                               std::move(found.message));
  // Ready is the summary, and no agent says it yet. What is bound gets its own from its node.
  Condition ready = wanted;
  ready.type = "Ready";
  if (same(volume, volume.bound, wanted) && same(volume, volume.ready, ready)) return;
  if (!same_verdict(volume.bound, wanted))
    plan.events.push_back({true, wanted.reason, wanted.message});
  plan.conditions = {std::move(wanted), std::move(ready)};
}

}  // namespace

Plan plan(const VolumeRecord& volume, const Inventory& inventory) {
  Plan plan;
  if (volume.deleting) {
    if (volume.has_finalizer()) plan_deletion(volume, inventory, plan);
  } else if (volume.node_name.empty()) {
    plan_binding(volume, inventory, plan);
  } else {
    if (!volume.has_finalizer()) plan.write = Write::add_finalizer;
    plan_conditions(volume, inventory, plan);
  }
  return plan;
}

}  // namespace ublk_operator::controller
