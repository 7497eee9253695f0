// The cgroup of this process, as the folder where its settings are files. Cgroup v2 only.
// Errors   ENOTSUP: no such hierarchy is mounted here, or this process is in none of it.
// Threads  any.
// Source   cgroups(7), /proc/self/cgroup; proc(5), /proc/self/mountinfo.
#pragma once
#include <string>

#include "common/base/result.h"

namespace ublk_operator {

[[nodiscard]] Result<std::string> own_cgroup_folder();

}  // namespace ublk_operator
