// Inventory: what the controller knows of the cluster: volumes, nodes, and which nodes are alive.
// No I/O, no clock of its own.
// Shape    each change answers with the names of the volumes that are to be looked at because of
//          it.
// Silence  a node is silent when its Lease was not seen to change for the Lease's duration, by this
//          process's clock, while leases were heard at all: in the same namespace the leader renews
//          its own every 2 s, so that deaf_after without any change of a lease means that it is the
//          watch that is broken. Every node then gets its whole time anew. Absent leases are
//          silent.
// Writes   what an own write answered is put in at once (assume()), so that the next decision
//          counts with it; an older version that comes by the watch after that is passed over.
// Bounds   as many entries as there are objects.
// Threads  one.
#pragma once
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "controller/operator/placement.h"
#include "controller/operator/records.h"

namespace ublk_operator::controller {

class Inventory {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using WallTime = std::chrono::system_clock::time_point;
  using Names = std::vector<std::string>;
  static constexpr std::chrono::seconds deaf_after{10};

  [[nodiscard]] Names volume_changed(const std::string& name, std::optional<VolumeRecord> volume);
  [[nodiscard]] Names node_changed(const std::string& name, std::optional<NodeRecord> node);
  [[nodiscard]] Names node_lease_changed(const std::string& node, std::optional<LeaseRecord> lease,
                                         Time now, WallTime wall);
  // Any lease was heard of, the leader's too.
  [[nodiscard]] Names leases_heard(Time now);
  [[nodiscard]] Names time_passed(Time now);
  // When time_passed() may have something to say; what is due already waits for a lease to be
  // heard.
  [[nodiscard]] std::optional<Time> next_change(Time now) const;
  void assume(VolumeRecord volume);

  [[nodiscard]] const VolumeRecord* volume(const std::string& name) const;
  [[nodiscard]] bool has_node(const std::string& name) const { return nodes_.contains(name); }
  [[nodiscard]] Life life(const std::string& node) const;
  // Alive, and says that ublk works there.
  [[nodiscard]] bool serves(const std::string& node) const;
  // Every node, as this volume sees it.
  [[nodiscard]] std::vector<NodeView> views(const VolumeRecord& volume) const;
  [[nodiscard]] Names all_volumes() const;

  struct Counts {
    size_t volumes = 0;
    size_t unbound = 0;
    size_t orphaned = 0;  // on a node that does not exist
    size_t nodes = 0;
    size_t silent_nodes = 0;
    size_t not_ready_nodes = 0;  // of those that are not silent
  };
  [[nodiscard]] Counts counts() const;

 private:
  struct Kept {
    VolumeRecord record;
    bool assumed = false;
  };
  struct Load {  // what is bound to a node
    std::set<std::string> volumes;
    struct Promised {
      uint64_t bytes = 0;
      uint64_t not_made_bytes = 0;
      std::map<std::string, std::set<std::string>> files;  // path -> volumes
    };
    std::map<std::string, Promised> pools;
  };
  struct Heartbeat {
    LeaseRecord lease;
    Time changed_at{};
    bool seen_to_change = false;
    bool looks_fresh = false;  // by the time written in it
  };
  void put(VolumeRecord volume, bool assumed);
  void drop(const std::string& name);
  void load(const VolumeRecord& volume, bool add);
  [[nodiscard]] Life judge(const Heartbeat& beat, Time now) const;
  [[nodiscard]] Names judge_all(Time now);
  [[nodiscard]] Names on_node(const std::string& node) const;
  void add_unbound(Names& names) const;

  std::map<std::string, Kept> volumes_;
  std::set<std::string> unbound_;
  std::map<std::string, Load> loads_;  // by node, also of nodes that do not exist
  std::map<std::string, NodeRecord> nodes_;
  std::map<std::string, Heartbeat> heartbeats_;  // by node
  std::map<std::string, Life> lives_;            // as last judged
  std::optional<Time> heard_;                    // of a lease, last
};

}  // namespace ublk_operator::controller
