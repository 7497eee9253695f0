// sd_notify: tells the service manager that started us how we are (Type=notify), without
// libsystemd.
// Shape    one datagram to the socket that NOTIFY_SOCKET names: lines of KEY=VALUE.
// Errors   without NOTIFY_SOCKET nothing is sent and that is fine; otherwise the send's errno.
// Threads  reads the environment: call it while nobody changes that.
// Source   sd_notify(3), "Standalone Implementations".
#pragma once
#include <string_view>

#include "common/base/result.h"

namespace ublk_operator {

// "READY=1", "STOPPING=1", "STATUS=adopting 12 volumes".
[[nodiscard]] Result<void> sd_notify(std::string_view state);

}  // namespace ublk_operator
