// ublkctl: the command line, from arguments to exit code. main() gives it the real world, tests
// another.
#pragma once
#include <functional>
#include <istream>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "cli/cluster_target.h"
#include "cli/preflight.h"
#include "common/localapi/service.h"

namespace ublk_operator {

struct Environment {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  // The agent behind a socket (--socket, UBLK_SOCKET, or the usual one). Connecting may be left to
  // the first call.
  std::function<std::unique_ptr<VolumeService>(const std::string& socket)> connect;
  std::function<std::vector<PreflightCheck>()> preflight;
  std::function<nlohmann::json()> local_facts;
  // The volumes of a cluster (--context, --kubeconfig; `kubectl ublk`); empty: there is no such
  // thing.
  std::function<Result<std::unique_ptr<VolumeService>>(const ClusterTarget& target)>
      connect_cluster = {};
  bool plugin = false;  // started by kubectl, as kubectl-ublk: a cluster's unless --socket is given
};

// `arguments` without the program's name. Returns the exit code (cli/exit_code.h).
[[nodiscard]] int run_ublkctl(const std::vector<std::string>& arguments,
                              const Environment& environment);

}  // namespace ublk_operator
