// What somebody asks the agent to apply, taken apart: a manifest file for each volume, as its user
// wrote it, with his comments; written anew where it cannot be cut out of what he wrote.
// Errors   EINVAL: the detail has every problem of the request, a line each. A request of which one
//          document is wrong is not applied at all.
// Threads  pure.
#pragma once
#include <string>
#include <vector>

#include "common/base/result.h"

namespace ublk_operator {

struct RequestedManifest {
  std::string name;  // of the one volume in it
  std::string text;
};
[[nodiscard]] Result<std::vector<RequestedManifest>> read_request(const std::string& request);

}  // namespace ublk_operator
