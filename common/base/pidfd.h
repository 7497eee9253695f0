// Pidfd: a process that cannot be confused with a later one of the same number.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>

#include "common/base/unique_fd.h"

namespace ublk_operator {

class Pidfd {
 public:
  Pidfd() = default;
  // pidfd_open(2). ESRCH: no such process. A pid read from a file is only a hint: compare
  // identity() afterwards.
  [[nodiscard]] static Result<Pidfd> open(pid_t pid);
  // Of one thread, by its id: readable as soon as that thread has ended, whatever the others of its
  // process still do (PIDFD_THREAD, Linux 6.9). EINVAL: an older kernel.
  [[nodiscard]] static Result<Pidfd> open_thread(pid_t tid);
  // A descriptor received from another process (SCM_RIGHTS); `pid` as seen in our pid namespace.
  Pidfd(UniqueFd fd, pid_t pid) : fd_(std::move(fd)), pid_(pid) {}

  [[nodiscard]] int fd() const { return fd_.get(); }  // readable once the process has exited
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool valid() const { return fd_.valid(); }
  [[nodiscard]] bool exited() const;  // never blocks; true for a zombie
  // ESRCH when it is gone, which most callers may ignore.
  [[nodiscard]] Result<void> kill(int signal) const;

 private:
  UniqueFd fd_;
  pid_t pid_ = -1;
};

// When the process started, in clock ticks since boot (field 22 of /proc/PID/stat): with the boot
// id, an identity that survives the reuse of a pid. ENOENT or ESRCH: gone.
[[nodiscard]] Result<uint64_t> process_start_ticks(pid_t pid);

// /proc/sys/kernel/random/boot_id, without the newline.
[[nodiscard]] Result<std::string> boot_id();

}  // namespace ublk_operator
