// `ublkctl preflight`: what this machine can do, shown. The checks themselves are node/ublk's.
#pragma once
#include <string>
#include <vector>

#include "cli/session.h"
#include "nlohmann/json.hpp"
#include "node/ublk/preflight.h"

namespace ublk_operator {

// Exit code ok unless a check failed: then failed, so that an installer can stop there. Needs
// neither agent nor root; what could not be looked at without root says so.
[[nodiscard]] ExitCode print_preflight(const Session& session,
                                       const std::vector<PreflightCheck>& checks, bool json);

[[nodiscard]] nlohmann::json to_json(const std::vector<PreflightCheck>& checks);

}  // namespace ublk_operator
