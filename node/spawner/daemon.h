// The spawner as a process: what `ublk-node spawner` runs, and how `ublk-node run` starts one that
// outlives it.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "common/base/log.h"
#include "common/base/result.h"
#include "node/spawner/spawner.h"

namespace ublk_operator {

// Runs a spawner until SIGTERM or SIGINT; answers with the process's exit status. Call it first
// thing in a process without threads: it blocks signals, raises limits, locks memory and tells the
// service manager (sd_notify) when it listens.
[[nodiscard]] int run_spawner(const SpawnerOptions& options, const Logger& log);

struct SpawnerDaemonOptions {
  // The program and what makes it call run_spawner(): {"spawner", "--socket", PATH}.
  std::string program = "/proc/self/exe";
  std::vector<std::string> arguments;
  std::string log_file;  // its standard output and error, appended to
  std::chrono::milliseconds timeout = std::chrono::seconds(10);
};

// Starts a spawner in a session of its own, as nobody's child, and returns when it listens.
// Errors   ECHILD: it ended before it listened (its log file says why; most often another spawner
//          already listens); ETIMEDOUT: still starting, and left alone; or exec's errno.
// Threads  may be called from a process with threads.
[[nodiscard]] Result<void> start_spawner_daemon(const SpawnerDaemonOptions& options);

}  // namespace ublk_operator
