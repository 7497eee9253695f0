// The null backend: {"kind": "null"}. Takes every request and keeps nothing: the cost of the path
// without the cost of storage. Reads return whatever the buffer holds, which is never data of
// another volume: a server serves one volume in its life. No descriptors, no ring entries.
#pragma once
#include <memory>

#include "node/backends/backend.h"

namespace ublk_operator {

[[nodiscard]] std::unique_ptr<Backend> make_null_backend();

}  // namespace ublk_operator
