#include "cli/preflight.h"

#include <algorithm>

#include "cli/output.h"
#include "cli/table.h"

namespace ublk_operator {

nlohmann::json to_json(const std::vector<PreflightCheck>& checks) {
  nlohmann::json items = nlohmann::json::array();
  for (const PreflightCheck& check : checks) {
    items.push_back({{"name", check.name},
                     {"status", check.status},
                     {"message", check.message},
                     {"remedy", check.remedy}});
  }
  return items;
}

ExitCode print_preflight(const Session& session, const std::vector<PreflightCheck>& checks,
                         bool json) {
  if (json) {
    print_document(session.out, to_json(checks), /*yaml=*/false);
  } else {
    Table table({"CHECK", "STATUS", "WHAT"});
    for (const PreflightCheck& check : checks) table.add({check.name, check.status, check.message});
    table.print(session.out);
    const bool advice = std::any_of(checks.begin(), checks.end(),
                                    [](const auto& check) { return !check.remedy.empty(); });
    if (advice) session.out << "\nWhat to do:\n";
    for (const PreflightCheck& check : checks) {
      if (!check.remedy.empty())
        session.out << "  " << check.name << ": " << printable(check.remedy) << "\n";
    }
  }
  const bool failed = std::any_of(checks.begin(), checks.end(),
                                  [](const auto& check) { return check.status == "failed"; });
  return failed ? ExitCode::failed : ExitCode::ok;
}

}  // namespace ublk_operator
