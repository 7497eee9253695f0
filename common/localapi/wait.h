// wait_for: blocks until a volume is as wanted, woken by watch, on any VolumeService.
#pragma once
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "common/localapi/service.h"

namespace ublk_operator {

// Whether who answered so may answer otherwise in a moment: ENOTCONN, ETIMEDOUT, EAGAIN.
[[nodiscard]] bool may_pass(const Error& error);
inline constexpr std::chrono::seconds ask_again{1};  // after such an answer, at the latest

// Until `done` is true of the volume (nullopt: there is none of that name). A lost agent or API
// server is waited for until the deadline; only when it cannot be reached at the very start is that
// the answer at once (ENOTCONN). Returns ETIMEDOUT at the deadline; a deadline in the past looks
// once. `done` is called from the calling thread.
[[nodiscard]] Result<void> wait_for(VolumeService& service, const std::string& name,
                                    const std::function<bool(const std::optional<Volume>&)>& done,
                                    std::chrono::steady_clock::time_point deadline);

}  // namespace ublk_operator
