#include <chrono>

#include "cli/commands.h"
#include "cli/local_facts.h"
#include "cli/version.h"
#include "common/api/quantity.h"
#include "common/base/files.h"

namespace ublk_operator {

ExitCode write_support_bundle(const Session& session, const SupportBundleOptions& options,
                              const std::function<nlohmann::json()>& local_facts) {
  nlohmann::json bundle{{"kind", "UblkSupportBundle"},
                        {"formatVersion", 1},
                        {"time", format_time(std::chrono::system_clock::now())},
                        {"ublkctl", {{"version", kVersion}}}};
  const char* source = session.cluster ? "cluster" : "agent";
  bundle[source] = session.service.support_bundle();
  if (const auto reached = session.service.reachable(); !reached) {
    // When the agent is down is when bundles are needed.
    bundle[source] = {{"error", reached.error().to_string()}};
    session.err << session.program << ": " << reached.error().to_string()
                << "\nThe bundle holds only what is known without the " << source << ".\n";
  }
  if (!session.cluster)
    bundle["host"] = local_facts();  // this machine need not be one of its nodes
  remove_secrets(bundle);

  const std::string text =
      bundle.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (options.output.empty() || options.output == "-") {
    session.out << text;
    return ExitCode::ok;
  }
  if (options.output.ends_with(".gz") || options.output.ends_with(".tar"))
    return session.fail_usage("support-bundle: the bundle is one JSON file; name it FILE.json");
  if (auto written = write_file_atomically(options.output, text); !written) {
    // ENOENT is for volumes.
    session.err << session.program << ": " << written.error().to_string() << "\n";
    return ExitCode::failed;
  }
  session.err << "Wrote " << options.output << ". Look through it before you share it: it names "
              << "volumes, paths and this host.\n";
  return ExitCode::ok;
}

}  // namespace ublk_operator
