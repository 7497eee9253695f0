#include "node/ublk/explain.h"

#include <cerrno>

namespace ublk_operator {
namespace {

std::string state_of(const Verdict& v) {
  return v.device ? std::string(" (state ") + to_string(v.device->state) + ")" : "";
}

std::string explain_add(const Verdict& v) {
  switch (v.err) {
    case EEXIST:
      return "the id is in use; a deleted device keeps its id until everybody has closed it";
    case EINVAL:
      return "the driver refuses these flags together (" + flags_to_string(v.wanted_flags) +
             ") or the queues and depth (1 to 4096 each): recovery is none, USER_RECOVERY, or that "
             "with one of REISSUE and FAIL_IO; QUIESCE needs USER_RECOVERY";
    case EACCES:
      return "the quota of unprivileged devices is used up (module parameter ublks_max)";
    default:
      return {};
  }
}

std::string explain_start(const Verdict& v) {
  switch (v.err) {
    case EEXIST:
      return v.device && v.device->state == DeviceState::live
                 ? "the device is already LIVE"
                 : "a disk exists already, or the stopped one is still open somewhere" +
                       state_of(v);
    case EINVAL:
      return "the device has no parameters yet, or the given pid is not the process that opened " +
             char_path(v.id);
    default:
      return {};
  }
}

std::string explain_begin_recovery(const Verdict& v) {
  switch (v.err) {
    case EBUSY: {
      const std::string held = "the old server still holds " + char_path(v.id);
      if (!v.device) return held + ", or the device is not QUIESCED or FAIL_IO";
      switch (v.device->state) {
        case DeviceState::quiesced:
        case DeviceState::fail_io:
          return held + state_of(v) +
                 ": its exit is not through yet, or a copy of the file is open "
                 "in another process";
        case DeviceState::live:
          return held + state_of(v) +
                 ": it is alive, its exit is not through yet, or a copy of the file is open in "
                 "another process";
        case DeviceState::dead:
          return "there is no disk to recover" + state_of(v) + ": it was stopped or never started";
      }
      return held + state_of(v);
    }
    case EINVAL:
      return v.device && (v.device->flags & flags::user_recovery) == 0
                 ? "the device was made without USER_RECOVERY (recovery.mode None)"
                 : "a recovery that began earlier is unfinished or no queue was ever ready; before "
                   "Linux 6.16 it cannot begin again" +
                       state_of(v);
    default:
      return {};
  }
}

std::string explain_end_recovery(const Verdict& v) {
  switch (v.err) {
    case EBUSY:
      return "the device is not in recovery" + state_of(v);
    case EINVAL:
      return v.device && (v.device->flags & flags::user_recovery) == 0
                 ? "the device was made without USER_RECOVERY (recovery.mode None)"
                 : "the given pid is not the process that opened " + char_path(v.id);
    default:
      return {};
  }
}

std::string explain_specific(const Verdict& v) {
  const std::string_view op = v.operation;
  if (op == "add_dev") return explain_add(v);
  if (op == "start_dev") return explain_start(v);
  if (op == "start_user_recovery") return explain_begin_recovery(v);
  if (op == "end_user_recovery") return explain_end_recovery(v);
  if (op == "set_params" && v.err == EACCES)
    return "a disk exists, and parameters are fixed for its life" + state_of(v);
  if (op == "set_params" && v.err == EINVAL)
    return "the driver refuses these parameters (maximal I/O size above the device's buffers?)";
  if (op == "get_queue_affinity" && v.err == EINVAL) return "no such queue";
  if (op == "try_stop_dev" && v.err == EBUSY)
    return block_path(v.id) + " is open or mounted: close it first";
  if (op == "quiesce_dev" && v.err == EOPNOTSUPP)
    return "the device was made without QUIESCE, or this kernel lacks it (Linux 6.16 has it)";
  if (op == "quiesce_dev" && v.err == EBUSY) return "the server did not become idle in time";
  if (op == "del_dev_async" && v.err == EINVAL)
    return "unprivileged devices cannot be deleted this way";
  if ((op == "try_stop_dev" || op == "quiesce_dev" || op == "update_size") && v.err == ENODEV)
    return "no such device, or it has no disk" + state_of(v);
  return {};
}

}  // namespace

bool depends_on_state(std::string_view operation, int err) {
  if (err == EBUSY || err == EINVAL)
    return operation == "start_user_recovery" || operation == "end_user_recovery";
  if (err == EEXIST) return operation == "start_dev";
  if (err == EACCES) return operation == "set_params";
  return false;
}

std::string explain(const Verdict& verdict) {
  if (std::string text = explain_specific(verdict); !text.empty()) return text;
  switch (verdict.err) {
    case ENODEV:
      return "no such device";
    case EPERM:
      return "needs CAP_SYS_ADMIN in the host's user namespace";
    case EOPNOTSUPP:
      return "this kernel does not know the command";
    case EINTR:
      return "the wait in the kernel was interrupted; the command may be repeated";
    case ENOMEM:
      return "the kernel has no memory for it";
    default:
      return "the ublk driver refused it" + state_of(verdict);
  }
}

}  // namespace ublk_operator
