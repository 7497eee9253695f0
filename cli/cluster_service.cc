#include "cli/cluster_service.h"

#include <algorithm>
#include <cerrno>
#include <tuple>
#include <utility>

#include "common/api/decode.h"
#include "common/base/log.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {

namespace {

using nlohmann::json;

constexpr const char* page = "limit=500";

kube::Resource volume_resource() { return {"ublk.dev", "v1alpha1", "ublkvolumes", ""}; }
kube::Resource node_resource() { return {"ublk.dev", "v1alpha1", "ublknodes", ""}; }
// Events of objects without a namespace are in this one.
kube::Resource event_resource() { return {"", "v1", "events", "default"}; }

std::string selector(const std::string& name) {
  std::string fields = "involvedObject.kind=" + std::string(kVolumeKind);
  if (!name.empty()) fields += ",involvedObject.name=" + name;
  return "fieldSelector=" + kube::query_escape(fields);
}

std::string text(const json& object, const json::json_pointer& at) {
  return object.contains(at) && object.at(at).is_string() ? object.at(at).get<std::string>() : "";
}

std::string name_of(const json& object) {
  return text(object, json::json_pointer("/metadata/name"));
}

Volume read_volume(const json& object) {
  json whole = object;
  whole["apiVersion"] = kApiVersion;  // the items of a list do not say it
  whole["kind"] = kVolumeKind;
  if (auto volume = volume_from_json(whole)) return std::move(*volume);
  // Of a newer version: its status, which is read leniently, with the least that is a spec.
  whole["spec"] = {{"size", "1Gi"}, {"backend", {{"null", json::object()}}}};
  auto volume = volume_from_json(whole);
  Volume bare = volume ? std::move(*volume) : Volume();
  bare.metadata.name = name_of(object);
  bare.spec = VolumeSpec();
  bare.spec.node_name = text(object, json::json_pointer("/spec/nodeName"));
  return bare;
}

VolumeEvent read_event(const json& object) {
  VolumeEvent event;
  event.volume = text(object, json::json_pointer("/involvedObject/name"));
  event.warning = text(object, json::json_pointer("/type")) == "Warning";
  event.reason = text(object, json::json_pointer("/reason"));
  event.message = text(object, json::json_pointer("/message"));
  for (const char* at : {"/firstTimestamp", "/eventTime", "/metadata/creationTimestamp"})
    if (event.first_time.empty()) event.first_time = text(object, json::json_pointer(at));
  event.last_time = text(object, json::json_pointer("/lastTimestamp"));
  if (event.last_time.empty()) event.last_time = event.first_time;
  const auto count = object.find("count");
  if (count != object.end() && count->is_number_unsigned()) event.count = count->get<uint64_t>();
  return event;
}

bool is_of_volume(const json& event, const std::string& name) {
  return text(event, json::json_pointer("/involvedObject/kind")) == kVolumeKind &&
         (name.empty() || text(event, json::json_pointer("/involvedObject/name")) == name);
}

}  // namespace

ClusterService::ClusterService(std::shared_ptr<kube::Transport> transport,
                               std::string namespace_name)
    : client_(std::move(transport)), namespace_(std::move(namespace_name)) {}

ClusterService::~ClusterService() {
  cancel_.cancel();
  unwatch(1);
}

void ClusterService::note(const Result<void>& how) {
  const std::scoped_lock lock(mutex_);
  reached_ = how;
}

Result<void> ClusterService::reachable() {
  const std::scoped_lock lock(mutex_);
  return reached_;
}

Result<std::vector<json>> ClusterService::items(const std::string& path, const std::string& query) {
  std::vector<json> all;
  std::string next;
  do {
    std::string from = path + "?" + page;
    if (!query.empty()) from += "&" + query;
    if (!next.empty()) from += "&continue=" + kube::query_escape(next);
    auto list = client_.get(from, cancel_);
    if (list.err() == ENOENT)
      return Error{ENXIO, "list", path,
                   "the cluster does not know these objects; is ublk-operator installed?"};
    if (!list) return std::move(list).error();
    for (auto& item : list->value("items", json::array())) all.push_back(std::move(item));
    next = text(*list, json::json_pointer("/metadata/continue"));
  } while (!next.empty());
  return all;
}

std::vector<Volume> ClusterService::list() {
  auto found = items(volume_resource().path(), "");
  note(found ? Result<void>() : Result<void>(found.error()));
  std::vector<Volume> volumes;
  if (!found) return volumes;
  for (const auto& object : *found) volumes.push_back(read_volume(object));
  std::sort(volumes.begin(), volumes.end(),
            [](const Volume& a, const Volume& b) { return a.metadata.name < b.metadata.name; });
  return volumes;
}

Result<Volume> ClusterService::get(const std::string& name) {
  auto object = client_.get(volume_resource().path(name), cancel_);
  if (object) return read_volume(*object);
  if (object.err() == ENOENT)
    return Error{ENOENT, "get", "volume " + name, "the cluster has no such ublkvolume"};
  return std::move(object).error();
}

std::vector<VolumeEvent> ClusterService::events(const std::string& volume) {
  watch_events();
  auto found = items(event_resource().path(), selector(volume));
  note(found ? Result<void>() : Result<void>(found.error()));
  std::vector<VolumeEvent> events;
  if (!found) return events;
  for (const auto& object : *found)
    if (is_of_volume(object, volume)) events.push_back(read_event(object));
  std::sort(events.begin(), events.end(), [](const VolumeEvent& a, const VolumeEvent& b) {
    return std::tie(a.last_time, a.first_time, a.reason) <
           std::tie(b.last_time, b.first_time, b.reason);
  });
  return events;
}

