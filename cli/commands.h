// The commands of ublkctl, one function each. They print results to session.out, problems to
// session.err, and return the exit code. Arguments have been checked as far as the command line can
// be (known options, known output formats).
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "cli/session.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {

struct GetOptions {
  std::vector<std::string> names;  // empty: all
  std::string output = "table";    // table, wide, json, yaml, name
};
[[nodiscard]] ExitCode get_volumes(const Session& session, const GetOptions& options);

struct DescribeOptions {
  std::vector<std::string> names;
  std::string output = "text";  // text, json, yaml
};
[[nodiscard]] ExitCode describe_volumes(const Session& session, const DescribeOptions& options);

struct EventsOptions {
  std::string name;              // empty: of all volumes
  std::string output = "table";  // table, wide, json, yaml
  // Goes on with what happens; no yaml then, and json is one object a line.
  bool watch = false;
  std::string timeout;  // with watch: how long; empty: until interrupted
};
[[nodiscard]] ExitCode show_events(const Session& session, const EventsOptions& options);

struct WaitOptions {
  std::vector<std::string> names;
  bool all = false;
  std::string wanted;  // --for
  std::string timeout = "30s";
};
[[nodiscard]] ExitCode wait_for_volumes(const Session& session, const WaitOptions& options);

struct ApplyOptions {
  std::vector<std::string> files;  // files, folders, or "-"
  bool dry_run = false;            // check only; needs no agent
};
[[nodiscard]] ExitCode apply_manifests(const Session& session, const ApplyOptions& options);

struct DeleteOptions {
  std::vector<std::string> names;
  std::vector<std::string> files;
  bool wait = false;
  bool ignore_not_found = false;
  std::string timeout = "60s";
};
[[nodiscard]] ExitCode delete_volumes(const Session& session, const DeleteOptions& options);

[[nodiscard]] ExitCode stop_volumes(const Session& session, const std::vector<std::string>& names,
                                    bool force);
[[nodiscard]] ExitCode start_volumes(const Session& session, const std::vector<std::string>& names);
[[nodiscard]] ExitCode recover_volumes(const Session& session,
                                       const std::vector<std::string>& names, bool replace_server);
[[nodiscard]] ExitCode pause_volumes(const Session& session, const std::vector<std::string>& names,
                                     bool paused);

struct SupportBundleOptions {
  std::string output;  // a file; empty or "-": standard output
};
// `local_facts` is asked here, on this machine; an agent that cannot be reached is a fact of the
// bundle, not a failure.
[[nodiscard]] ExitCode write_support_bundle(const Session& session,
                                            const SupportBundleOptions& options,
                                            const std::function<nlohmann::json()>& local_facts);

}  // namespace ublk_operator
