// Pool: a folder for the files of volumes, by the name that backend.file.pool gives.
// Errors   EINVAL: not the form of --pool; ENOMEDIUM: the pool is to be a mount point and its
//          folder is none at the moment; else the errno of looking at it.
// Time     a look at a dead network file system may never return: where others would wait for that,
//          it is done by a helper process (PoolProbes).
// Threads  any.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "common/base/result.h"

namespace ublk_operator {

struct Pool {
  std::string path;
  // While nothing is mounted there no new file is made: it would lie on the disk below, and
  // disappear under the mount when that comes.
  bool require_mount = false;
  friend bool operator==(const Pool&, const Pool&) = default;
};
using Pools = std::map<std::string, Pool>;

// "NAME=/folder" or "NAME=/folder,require-mount".
[[nodiscard]] Result<std::pair<std::string, Pool>> parse_pool(const std::string& text);

// The mounts of the machine. In a pod the folder of a pool is always a mount of its own, so whether
// the machine has mounted something there is asked of its first process.
inline constexpr const char* machine_mounts = "/proc/1/mountinfo";

// `folder`: a descriptor of pool.path. Does nothing where no mount is required.
[[nodiscard]] Result<void> check_mounted(const Pool& pool, int folder,
                                         const std::string& mounts = machine_mounts);

struct PoolSpace {
  uint64_t capacity_bytes = 0;
  uint64_t free_bytes = 0;
};
// With check_mounted().
[[nodiscard]] Result<PoolSpace> look_at_pool(const Pool& pool,
                                             const std::string& mounts = machine_mounts);

}  // namespace ublk_operator
