// SimulatedNode: a whole agent in a cluster, as `ublk-node agent --cluster` is one, but on a
// FakeKernel and with a SimulatedSpawner: its own state folder, credential, watch, heartbeat and
// UblkNode. What a volume is served with (device nodes, links, files of its backend) is made below
// its folder.
// Shape    serves until destroyed.
// Errors   as Agent::create and kube::default_config; EPERM: device nodes are for root to make.
// Threads  as an agent, and one more; a volume is a thread.
#pragma once
#include <memory>
#include <string>
#include <thread>

#include "common/base/log.h"
#include "common/base/unique_fd.h"
#include "node/agent/agent.h"
#include "node/cluster/cluster_link.h"
#include "node/ublk/fake_control_device.h"
#include "tests/cluster/simulated_spawner.h"

namespace ublk_operator {

class SimulatedNode {
 public:
  struct Options {
    std::string name;
    std::string folder;  // its own
    std::string kubeconfig;
    std::string namespace_name;
  };

  [[nodiscard]] static Result<std::unique_ptr<SimulatedNode>> start(const Options& options,
                                                                    const Logger& log);
  ~SimulatedNode();
  SimulatedNode(const SimulatedNode&) = delete;
  SimulatedNode& operator=(const SimulatedNode&) = delete;

 private:
  SimulatedNode() = default;
  [[nodiscard]] Result<void> open(const Options& options, const Logger& log);

  const FakeKernel kernel_{FakePersonality::linux_7_2};
  const EventFd stop_ = EventFd::must_create();
  std::unique_ptr<SimulatedSpawner> spawner_;
  std::unique_ptr<ClusterLink> link_;  // outlives the agent, whose source of volumes it has
  std::unique_ptr<Agent> agent_;
  std::thread thread_;
};

}  // namespace ublk_operator
