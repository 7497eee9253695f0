// What the driver asks of a server, as a request that a backend can serve. Nothing the descriptor
// says is believed before it was checked against the device's geometry: a wrong one is answered
// with an errno and never reaches the backend.
#pragma once
#include <optional>

#include "node/backends/backend.h"
#include "node/ublk/abi.h"
#include "node/ublk/device.h"

namespace ublk_operator {

struct DecodedIo {
  std::optional<IoOp> op;  // none: an operation this server does not know
  int32_t refusal = 0;     // 0, or the negative errno to complete with; `request` is then empty
  IoRequest request;
};

// EOPNOTSUPP: unknown operation; EIO: outside the device; EINVAL: not a multiple of the logical
// block, empty, or larger than `buffer`.
[[nodiscard]] DecodedIo decode(const abi::IoDesc& descriptor, const Geometry& geometry,
                               uint16_t tag, std::span<std::byte> buffer);

}  // namespace ublk_operator
