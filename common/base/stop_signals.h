// The signals that ask a program to end, as a descriptor to poll.
// Threads  call it before any thread is made: all of them inherit the mask.
#pragma once
#include "common/base/result.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

// Blocks SIGTERM and SIGINT; readable when one of them came.
[[nodiscard]] Result<UniqueFd> stop_signals();

}  // namespace ublk_operator
