// place(): on which node a volume goes, or why on none. Pure.
// Space    a file takes its place only as it is written (Thin) or when the node has made it
//          (Thick), so free space alone would be promised many times over. A volume fits where both
//          hold:
//            - its size and the sizes of all volumes bound to the pool fit into its capacity;
//            - its size and the sizes of those the node has not made yet fit into its free space.
//          So the volumes alone are never promised more than the pool holds. What else lies in its
//          file system counts only by the free space it leaves now: Thin files that are not yet
//          full, next to other data that stays, can still fill it. Who wants to promise more sets
//          spec.nodeName himself. The node has the last word; it finds out with the file in hand.
// Choice   most free space left by that rule, then fewest volumes, then the name.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "controller/operator/records.h"

namespace ublk_operator::controller {

// By the node's Lease, judged by this process's clock.
enum class Life {
  alive,   // renewed within its duration; next: silent
  unsure,  // not seen to be renewed since this process began, and it looks old; next: alive, silent
  silent,  // not renewed for its duration, or there is no Lease; next: alive
};

struct PoolView {
  PoolRecord pool;
  uint64_t promised_bytes = 0;  // sizes of all volumes bound to it
  uint64_t not_made_bytes = 0;  // of these, which the node has not made yet
  [[nodiscard]] uint64_t available_bytes() const;
};

struct NodeView {
  const NodeRecord* node = nullptr;
  Life life = Life::silent;
  uint64_t volumes = 0;          // bound to it
  std::optional<PoolView> pool;  // the one that the volume asks for, if the node has it
  std::string same_file;         // another volume bound there that has this pool and path
};

struct Placement {
  std::string node;     // empty: none
  std::string reason;   // then: NoNode, NoPool, ModeUnsupported, NoSpace
  std::string message;  // a sentence, the same as long as nothing that a person can do changes
};

[[nodiscard]] Placement place(const VolumeRecord& volume, const std::vector<NodeView>& nodes);

}  // namespace ublk_operator::controller
