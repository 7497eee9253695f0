// stop, start, recover, pause, resume: one request a volume, and a line that says what was done.
#include <functional>

#include "cli/commands.h"

namespace ublk_operator {
namespace {

ExitCode for_each(const Session& session, const std::vector<std::string>& names,
                  const std::string& done,
                  const std::function<Result<void>(const std::string&)>& act) {
  ExitCode code = ExitCode::ok;
  for (const std::string& name : names) {
    const auto outcome = act(name);
    if (outcome) {
      session.out << "volume/" << name << " " << done << "\n";
      continue;
    }
    note(code, session.fail(outcome.error()));
    if (outcome.err() == ENOTCONN) break;
  }
  return code;
}

}  // namespace

ExitCode stop_volumes(const Session& session, const std::vector<std::string>& names, bool force) {
  const ExitCode code = for_each(session, names, "stopped", [&](const std::string& name) {
    return session.service.stop(name, /*stopped=*/true, force);
  });
  if (code == ExitCode::in_use) {
    session.err << "Unmount the file system and close the device first. '" << session.program
                << " stop --force' "
                   "stops it all the same: I/O then fails with EIO.\n";
  }
  return code;
}

ExitCode start_volumes(const Session& session, const std::vector<std::string>& names) {
  return for_each(session, names, "started", [&](const std::string& name) {
    return session.service.stop(name, /*stopped=*/false, /*force=*/false);
  });
}

ExitCode recover_volumes(const Session& session, const std::vector<std::string>& names,
                         bool replace_server) {
  return for_each(session, names, "recovery requested", [&](const std::string& name) {
    return session.service.recover(name, replace_server);
  });
}

ExitCode pause_volumes(const Session& session, const std::vector<std::string>& names, bool paused) {
  return for_each(session, names, paused ? "paused" : "resumed",
                  [&](const std::string& name) { return session.service.pause(name, paused); });
}

}  // namespace ublk_operator
