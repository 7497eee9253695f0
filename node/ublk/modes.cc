#include "node/ublk/modes.h"

#include <sys/utsname.h>

#include "node/ublk/device.h"

namespace ublk_operator {
namespace {

Error unsupported(const char* mode, const char* needed, const char* flag) {
  utsname name{};
  const std::string running = ::uname(&name) == 0 ? name.release : "an unknown version";
  return Error{ENOTSUP, "recovery_mode", mode,
               std::string("needs Linux ") + needed + " or newer (" + flag + "); this kernel, " +
                   running +
                   ", does not offer it: choose another recovery.mode or boot a newer "
                   "kernel"};
}

}  // namespace

Result<uint64_t> flags_for(RecoveryMode mode, uint64_t features) {
  const bool recovers = (features & flags::user_recovery) != 0;
  const uint64_t quiesce = features & flags::quiesce;
  switch (mode) {
    case RecoveryMode::none:
      return uint64_t{0};
    case RecoveryMode::queue:
      if (!recovers) return unsupported("Queue", "6.1", "UBLK_F_USER_RECOVERY");
      return flags::user_recovery | quiesce;
    case RecoveryMode::reissue:
      if (!recovers || (features & flags::user_recovery_reissue) == 0)
        return unsupported("Reissue", "6.1", "UBLK_F_USER_RECOVERY_REISSUE");
      return flags::user_recovery | flags::user_recovery_reissue | quiesce;
    case RecoveryMode::fail_io:
      if (!recovers || (features & flags::user_recovery_fail_io) == 0)
        return unsupported("FailIO", "6.13", "UBLK_F_USER_RECOVERY_FAIL_IO");
      return flags::user_recovery | flags::user_recovery_fail_io | quiesce;
  }
  return Error{EINVAL, "recovery_mode", std::to_string(static_cast<int>(mode)), "no such mode"};
}

RecoveryMode mode_of(uint64_t bits) {
  if ((bits & flags::user_recovery) == 0) return RecoveryMode::none;
  if ((bits & flags::user_recovery_fail_io) != 0) return RecoveryMode::fail_io;
  if ((bits & flags::user_recovery_reissue) != 0) return RecoveryMode::reissue;
  return RecoveryMode::queue;
}

uint64_t recovery_bits(uint64_t bits) {
  return bits &
         (flags::user_recovery | flags::user_recovery_reissue | flags::user_recovery_fail_io);
}

}  // namespace ublk_operator
