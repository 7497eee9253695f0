// plan(): what the controller does next about one volume. Pure: no clock, no I/O.
// Shape    at most one write of the object itself and at most one of its status; the caller
//          executes them in that order, and looks again when one of them changed the object.
//          Level-triggered: it does not matter which change led here, or how often it is asked.
// Safety   the finalizer goes only when the node says that nothing is left (DeviceRemoved), when no
//          node ever had the volume, or when a person says so (force-release) while the node is
//          silent. A volume on a node that does not exist is reported and left alone. spec.nodeName
//          is written once, and only where there was none.
// Status   the conditions Bound, and Ready while the node is silent, are applied together, and only
//          when one of them is to change. Ready is the node's: it takes it back when it returns;
//          until then what was written there is kept.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "controller/operator/inventory.h"
#include "controller/operator/records.h"

namespace ublk_operator::controller {

struct Said {  // an event
  bool warning = false;
  std::string reason;
  std::string message;
  friend bool operator==(const Said&, const Said&) = default;
};

enum class Write {
  none,
  bind,              // spec.nodeName and the finalizer
  add_finalizer,     // a person chose the node
  remove_finalizer,  // after which the object may be gone
};

struct Plan {
  Write write = Write::none;
  std::string node;                   // for bind
  std::vector<Condition> conditions;  // to be applied; empty: as they are. Times are the caller's.
  std::vector<Said> events;           // once the writes are done
  std::string refusal;                // why it is bound to no node: a reason; else empty
};

[[nodiscard]] Plan plan(const VolumeRecord& volume, const Inventory& inventory);

}  // namespace ublk_operator::controller
