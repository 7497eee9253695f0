// Geometry as the driver's parameters, and back.
// Errors   EINVAL with the one field that is wrong. Checked here although the driver checks too:
//          its answer is a bare EINVAL, and some of what it accepts it cannot serve.
// Source   drivers/block/ublk_drv.c, ublk_validate_params and ublk_ctrl_start_dev.
#pragma once
#include <string>

#include "common/base/result.h"
#include "node/ublk/abi.h"
#include "node/ublk/device.h"

namespace ublk_operator {

// `object`: whose geometry it is, for the error.
[[nodiscard]] Result<abi::Params> to_params(const Geometry& geometry, const std::string& object);

// All but queues, queue_depth and max_io_bytes, which are not parameters: they keep their defaults.
[[nodiscard]] Geometry from_params(const abi::Params& params);

}  // namespace ublk_operator
