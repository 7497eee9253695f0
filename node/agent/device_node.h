// What users see of a device: its node's owner and mode, and the link /dev/ublk/by-name/NAME.
// Errors   the errno of the system call with the path of the node or link; EINVAL: an unknown owner
//          or group, or what lies at the node's path is no device of the right kind.
// Threads  any; one volume from one thread at a time.
#pragma once
#include <sys/types.h>

#include <string>

#include "common/api/volume.h"
#include "common/base/result.h"
#include "node/ublk/device.h"

namespace ublk_operator {

struct NodePaths {
  std::string dev_dir = "/dev";  // where devtmpfs is
  std::string by_name_dir = "/dev/ublk/by-name";
  std::string udev_dir = "/run/ublk-operator/udev";  // read by the shipped udev rule
  std::string proc_dir = "/proc";
  std::string sys_dir = "/sys";
};

// Before START_DEV: writes <udev_dir>/ublkbN so that udev gives the node this owner and mode from
// the start (UBLK_OPERATOR_MODE=0660, UBLK_OPERATOR_OWNER=<uid>, UBLK_OPERATOR_GROUP=<gid>), and
// systemd a device unit of its by-name path (UBLK_OPERATOR_NAME=<volume>).
// EINVAL: an owner or group that this machine does not know (detail names it).
[[nodiscard]] Result<void> announce_device(const NodePaths& paths, const std::string& name,
                                           DeviceId id, const DeviceAccess& access);
// After it, and whenever the spec changes: chown and chmod of /dev/ublkbN (machines without udev,
// and changes).
[[nodiscard]] Result<void> apply_access(const NodePaths& paths, DeviceId id,
                                        const DeviceAccess& access);
// Gives /dev/ublkcN to the uid of the server that may open it, mode 0600; until the first one it is
// root's.
[[nodiscard]] Result<void> give_char_device(const NodePaths& paths, DeviceId id, uid_t uid);

// Points by-name/NAME at ../../ublkbN, atomically (a reader sees the old or the new one). Names may
// hold dots and dashes.
[[nodiscard]] Result<void> link_device(const NodePaths& paths, const std::string& name,
                                       DeviceId id);
// Removes the link if it points at this device; a missing one is fine. Also removes
// <udev_dir>/ublkbN.
[[nodiscard]] Result<void> unlink_device(const NodePaths& paths, const std::string& name,
                                         DeviceId id);

// Who has the disk open: kernels without TRY_STOP_DEV. Best effort: an O_EXCL open (mounts, LVM,
// MD, other holders, on the disk or a partition), then /proc/*/mountinfo of every mount namespace
// seen, then the open files of every process this one can see (/proc/PID/fd). Not seen: processes
// of other pid namespaces or without the right to look at them, and kernel users that neither
// claim nor mount. Names four users at most. ENOENT: there is no such disk. E2BIG: more open files
// than it looks at; nobody was found among those, which proves nothing.
struct DiskUsers {
  bool in_use = false;
  std::string who;  // "mounted at /mnt", "process 4711 (postgres)", "claimed exclusively"
};
[[nodiscard]] Result<DiskUsers> find_disk_users(const NodePaths& paths, DeviceId id);

}  // namespace ublk_operator
