#include "tests/cluster/simulated_node.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/base/files.h"
#include "common/kube/config.h"
#include "common/kube/transport.h"
#include "node/cluster/node_facts.h"

namespace ublk_operator {

namespace {

// Of no driver (Linux, Documentation/admin-guide/devices.txt): opening such a node would find none.
constexpr unsigned local_use_major = 240;
// The same whatever the machine's disk has: what the controller counts with is not what is tested,
// and a node that says something new writes.
constexpr uint64_t pool_bytes = uint64_t{4} << 40;
constexpr const char* pool_name = "default";

// The fake kernel, and the device nodes that a real one would make.
class NodeMaker final : public ControlDevice {
 public:
  NodeMaker(std::unique_ptr<ControlDevice> kernel, std::string folder)
      : kernel_(std::move(kernel)), folder_(std::move(folder)) {}

  Result<uint64_t> features(CallLimit limit) override { return kernel_->features(limit); }
  Result<DeviceInfo> add(const AddRequest& request, CallLimit limit) override {
    auto added = kernel_->add(request, limit);
    if (added) make(S_IFCHR, "ublkc", added->id);
    return added;
  }
  Result<void> set_params(DeviceId id, const Geometry& geometry, CallLimit limit) override {
    return kernel_->set_params(id, geometry, limit);
  }
  Result<Geometry> params(DeviceId id, CallLimit limit) override {
    return kernel_->params(id, limit);
  }
  Result<DeviceInfo> info(DeviceId id, CallLimit limit) override {
    return kernel_->info(id, limit);
  }
  Result<std::vector<unsigned>> queue_affinity(DeviceId id, uint16_t queue,
                                               CallLimit limit) override {
    return kernel_->queue_affinity(id, queue, limit);
  }
  Result<void> start(DeviceId id, pid_t server_pid, CallLimit limit) override {
    auto started = kernel_->start(id, server_pid, limit);
    if (started) make(S_IFBLK, "ublkb", id);
    return started;
  }
  Result<void> stop(DeviceId id, CallLimit limit) override { return kernel_->stop(id, limit); }
  Result<void> try_stop(DeviceId id, CallLimit limit) override {
    return kernel_->try_stop(id, limit);
  }
  Result<void> remove(DeviceId id, CallLimit limit) override { return kernel_->remove(id, limit); }
  Result<void> remove_async(DeviceId id, CallLimit limit) override {
    return kernel_->remove_async(id, limit);
  }
  Result<void> begin_recovery(DeviceId id, CallLimit limit) override {
    return kernel_->begin_recovery(id, limit);
  }
  Result<void> end_recovery(DeviceId id, pid_t server_pid, CallLimit limit) override {
    return kernel_->end_recovery(id, server_pid, limit);
  }
  Result<void> quiesce(DeviceId id, std::chrono::milliseconds kernel_timeout,
                       CallLimit limit) override {
    return kernel_->quiesce(id, kernel_timeout, limit);
  }
  Result<void> update_size(DeviceId id, uint64_t size_bytes, CallLimit limit) override {
    return kernel_->update_size(id, size_bytes, limit);
  }
  Result<std::vector<DeviceId>> list() override { return kernel_->list(); }

 private:
  // One that could not be made is found missing by the agent, which says so.
  void make(mode_t kind, const char* name, DeviceId id) const {
    const std::string path = folder_ + "/" + name + std::to_string(id);
    (void)::mknod(path.c_str(), kind | 0600, makedev(local_use_major, id));
  }

  const std::unique_ptr<ControlDevice> kernel_;
  const std::string folder_;
};

PreflightFacts healthy(uint64_t features) {
  PreflightFacts facts;
  facts.kernel_release = "7.2-simulated";
  facts.module_loaded = facts.module_available = true;
  facts.sys_admin = true;
  facts.features = features;
  facts.udev_running = facts.dev_is_devtmpfs = true;
  facts.sysfs_present = facts.sysfs_writable = true;
  return facts;
}

}  // namespace

Result<std::unique_ptr<SimulatedNode>> SimulatedNode::start(const Options& options,
                                                            const Logger& log) {
  std::unique_ptr<SimulatedNode> node(new SimulatedNode);
  if (auto opened = node->open(options, log); !opened) return std::move(opened).error();
  return node;
}

SimulatedNode::~SimulatedNode() {
  stop_.signal();
  if (thread_.joinable()) thread_.join();
  if (link_) link_->stop();
}

Result<void> SimulatedNode::open(const Options& options, const Logger& log) {
  const std::string& folder = options.folder;
  const std::string pool = folder + "/pool";
  const std::string devices = folder + "/dev";
  for (const auto& path : {pool, devices, folder + "/run"})
    if (auto made = make_directories(path); !made) return made;
  if (::geteuid() != 0)
    return Error{EPERM, "simulate", options.name, "device nodes are for root to make"};

  auto config = kube::default_config(options.kubeconfig);
  if (!config) return std::move(config).error();
  auto transport = kube::make_transport(*config);
  if (!transport) return std::move(transport).error();
  auto features = kernel_.open_control()->features({});
  if (!features) return std::move(features).error();
  ClusterLinkOptions link;
  link.node_name = options.name;
  link.namespace_name = options.namespace_name;
  link.holder = options.name;
  link.node_facts = [facts = healthy(*features), pool] {
    return node_status(facts, {{pool_name, pool, pool_bytes, pool_bytes, ""}}, UBLK_VERSION);
  };
  link_ = std::make_unique<ClusterLink>(std::move(*transport), std::move(link), log);

  AgentOptions agent;
  agent.state_dir = folder + "/state";
  agent.run_dir = folder + "/run";
  agent.spawner_socket = folder + "/run/spawner.sock";
  agent.server_program = folder + "/run/ublk-server";
  agent.pools = {{pool_name, Pool(pool)}};
  agent.paths.dev_dir = devices;
  agent.paths.by_name_dir = devices + "/ublk/by-name";
  agent.paths.udev_dir = folder + "/run/udev";
  agent.open_control = [this, devices]() -> Result<std::unique_ptr<ControlDevice>> {
    return std::unique_ptr<ControlDevice>(
        std::make_unique<NodeMaker>(kernel_.open_control(), devices));
  };
  agent.on_event = [this](const VolumeEvent& event) { link_->say_event(event); };
  agent.open_source = [this]() -> Result<std::unique_ptr<VolumeSource>> { return link_->source(); };
  auto spawner = SimulatedSpawner::start(agent.spawner_socket, kernel_);
  if (!spawner) return std::move(spawner).error();
  spawner_ = std::move(*spawner);
  auto made = Agent::create(std::move(agent), log);
  if (!made) return std::move(made).error();
  agent_ = std::move(*made);
  link_->start(*agent_);
  thread_ = std::thread([this, log, name = options.name] {
    if (auto done = agent_->run(stop_.fd()); !done)
      log->error("node={} operation=run error=\"{}\"", name, done.error().to_string());
  });
  return {};
}

}  // namespace ublk_operator
