// The driver itself: is it there, and can it be loaded.
// Errors   ENOENT: there is no modprobe, or no module for this kernel (detail says what it said, and
//          what to do); errno of starting it.
// Time     modprobe's, a second or so; nothing when the driver is there.
// Threads  any.
#pragma once
#include <string>

#include "common/base/result.h"

namespace ublk_operator {

// Makes `control` be there: runs `modprobe ublk_drv` when it is not.
[[nodiscard]] Result<void> load_driver(const std::string& control = "/dev/ublk-control",
                                       const std::string& modprobe = "modprobe");

}  // namespace ublk_operator
