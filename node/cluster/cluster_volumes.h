// ClusterVolumes: the UblkVolumes of the API server that name this node, as a source of volumes for
// the agent (a facade of it), and as what whoever writes their status has to know.
// Shape    watched by field selector, so a node sees its own volumes only. An object's uid and
//          generation are kept: the volume's identity is the object's.
// Removal  what carries a deletionTimestamp, with the reclaimPolicy that it has then; what has
//          another uid than the accepted one of the same cluster (that object is gone, and a new
//          one has its name): never with its data. An object that merely
//          vanished (its finalizer was taken off by force, or etcd was restored) is an orphan: it
//          is reported and served on until a person removes it from the node.
// Finalizer  of an object that does not carry the controller's yet nothing is made: it could be
//          deleted without this node being asked. What the agent has already is served on without.
// Errors   none: without the API server nothing changes. The node goes on as it was.
// Threads  any.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "common/base/log.h"
#include "common/base/unique_fd.h"
#include "common/kube/client.h"
#include "common/kube/reflector.h"
#include "node/agent/volume_source.h"

namespace ublk_operator {

[[nodiscard]] kube::Resource volume_resource();
[[nodiscard]] kube::Resource node_resource();

struct ClusterObject {
  std::string uid;
  int64_t generation = 0;
  bool deleting = false;
  bool gone = false;     // nothing is left of it on this node; whoever deleted it has yet to hear
  bool guarded = false;  // carries the controller's finalizer: it does not go without this node
  bool awaited = false;  // not guarded, and so passed over by the agent
  WantedVolume wanted;
  // Of the object as it was last seen: changes with every write to it, also of its status.
  std::string resource_version;
  bool silenced = false;  // its Ready is Unknown because the controller did not hear this node
};

// What an object of the API says to this node. Pure. `cluster`: SourceIdentity::directory_identity.
[[nodiscard]] ClusterObject read_cluster_object(const nlohmann::json& object,
                                                const std::string& cluster);
// What the agent is to do, given every object that names this node. Pure.
[[nodiscard]] SourceView view_of(const std::map<std::string, ClusterObject>& objects,
                                 const std::map<std::string, AcceptedVolume>& accepted,
                                 const std::string& cluster);

class ClusterVolumes {
 public:
  // `on_stale`: the status of this object may not be what was written last: it is a new one, or the
  // controller took this node for silent and wrote so; or it became awaited, or was it and is gone.
  ClusterVolumes(std::shared_ptr<kube::Transport> transport, const std::string& node_name,
                 std::function<void(const std::string& name)> on_stale, Logger log);
  void start();
  // Which cluster this is: the uid of its namespace kube-system. Nothing is decided before.
  void set_cluster(const std::string& uid);
  // The agent has nothing left of this volume. From then on its deletion asks nothing of the agent.
  void set_gone(const std::string& name);

  // One at a time; lives no longer than this.
  [[nodiscard]] std::unique_ptr<VolumeSource> source();
  [[nodiscard]] std::optional<ClusterObject> find(const std::string& name) const;
  [[nodiscard]] bool synced() const;  // find() knows every object
  [[nodiscard]] std::chrono::milliseconds heard_before() const { return reflector_.heard_before(); }

 private:
  class Source;
  void changed(const std::string& name, const nlohmann::json* object);

  const std::function<void(const std::string&)> on_stale_;
  EventFd wake_ = EventFd::must_create();
  mutable std::mutex mutex_;
  bool synced_ = false;
  std::string cluster_;
  std::map<std::string, ClusterObject> objects_;
  kube::Reflector reflector_;  // the last: its threads use what is above
};

}  // namespace ublk_operator
