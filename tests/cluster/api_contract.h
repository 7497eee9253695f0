// What our programs rely on of an API server: one suite, run on the fake everywhere
// (api_contract_fake_test.cc) and on a real one (api_contract_cluster_test.cc).
#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "common/kube/client.h"

namespace ublk_operator::cluster {

// Makes a transport to a server that serves UblkVolumes; nullptr: there is none, skip.
using MakeServer = std::function<std::shared_ptr<kube::Transport>()>;

class ApiContractTest : public ::testing::TestWithParam<MakeServer> {
 protected:
  void SetUp() override;
  void TearDown() override;

  nlohmann::json create(const std::string& name, const std::string& finalizer = "");
  nlohmann::json get(const std::string& name);
  static std::string version(const nlohmann::json& object);
  [[nodiscard]] Result<nlohmann::json> apply_status(const std::string& name,
                                                    const std::string& manager,
                                                    const std::string& type,
                                                    const std::string& reason,
                                                    const nlohmann::json& metadata = {});

  const kube::Resource volumes_{"ublk.dev", "v1alpha1", "ublkvolumes", ""};
  std::shared_ptr<kube::Transport> transport_;
  std::unique_ptr<kube::KubeClient> client_;
  kube::Cancel never_;
};

}  // namespace ublk_operator::cluster
