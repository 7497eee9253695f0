#include "node/cluster/cluster_volumes.h"

#include <cerrno>
#include <utility>

#include "nlohmann/json.hpp"

namespace ublk_operator {

namespace {

constexpr const char* origin = "ublkvolumes/";
constexpr const char* finalizer = "ublk.dev/device";

std::string text_of(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

// The member of that kind, or an empty one: what another program wrote may be anything.
nlohmann::json member_of(const nlohmann::json& object, const char* key,
                         const nlohmann::json& otherwise) {
  const auto found = object.find(key);
  return found != object.end() && found->type() == otherwise.type() ? *found : otherwise;
}

}  // namespace

kube::Resource volume_resource() { return {"ublk.dev", "v1alpha1", "ublkvolumes", ""}; }
kube::Resource node_resource() { return {"ublk.dev", "v1alpha1", "ublknodes", ""}; }

ClusterObject read_cluster_object(const nlohmann::json& object, const std::string& cluster) {
  ClusterObject result;
  const auto metadata = member_of(object, "metadata", nlohmann::json::object());
  const std::string name = text_of(metadata, "name");
  result.uid = text_of(metadata, "uid");
  const auto generation = metadata.find("generation");
  if (generation != metadata.end() && generation->is_number_integer())
    result.generation = generation->get<int64_t>();
  result.deleting = !text_of(metadata, "deletionTimestamp").empty();
  for (const auto& one : member_of(metadata, "finalizers", nlohmann::json::array()))
    if (one == finalizer) result.guarded = true;
  result.wanted.uid = result.uid;
  result.wanted.source = {origin + name, cluster};
  result.resource_version = text_of(metadata, "resourceVersion");
  const auto status = member_of(object, "status", nlohmann::json::object());
  for (const auto& condition : member_of(status, "conditions", nlohmann::json::array()))
    if (condition.is_object() && text_of(condition, "type") == "Ready" &&
        text_of(condition, "reason") == "NodeSilent")
      result.silenced = true;

  nlohmann::json bare = object;
  bare.erase("status");              // others write there too
  bare["apiVersion"] = kApiVersion;  // the items of a list do not say it
  bare["kind"] = kVolumeKind;
  auto volume = volume_from_json(bare);
  if (volume) {
    // As little as is of use: an object may carry up to 256 KiB of annotations.
    volume->metadata.annotations.clear();
    result.wanted.volume = std::move(*volume);
  } else {
    // The API server checks what the CRD says; a newer CRD may allow what this agent does not know.
    result.wanted.problems.push_back({result.wanted.source.file, 0, 0, "", volume.error().detail});
  }
  return result;
}

SourceView view_of(const std::map<std::string, ClusterObject>& objects,
                   const std::map<std::string, AcceptedVolume>& accepted,
                   const std::string& cluster) {
  SourceView view;
  for (const auto& [name, object] : objects) {
    const auto known = accepted.find(name);
    const bool same = known == accepted.end() || known->second.uid == object.uid;
    if (!same && known->second.source.directory_identity != cluster) {
      view.problems.push_back(
          {object.wanted.source.file, 0, 0, "metadata.name",
           "this node has another volume of that name, from " + known->second.source.file +
               ", and keeps it; remove that one first (in the agent's container: `ublkctl delete " +
               name + "`), or choose another name"});
    } else if (!same) {
      // The old object is gone, and nobody saw it being deleted: its finalizer was taken off, or
      // etcd is an older one. The new one's turn comes when its device is not in use; the data
      // stays.
      view.removed.emplace(name, RemovedVolume{known->second.uid, ReclaimPolicy::retain});
    } else if (object.deleting) {
      // What it says now counts, not what was accepted once; where that is not known, data stays.
      const auto policy =
          object.wanted.volume ? object.wanted.volume->spec.reclaim_policy : ReclaimPolicy::retain;
      if (!object.gone) view.removed.emplace(name, RemovedVolume{object.uid, policy});
    } else if (object.guarded || known != accepted.end()) {
      view.volumes.emplace(name, object.wanted);
    }
  }
  for (const auto& [name, known] : accepted) {
    if (objects.contains(name) || known.source.directory_identity != cluster) continue;
    std::string message = "the object of volume '" + name + "' (uid " + known.uid + ") is gone ";
    message +=
        "without having been deleted; the volume goes on. Create it again as it was, with this ";
    message +=
        "node as spec.nodeName, and it takes over the data; or remove what is left of it: in ";
    message += "the agent's container, `ublkctl delete " + name + "`";
    view.problems.push_back({known.source.file, 0, 0, "", std::move(message)});
  }
  return view;
}

// --- the facade
// ----------------------------------------------------------------------------------------------

class ClusterVolumes::Source : public VolumeSource {
 public:
  explicit Source(ClusterVolumes& volumes) : volumes_(volumes) {}

