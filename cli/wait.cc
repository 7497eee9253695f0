#include "common/localapi/wait.h"

#include "cli/commands.h"
#include "cli/wait_target.h"
#include "common/api/quantity.h"

namespace ublk_operator {
namespace {

ExitCode wait_for_one(const Session& session, const std::string& name, const WaitTarget& target,
                      const WaitOptions& options, std::chrono::steady_clock::time_point deadline) {
  std::optional<Volume> last;
  const auto waited = wait_for(
      session.service, name,
      [&](const std::optional<Volume>& volume) {
        last = volume;
        return target.met_by(volume);
      },
      deadline);
  if (waited) {
    session.out << "volume/" << name << (target.is_delete() ? " deleted" : " condition met")
                << "\n";
    return ExitCode::ok;
  }
  Error error = waited.error();
  const bool lost_agent = !error.detail.empty();
  if (error.err == ETIMEDOUT && !lost_agent) {
    // A volume that never came is a wrong name rather than a slow one.
    if (!last) error.err = ENOENT;
    error.detail = "not " + options.wanted + " within " + options.timeout + ": " +
                   target.explain(last) + "; see '" + session.program + " " +
                   (last              ? "describe " + name + "'"
                    : session.cluster ? std::string("get'")
                                      : std::string("get', and 'ublkctl events' for manifests that "
                                                    "are not valid"));
  }
  return session.fail(error);
}

}  // namespace

ExitCode wait_for_volumes(const Session& session, const WaitOptions& options) {
  const auto target = WaitTarget::parse(options.wanted);
  if (!target) return session.fail(target.error());
  const auto timeout = parse_duration(options.timeout);
  if (!timeout) return session.fail(timeout.error());
  if (options.names.empty() != options.all)
    return session.fail_usage("wait: name the volumes, or give --all");

  std::vector<std::string> names = options.names;
  if (options.all) {
    for (const Volume& volume : session.service.list()) names.push_back(volume.metadata.name);
    if (const auto reached = session.service.reachable(); !reached)
      return session.fail(reached.error());
  }
  const auto deadline = std::chrono::steady_clock::now() + *timeout;  // one for all of them
  ExitCode code = ExitCode::ok;
  for (const std::string& name : names) {
    const ExitCode one = wait_for_one(session, name, *target, options, deadline);
    note(code, one);
    if (one == ExitCode::unreachable) break;
  }
  return code;
}

}  // namespace ublk_operator