// --- what is not for the API server

Result<std::vector<std::string>> ClusterService::apply(const std::string& /*manifest*/) {
  return Error{EOPNOTSUPP, "apply", "manifests", "use `kubectl apply -f FILE`"};
}

Result<void> ClusterService::remove(const std::string& name) {
  auto removed = client_.remove(volume_resource().path(name), cancel_);
  if (removed.err() == ENOENT)
    return Error{ENOENT, "delete", "volume " + name, "the cluster has no such ublkvolume"};
  return removed;
}

Error ClusterService::ask_the_node(const std::string& name, const std::string& command) {
  const std::string operation = command.substr(0, command.find(' '));
  auto volume = get(name);
  if (!volume) return std::move(volume).error();
  const std::string& node = volume->spec.node_name;
  if (node.empty())
    return {EOPNOTSUPP, operation, "volume " + name, "no node has it yet; see its condition Bound"};
  return {EOPNOTSUPP, operation, "volume " + name,
          "that is asked of the volume's node: kubectl exec -n " + namespace_ +
              " $(kubectl get pod -n " + namespace_ +
              " -l app.kubernetes.io/component=node --field-selector spec.nodeName=" + node +
              " -o name) -c agent -- ublkctl " + command + " " + name};
}

Result<void> ClusterService::stop(const std::string& name, bool stopped, bool force) {
  if (stopped && force) return ask_the_node(name, "stop --force");
  auto volume = get(name);
  if (!volume) return std::move(volume).error();
  return Error{EOPNOTSUPP, stopped ? "stop" : "start", "volume " + name,
               "in a cluster its spec says whether it runs: kubectl patch ublkvolume " + name +
                   " --type=merge -p '{\"spec\":{\"running\":" + (stopped ? "false" : "true") +
                   "}}'"};
}

Result<void> ClusterService::recover(const std::string& name, bool replace_server) {
  return ask_the_node(name, replace_server ? "recover --replace-server" : "recover");
}

Result<void> ClusterService::pause(const std::string& name, bool paused) {
  return ask_the_node(name, paused ? "pause" : "resume");
}

json ClusterService::support_bundle() {
  json bundle = json::object();
  Result<void> reached;
  const std::pair<const char*, std::string> kinds[] = {
      {"volumes", volume_resource().path()},
      {"nodes", node_resource().path()},
      {"leases", kube::Resource{"coordination.k8s.io", "v1", "leases", namespace_}.path()},
      {"events", event_resource().path()}};
  for (const auto& [key, path] : kinds) {
    auto found = items(path, std::string(key) == "events" ? selector("") : "");
    if (found)
      bundle[key] = std::move(*found);
    else
      bundle[key] = {{"error", found.error().to_string()}};
    if (found.err() == ENOTCONN || found.err() == ETIMEDOUT) {
      reached = found.error();
      break;
    }
  }
  note(reached);
  return bundle;
}

// --- watching

void ClusterService::changed(const std::string& name, const json* object) {
  const std::scoped_lock lock(mutex_);
  if (object == nullptr) {
    seen_.erase(name);
    if (on_change_) on_change_(name, std::nullopt);
    return;
  }
  const Volume& volume = seen_[name] = read_volume(*object);
  if (on_change_) on_change_(name, volume);
}

uint64_t ClusterService::watch(OnChange on_change) {
  const auto probe = client_.get(volume_resource().path() + "?limit=1", cancel_);
  Result<void> reached;
  if (!probe)
    reached = probe.err() == ENOENT
                  ? Error{ENXIO, "watch", "ublkvolumes",
                          "the cluster does not know these objects; is ublk-operator installed?"}
                  : probe.error();
  note(reached);
  if (!reached) return 0;
  const std::scoped_lock lock(reflectors_mutex_);
  {
    const std::scoped_lock change(mutex_);
    on_change_ = std::move(on_change);
  }
  volumes_ = std::make_unique<kube::Reflector>(
      client_.transport(), volume_resource(), "", kube::Informer::Options{},
      [this](const std::string& name, const json* object) { changed(name, object); }, [] {},
      null_logger());
  volumes_->start();
  return 1;
}

void ClusterService::watch_events() {
  const std::scoped_lock lock(reflectors_mutex_);
  if (!volumes_ || events_) return;
  events_ = std::make_unique<kube::Reflector>(
      client_.transport(), event_resource(), selector(""), kube::Informer::Options{},
      [this](const std::string&, const json* object) {
        if (object == nullptr || !is_of_volume(*object, "")) return;
        const std::string name = read_event(*object).volume;
        const std::scoped_lock change(mutex_);
        const auto volume = seen_.find(name);
        if (on_change_ && volume != seen_.end()) on_change_(name, volume->second);
      },
      [] {}, null_logger());
  events_->start();
}

void ClusterService::unwatch(uint64_t id) {
  if (id == 0) return;
  {
    const std::scoped_lock change(mutex_);
    on_change_ = {};
  }
  const std::scoped_lock lock(reflectors_mutex_);
  events_.reset();
  volumes_.reset();
}

}  // namespace ublk_operator
