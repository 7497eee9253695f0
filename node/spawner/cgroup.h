// ServerCgroups: a leaf cgroup for every server, so that memory limits and the OOM killer hit one
// server and never all of them.
// Shape    OWN/spawner holds this process and its parent if that was in OWN (the watchdog of a
//          container), OWN/servers/<id> one server each, OWN being the cgroup this process was
//          started in, or the one above when that is a predecessor's OWN/spawner. Only cgroup v2;
//          only where OWN is ours alone (a systemd unit with Delegate=yes, a container's root): a
//          cgroup with other processes in it cannot pass its controllers on and is left as it was.
//          In OWN/spawner others may be, such as a shell of `kubectl exec`, but no second spawner.
// Errors   none is fatal: servers run without a leaf then.
// Threads  one.
// Source   Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint".
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/unique_fd.h"

namespace ublk_operator {

class ServerCgroups {
 public:
  // No leaves at all: add() fails with ENOTSUP.
  ServerCgroups() = default;
  // Moves this process (and its watchdog) into OWN/spawner. ENOTSUP, EROFS, EACCES, EBUSY...: not
  // possible here, and nothing was changed.
  [[nodiscard]] static Result<ServerCgroups> create();

  [[nodiscard]] bool available() const { return !servers_.empty(); }
  // Makes the leaf; writing "0" to the returned cgroup.procs moves the writer into it.
  [[nodiscard]] Result<UniqueFd> add(uint64_t id, uint64_t memory_max_bytes);
  // Whether the kernel killed that server because memory ran out: its own limit, or the machine's.
  // Before remove().
  [[nodiscard]] bool out_of_memory(uint64_t id) const;
  // After the server was reaped. A leaf that is still busy is removed with a later one.
  void remove(uint64_t id);

 private:
  std::string servers_;            // the folder OWN/servers; empty: not available
  std::vector<std::string> busy_;  // leaves whose removal has to be repeated
};

}  // namespace ublk_operator
