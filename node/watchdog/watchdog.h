// Watchdog: the first process of a container. It starts one program and starts it again whenever it
// ends, itself, so that the kubelet's back-off (up to 5 minutes) never lies in the way of a
// recovery.
// Shape    SIGTERM and SIGINT are passed on, and end the watchdog with the program's status; every
//          other death is followed by a new start, at once as a rule (RestartPace).
// Errors   ENOENT, EACCES and others of execve: nothing is tried again, the container is wrong.
// Bounds   one child; reaps what becomes its child. When memory runs out the program is chosen,
//          never the watchdog (where CAP_SYS_RESOURCE allows that).
// Threads  one, in a process that has no other.
#pragma once
#include <chrono>
#include <deque>
#include <string>
#include <vector>

#include "common/base/log.h"
#include "common/base/result.h"

namespace ublk_operator {

// How long to wait before the next start. Pure. The first `burst` starts within `window` are made
// at once: a node on which somebody kills the program time and again must recover as fast each
// time. After those the starts of the window wait ever longer, up to `wait_max`.
class RestartPace {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    size_t burst = 20;
    std::chrono::seconds window{60};
    std::chrono::milliseconds wait_first{100};
    std::chrono::milliseconds wait_max{10'000};
  };
  RestartPace() : RestartPace(Options{}) {}
  explicit RestartPace(Options options) : options_(options) {}

  // The program died at `now`.
  [[nodiscard]] std::chrono::milliseconds died(Clock::time_point now);

 private:
  const Options options_;
  std::deque<Clock::time_point> deaths_;  // of the window, at most burst + 8
};

// Lets the kernel end single processes of the cgroup `folder` when memory runs out. The kubelet has
// every container ended as a whole (memory.oom.group), with the watchdog that is to start its
// program again, and in the spawner's with all servers. ENOENT: no memory controller there.
[[nodiscard]] Result<void> survive_out_of_memory(const std::string& folder);

// Returns what the watchdog's own exit status is to be: the program's, 128 + N after signal N.
[[nodiscard]] Result<int> run_watchdog(const std::vector<std::string>& command, const Logger& log);

}  // namespace ublk_operator
