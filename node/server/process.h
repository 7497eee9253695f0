// What a server does to its own process before anything else.
#pragma once
#include <cstdint>

#include "common/base/result.h"
#include "node/server/protocol.h"

namespace ublk_operator {

// Signals, core dumps, ptrace, allocator, stack and locked memory. Nothing here is fatal: what
// could not be had is in the message's `warning`. Before any thread starts.
[[nodiscard]] ReadyMessage set_up_process();

}  // namespace ublk_operator
