// wait_for: blocks until a volume is as wanted, woken by watch, on any VolumeService.
#pragma once
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "common/localapi/service.h"

namespace ublk_operator {

// Until `done` is true of the volume (nullopt: there is none of that name). A lost agent is waited
// for until the deadline; only when it cannot be reached at the very start is that the answer at
// once (ENOTCONN). Returns ETIMEDOUT at the deadline; a deadline in the past looks once. `done` is
// called from the calling thread.
[[nodiscard]] Result<void> wait_for(VolumeService& service, const std::string& name,
                                    const std::function<bool(const std::optional<Volume>&)>& done,
                                    std::chrono::steady_clock::time_point deadline);

}  // namespace ublk_operator
