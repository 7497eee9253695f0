#include "tests/cluster/api_contract.h"
#include "tests/cluster/cluster.h"

namespace ublk_operator::cluster {
namespace {

std::shared_ptr<kube::Transport> real_server() {
  if (!available()) return nullptr;
  static const std::unique_ptr<Cluster> cluster = [] {
    auto made = std::make_unique<Cluster>();
    made->install();
    return made;
  }();
  return cluster->transport();
}

INSTANTIATE_TEST_SUITE_P(Real, ApiContractTest, ::testing::Values(MakeServer(real_server)));

}  // namespace
}  // namespace ublk_operator::cluster
