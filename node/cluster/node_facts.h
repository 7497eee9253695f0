// What a node says of itself in its UblkNode: what a volume may ask of it, and what is wrong.
// Shape    status of UblkNode, without conditions and times: equal as long as nothing worth a write
//          changed. Free space is rounded down to whole hundredths of the capacity for that.
// Threads  pure.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "node/ublk/preflight.h"

namespace ublk_operator {

struct PoolFacts {
  std::string name;
  std::string path;
  uint64_t capacity_bytes = 0;
  uint64_t free_bytes = 0;
  // Why neither is known; then they are left out, and the controller takes it for no space.
  std::string problem;
};

[[nodiscard]] nlohmann::json node_status(const PreflightFacts& facts,
                                         const std::vector<PoolFacts>& pools,
                                         const std::string& version);

}  // namespace ublk_operator
