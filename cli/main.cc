// ublkctl: looks at and changes the volumes of the agent on this machine; as `kubectl ublk`
// (kubectl-ublk) those of a cluster.
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "cli/cluster_service.h"
#include "cli/local_facts.h"
#include "cli/preflight.h"
#include "cli/ublkctl.h"
#include "common/kube/config.h"
#include "common/kube/transport.h"
#include "common/localapi/client.h"

namespace ublk_operator {
namespace {

// As kubectl finds it.
std::string kubeconfig_of(const ClusterTarget& target) {
  const char* variable = std::getenv("KUBECONFIG");
  if (!target.kubeconfig.empty() || (variable != nullptr && *variable != 0))
    return target.kubeconfig;
  const char* home = std::getenv("HOME");
  const std::string file = std::string(home != nullptr ? home : "") + "/.kube/config";
  return ::access(file.c_str(), F_OK) == 0 ? file : "";
}

Result<std::unique_ptr<VolumeService>> connect_cluster(const ClusterTarget& target) {
  auto config = kube::default_config(kubeconfig_of(target), target.context);
  if (!config) return std::move(config).error();
  auto transport = kube::make_transport(*config);
  if (!transport) return std::move(transport).error();
  return std::unique_ptr<VolumeService>(
      std::make_unique<ClusterService>(std::move(*transport), target.namespace_name));
}

}  // namespace
}  // namespace ublk_operator

int main(int argc, char** argv) {
  using namespace ublk_operator;
  const std::string called = argc > 0 ? argv[0] : "";
  const Environment environment{
      .in = std::cin,
      .out = std::cout,
      .err = std::cerr,
      .connect = [](const std::string& socket) { return std::make_unique<LocalApiClient>(socket); },
      .preflight = [] { return preflight(); },
      .local_facts = [] { return local_facts(preflight()); },
      .connect_cluster = connect_cluster,
      .plugin = called.substr(called.rfind('/') + 1) == "kubectl-ublk",
  };
  const int code = run_ublkctl(std::vector<std::string>(argv + 1, argv + argc), environment);
  std::cout.flush();
  if (!std::cout) {
    std::cerr << "ublkctl: cannot write the output\n";
    return code == 0 ? static_cast<int>(ExitCode::failed) : code;
  }
  return code;
}
