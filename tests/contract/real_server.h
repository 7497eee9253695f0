// A ublk server as small as the contract's cases allow, in a process of its own: it does what it is
// told over a socket, and otherwise completes every request with zeroes at once.
// Errors   those of the system calls it makes; ETIMEDOUT: it did not answer.
// Source   ublk_drv.c; node/ublk/abi.h.
#pragma once
#include <memory>

#include "common/base/result.h"
#include "tests/contract/control_device_contract.h"

namespace ublk_operator::contract {

[[nodiscard]] std::unique_ptr<Server> spawn_real_server();

}  // namespace ublk_operator::contract
