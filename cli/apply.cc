// apply and delete: what works on manifests.
#include "cli/commands.h"
#include "cli/manifests.h"
#include "common/api/quantity.h"

namespace ublk_operator {
namespace {

Result<std::vector<ManifestFile>> read_valid(const Session& session,
                                             const std::vector<std::string>& paths) {
  auto files = read_manifests(paths, session.in);
  if (!files) return files;
  const std::vector<std::string> problems = problems_of(*files);
  for (const std::string& problem : problems) session.err << problem << "\n";
  if (problems.empty()) return files;
  return Error{EINVAL, "apply", "manifests",
               std::to_string(problems.size()) + (problems.size() == 1 ? " problem" : " problems") +
                   "; nothing was changed"};
}

}  // namespace

ExitCode apply_manifests(const Session& session, const ApplyOptions& options) {
  const auto files = read_valid(session, options.files);
  if (!files) return session.fail(files.error());
  if (options.dry_run) {
    for (const ManifestFile& file : *files) {
      for (const DecodedDocument& document : file.decoded.documents)
        session.out << "volume/" << document.name << " valid (dry run)\n";
    }
    return ExitCode::ok;
  }
  for (const ManifestFile& file : *files) {
    const auto names = session.service.apply(file.text);
    if (!names) {
      // What was applied before, which was reported or which the error names, holds.
      Error error = names.error();
      if (error.err != ENOTCONN) error.object += " (" + file.path + ")";
      return session.fail(error);
    }
    for (const std::string& name : *names) session.out << "volume/" << name << " applied\n";
  }
  return ExitCode::ok;
}

ExitCode delete_volumes(const Session& session, const DeleteOptions& options) {
  const auto timeout = parse_duration(options.timeout);
  if (!timeout) return session.fail(timeout.error());
  std::vector<std::string> names = options.names;
  if (!options.files.empty()) {
    const auto files = read_valid(session, options.files);
    if (!files) return session.fail(files.error());
    for (const ManifestFile& file : *files) {
      for (const DecodedDocument& document : file.decoded.documents) names.push_back(document.name);
    }
  }
  if (names.empty()) return session.fail_usage("delete: name the volumes, or give -f FILE");

  ExitCode code = ExitCode::ok;
  std::vector<std::string> leaving;
  for (const std::string& name : names) {
    const auto removed = session.service.remove(name);
    if (removed) {
      leaving.push_back(name);
      if (!options.wait) session.out << "volume/" << name << " deletion requested\n";
    } else if (removed.err() != ENOENT || !options.ignore_not_found) {
      note(code, session.fail(removed.error()));
      if (removed.err() == ENOTCONN) return code;
    }
  }
  if (options.wait && !leaving.empty()) {
    const WaitOptions wait{
        .names = leaving, .all = false, .wanted = "delete", .timeout = options.timeout};
    note(code, wait_for_volumes(session, wait));
  }
  return code;
}

}  // namespace ublk_operator
