// ClusterService: the volumes of a cluster, as its API server tells of them, for `kubectl ublk`.
// Shape    reads objects, their status and their Events; deletes objects. What only a node's agent
//          can do (recover, pause, stop by hand) is refused with the command that asks it;
//          manifests are kubectl's to apply.
// Errors   as VolumeService; besides, EACCES: the user may not (detail is the server's sentence),
//          ENXIO: the cluster does not know UblkVolumes. An object of a newer version that cannot
//          be read as a whole is listed with its name and status alone.
// Bounds   lists come in pages of 500.
// Threads  any.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/kube/client.h"
#include "common/kube/reflector.h"
#include "common/localapi/service.h"

namespace ublk_operator {

class ClusterService final : public VolumeService {
 public:
  ClusterService(std::shared_ptr<kube::Transport> transport, std::string namespace_name);
  ~ClusterService() override;
  ClusterService(const ClusterService&) = delete;
  ClusterService& operator=(const ClusterService&) = delete;

  std::vector<Volume> list() override;
  Result<Volume> get(const std::string& name) override;
  std::vector<VolumeEvent> events(const std::string& volume) override;
  Result<std::vector<std::string>> apply(const std::string& manifest) override;
  Result<void> remove(const std::string& name) override;
  Result<void> stop(const std::string& name, bool stopped, bool force) override;
  Result<void> recover(const std::string& name, bool replace_server) override;
  Result<void> pause(const std::string& name, bool paused) override;
  nlohmann::json support_bundle() override;
  // One watch at a time. An Event of a volume counts as a change of it once events() was called.
  uint64_t watch(OnChange on_change) override;
  void unwatch(uint64_t id) override;
  Result<void> reachable() override;

 private:
  [[nodiscard]] Result<std::vector<nlohmann::json>> items(const std::string& path,
                                                          const std::string& query);
  // EOPNOTSUPP with the command line that asks the volume's own node.
  [[nodiscard]] Error ask_the_node(const std::string& name, const std::string& command);
  void note(const Result<void>& how);
  void watch_events();
  void changed(const std::string& name, const nlohmann::json* object);

  const kube::KubeClient client_;
  const std::string namespace_;
  kube::Cancel cancel_;

  std::mutex mutex_;  // guards what follows, and is held while on_change_ is called
  Result<void> reached_;
  OnChange on_change_;
  std::map<std::string, Volume> seen_;
  std::mutex reflectors_mutex_;  // guards what follows; taken before mutex_
  std::unique_ptr<kube::Reflector> volumes_;
  std::unique_ptr<kube::Reflector> events_;
};

}  // namespace ublk_operator
