#include <optional>

#include "cli/commands.h"
#include "cli/output.h"
#include "common/api/decode.h"

namespace ublk_operator {
namespace {

// As they are, whatever kind of trouble single ones are in.
ExitCode find_volumes(const Session& session, const std::vector<std::string>& names,
                      std::vector<Volume>& found) {
  if (names.empty()) {
    found = session.service.list();
    if (const auto reached = session.service.reachable(); !reached)
      return session.fail(reached.error());
    return ExitCode::ok;
  }
  ExitCode code = ExitCode::ok;
  for (const std::string& name : names) {
    auto volume = session.service.get(name);
    if (volume) {
      found.push_back(std::move(*volume));
    } else {
      note(code, session.fail(volume.error()));
      if (volume.err() == ENOTCONN) break;  // said once is enough
    }
  }
  return code;
}

}  // namespace

ExitCode get_volumes(const Session& session, const GetOptions& options) {
  std::vector<Volume> volumes;
  const ExitCode code = find_volumes(session, options.names, volumes);
  if (code == ExitCode::unreachable) return code;

  if (options.output == "name") {
    for (const Volume& volume : volumes) session.out << volume.metadata.name << "\n";
  } else if (options.output == "json" || options.output == "yaml") {
    nlohmann::json items = nlohmann::json::array();
    for (const Volume& volume : volumes) items.push_back(to_json(volume));
    print_found(session.out, options.names.size(), std::move(items), options.output == "yaml");
  } else if (!volumes.empty()) {
    print_table(session.out, volumes, options.output == "wide", session.cluster);
  } else if (code == ExitCode::ok) {
    session.err << "No volumes found. Make one with '" << (session.cluster ? "kubectl" : "ublkctl")
                << " apply -f FILE'.\n";
  }
  return code;
}

}  // namespace ublk_operator
