// Launch: starts one server: fork, confinement, exec.
// Shape    the child gets its channel as descriptor 3, /dev/null as standard input, our standard
//          output and error, and nothing else: no other descriptor, no capability, no signal
//          blocked, no environment but the few names in launch.cc.
// Order    privileged things first (cgroup, OOM score, limits, PR_SET_IO_FLUSHER), then the uid,
//          the capabilities, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG last.
// Threads  PR_SET_PDEATHSIG follows the calling thread: when that thread ends, so do its servers.
#pragma once
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "common/base/pidfd.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

struct LaunchRequest {
  std::string program;                 // absolute path
  std::vector<std::string> arguments;  // without argv[0]
  std::optional<uid_t> uid;  // also the gid; nothing: stay who we are (tests without root)
  int channel = -1;          // borrowed
  int cgroup_procs = -1;     // borrowed; -1: no leaf cgroup
};

// What the child said on its way to exec. Things that are refused to us but that a server can live
// without (an OOM score in a container without CAP_SYS_RESOURCE) are warnings.
struct LaunchReport {
  bool finished = false;  // exec has happened, or failed
  std::optional<Error> failure;
  std::vector<Error> warnings;
};

class Launch {
 public:
  // fork() and nothing that could wait. ENOENT, ENOTDIR...: the program's folder.
  [[nodiscard]] static Result<Launch> start(const LaunchRequest& request);

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] Pidfd take_pidfd() { return std::move(pidfd_); }
  // Readable when there is something for read_report().
  [[nodiscard]] int report_fd() const { return report_.get(); }
  // Never blocks.
  [[nodiscard]] LaunchReport read_report();

 private:
  Launch(pid_t pid, Pidfd pidfd, UniqueFd report, const LaunchRequest& request)
      : pid_(pid),
        pidfd_(std::move(pidfd)),
        report_(std::move(report)),
        program_(request.program),
        uid_(request.uid) {}
  pid_t pid_;
  Pidfd pidfd_;
  UniqueFd report_;
  std::string program_;
  std::optional<uid_t> uid_;
};

}  // namespace ublk_operator