  int fd() const override { return volumes_.wake_.fd(); }
  bool process_events() override {
    volumes_.wake_.drain();
    return true;
  }
  SourceView scan(const std::map<std::string, AcceptedVolume>& accepted) override {
    SourceView view;
    std::vector<std::string> passed_over;
    {
      const std::scoped_lock lock(volumes_.mutex_);
      // Until every object was seen, of a cluster that is known, nothing is known.
      if (!volumes_.synced_ || volumes_.cluster_.empty()) return {};
      view = view_of(volumes_.objects_, accepted, volumes_.cluster_);
      for (auto& [name, object] : volumes_.objects_) {
        if (object.guarded || object.deleting || object.awaited || accepted.contains(name))
          continue;
        object.awaited = true;
        passed_over.push_back(name);
      }
    }
    for (const auto& name : passed_over) volumes_.on_stale_(name);
    return view;
  }
  Result<void> write_manifest(const std::string& name, const std::string& /*text*/,
                              const std::optional<SourceIdentity>& /*accepted*/) override {
    return Error{EOPNOTSUPP, "apply", "volume " + name,
                 "the volumes of this node come from the API server; use kubectl apply"};
  }
  Result<void> remove_manifest(const std::string& name, const SourceIdentity& accepted) override {
    {
      const std::scoped_lock lock(volumes_.mutex_);
      if (!volumes_.synced_ || volumes_.cluster_.empty())
        return Error{EAGAIN, "delete", "volume " + name,
                     "the API server was not heard yet, so whether its object is there is not "
                     "known; try again"};
      if (accepted.directory_identity != volumes_.cluster_) return {};  // of another source
      if (!volumes_.objects_.contains(name)) return {};                 // an orphan
    }
    return Error{
        EOPNOTSUPP, "delete", "volume " + name,
        "the volumes of this node come from the API server; use kubectl delete ublkvolume " + name};
  }

 private:
  ClusterVolumes& volumes_;
};

std::unique_ptr<VolumeSource> ClusterVolumes::source() { return std::make_unique<Source>(*this); }

// --- the reflector's listener
// ---------------------------------------------------------------------------------

ClusterVolumes::ClusterVolumes(std::shared_ptr<kube::Transport> transport,
                               const std::string& node_name,
                               std::function<void(const std::string& name)> on_stale, Logger log)
    : on_stale_(std::move(on_stale)),
      reflector_(
          std::move(transport), volume_resource(),
          "fieldSelector=" + kube::query_escape("spec.nodeName=" + node_name),
          kube::Informer::Options{},
          [this](const std::string& name, const nlohmann::json* object) { changed(name, object); },
          [this] {
            const std::scoped_lock lock(mutex_);
            synced_ = true;
            wake_.signal();
          },
          std::move(log)) {}

void ClusterVolumes::start() { reflector_.start(); }

void ClusterVolumes::set_cluster(const std::string& uid) {
  const std::scoped_lock lock(mutex_);
  cluster_ = "cluster:" + uid;
  for (auto& [name, object] : objects_) object.wanted.source.directory_identity = cluster_;
  wake_.signal();
}

bool ClusterVolumes::synced() const {
  const std::scoped_lock lock(mutex_);
  return synced_;
}

void ClusterVolumes::set_gone(const std::string& name) {
  const std::scoped_lock lock(mutex_);
  const auto found = objects_.find(name);
  // Not deleted: what went had its name before, and this one's turn comes.
  if (found != objects_.end() && found->second.deleting) found->second.gone = true;
}

std::optional<ClusterObject> ClusterVolumes::find(const std::string& name) const {
  const std::scoped_lock lock(mutex_);
  const auto found = objects_.find(name);
  return found == objects_.end() ? std::nullopt : std::optional(found->second);
}

void ClusterVolumes::changed(const std::string& name, const nlohmann::json* object) {
  bool stale = false;
  {
    const std::scoped_lock lock(mutex_);
    if (object == nullptr) {
      const auto found = objects_.find(name);
      stale = found != objects_.end() && found->second.awaited;
      if (found != objects_.end()) objects_.erase(found);
      wake_.signal();
    } else {
      auto now = read_cluster_object(*object, cluster_);
      auto& before = objects_[name];
      now.gone = before.gone && before.uid == now.uid;
      now.awaited = before.awaited && before.uid == now.uid && !now.guarded && !now.deleting;
      stale = now.silenced || before.uid != now.uid;  // ours may have been written to nobody
      // A change of its status, which is mostly our own, is nothing for the agent.
      if (before.uid != now.uid || before.deleting != now.deleting ||
          before.guarded != now.guarded || !(before.wanted == now.wanted))
        wake_.signal();
      before = std::move(now);
    }
  }
  if (stale) on_stale_(name);
}

}  // namespace ublk_operator
