// JSON values to trees, for what the API servers send: no positions, everything else as from YAML.
#pragma once
#include "common/api/tree.h"
#include "common/base/result.h"
#include "nlohmann/json_fwd.hpp"

namespace ublk_operator {

// E2BIG: nested deeper, or more nodes, than the limits for YAML.
[[nodiscard]] Result<TreePtr> read_json(const nlohmann::json& json);

}  // namespace ublk_operator
