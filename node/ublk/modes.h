// Recovery modes as ublk flags, and back.
// Source   drivers/block/ublk_drv.c (ublk_ctrl_add_dev: legal combinations; ublk_nosrv_*: what each
//          does); the kernel clears flags it does not know silently, so whoever adds a device must
//          compare what ADD_DEV granted.
#pragma once
#include <cstdint>

#include "common/api/volume.h"
#include "common/base/result.h"

namespace ublk_operator {

// The UBLK_F_* to ask for at ADD_DEV, given GET_FEATURES. Recoverable modes also get QUIESCE where
// the kernel has it: without it a device can never be handed over. ENOTSUP: this kernel cannot do
// that mode; the detail names the version that can.
[[nodiscard]] Result<uint64_t> flags_for(RecoveryMode mode, uint64_t features);

// What a device with these (granted) flags does when its server dies.
[[nodiscard]] RecoveryMode mode_of(uint64_t bits);

// The bits that decide the mode: granted and wanted must agree in them.
[[nodiscard]] uint64_t recovery_bits(uint64_t bits);

}  // namespace ublk_operator
