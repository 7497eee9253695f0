// What an errno of a ublk control command means here, in one sentence for people. The fake uses the
// same sentences as the real control device.
// Source   drivers/block/ublk_drv.c, the command named in `operation`.
#pragma once
#include <optional>
#include <string>
#include <string_view>

#include "node/ublk/device.h"

namespace ublk_operator {

struct Verdict {
  std::string_view operation;  // as in Error::operation: "start_dev"
  int err = 0;
  DeviceId id = 0;
  std::optional<DeviceInfo> device;  // as it was just after; none: not asked, or gone
  uint64_t wanted_flags = 0;         // add_dev only
};

// True where the sentence is better with Verdict::device.
[[nodiscard]] bool depends_on_state(std::string_view operation, int err);

// Never empty.
[[nodiscard]] std::string explain(const Verdict& verdict);

}  // namespace ublk_operator
