// What a bug report needs of this machine and can be had without the agent.
#pragma once
#include <string>
#include <vector>

#include "cli/preflight.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {

// {"uname": {...}, "ublkChar": [...], "dmesg": [...] | {"error": ...}, "preflight": [...]}. What
// cannot be read says so in its place. Of the kernel's log only lines about ublk, at most the last
// 200.
[[nodiscard]] nlohmann::json local_facts(const std::vector<PreflightCheck>& checks);

// Lines of a kernel log that speak of ublk, without their priority prefix; the last `lines_max`.
[[nodiscard]] nlohmann::json ublk_lines(const std::string& log, size_t lines_max);

// Values under keys that sound like secrets (password, token, ...), at any depth, become
// "(removed)".
void remove_secrets(nlohmann::json& json);

}  // namespace ublk_operator
