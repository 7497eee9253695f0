#include "node/cluster/cluster_link.h"

#include <cerrno>
#include <chrono>
#include <utility>

#include "common/api/quantity.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {

using namespace std::chrono_literals;

namespace {

constexpr const char* manager = "ublk-node";
constexpr auto node_check_every = 60s;  // free space sends no event
constexpr auto node_write_every = 10min;
constexpr auto heartbeat_every = 10s;
constexpr auto heartbeat_retry = 2s;
constexpr int lease_seconds = 40;

}  // namespace

nlohmann::json status_object(const Volume& volume) {
  nlohmann::json json = to_json(volume);
  auto status = json.value("status", nlohmann::json::object());
  status.erase("io");  // counters are metrics: they would be a write each time
  status.erase("ioErrors");
  return {{"apiVersion", kApiVersion},
          {"kind", kVolumeKind},
          {"metadata", {{"name", volume.metadata.name}, {"uid", volume.metadata.uid}}},
          {"status", std::move(status)}};
}

nlohmann::json removed_object(const std::string& name, const ClusterObject& object,
                              const std::string& now) {
  const auto condition = [&](const char* type, const char* status, const char* message) {
    return nlohmann::json{{"type", type},
                          {"status", status},
                          {"reason", "Gone"},
                          {"message", message},
                          {"observedGeneration", object.generation},
                          {"lastTransitionTime", now}};
  };
  // Ready too: what this manager said before and leaves out now would go, and may not.
  return {{"apiVersion", kApiVersion},
          {"kind", kVolumeKind},
          // The API server does not compare the uid of what is applied to a status, but this.
          {"metadata", {{"name", name}, {"resourceVersion", object.resource_version}}},
          {"status",
           {{"observedGeneration", object.generation},
            {"conditions",
             {condition("Ready", "False", "the volume is being deleted and has no device any more"),
              condition("DeviceRemoved", "True",
                        "nothing of the volume is left on this node but what reclaimPolicy "
                        "keeps")}}}}};
}

nlohmann::json awaited_object(const std::string& name, const ClusterObject& object,
                              const std::string& now) {
  const nlohmann::json ready{
      {"type", "Ready"},
      {"status", "False"},
      {"reason", "AwaitingFinalizer"},
      {"message",
       "nothing is made of this volume before ublk-controller has put its finalizer "
       "ublk.dev/device "
       "on it, which it does by itself: a deletion could otherwise leave a device behind. Does the "
       "controller run? `kubectl get pods -A -l app.kubernetes.io/component=controller`"},
      {"observedGeneration", object.generation},
      {"lastTransitionTime", now}};
  return {{"apiVersion", kApiVersion},
          {"kind", kVolumeKind},
          {"metadata", {{"name", name}, {"uid", object.uid}}},
          {"status", {{"observedGeneration", object.generation}, {"conditions", {ready}}}}};
}

ClusterLink::ClusterLink(const std::shared_ptr<kube::Transport>& transport,
                         ClusterLinkOptions options, Logger log)
    : options_(std::move(options)),
      log_(std::move(log)),
      client_(transport),
      volumes_(
          transport, options_.node_name,
          [this](const std::string& name) {
            const auto object = volumes_.find(name);
            const std::scoped_lock lock(mutex_);
            // Its turn comes when the agent has it.
            if (object && !object->awaited && !latest_.contains(name)) return;
            stale_.insert(name);
            plan_.changed(name, Clock::now(), true);
            changed_.notify_all();
          },
          log_),
      events_(transport,
              kube::EventCorrelator::Options{.component = manager, .instance = options_.node_name},
              log_) {}

ClusterLink::~ClusterLink() { stop(); }

void ClusterLink::start(VolumeService& agent) {
  agent_ = &agent;
  watch_ = agent.watch([this](const std::string& name, const std::optional<Volume>& volume) {
    const auto* ready = volume ? find_condition(volume->status.conditions, "Ready") : nullptr;
    if (!volume) volumes_.set_gone(name);
    const std::scoped_lock lock(mutex_);
    auto& latest = latest_[name];
    // An uninstall waits for that.
    const bool device_went =
        latest && latest->status.device_id && volume && !volume->status.device_id;
    const bool urgent =
        !volume || device_went || (ready != nullptr && ready->status == ConditionStatus::yes);
    latest = volume;
    plan_.changed(name, Clock::now(), urgent);
    changed_.notify_all();
  });
  volumes_.start();
  writer_ = std::thread([this] { run_writer(); });
  heartbeat_ = std::thread([this] { run_heartbeat(); });
}

void ClusterLink::stop() {
  if (agent_ != nullptr) agent_->unwatch(watch_);
  agent_ = nullptr;
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  cancel_.cancel();
  if (writer_.joinable()) writer_.join();
  if (heartbeat_.joinable()) heartbeat_.join();
}

void ClusterLink::say_event(const VolumeEvent& event) {
  kube::EventTarget target{kApiVersion, "UblkNode", options_.node_name, "", ""};
  if (!event.volume.empty()) {
    const auto object = volumes_.find(event.volume);
    if (!object) return;  // nobody would find it
    target = {kApiVersion, kVolumeKind, event.volume, object->uid, ""};
  }
  events_.say({std::move(target), event.warning, event.reason, event.message});
}

void ClusterLink::node_changed() {
  const std::scoped_lock lock(mutex_);
  node_stale_ = true;
  changed_.notify_all();
}

bool ClusterLink::stopping() {
  const std::scoped_lock lock(mutex_);
  return stopping_;
}

bool ClusterLink::pause(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, time, [this] { return stopping_; });
}

std::chrono::milliseconds ClusterLink::jittered(std::chrono::milliseconds time) {
  const std::scoped_lock lock(mutex_);
  const double random = std::uniform_real_distribution<double>(0.8, 1.2)(random_);
  return std::chrono::duration_cast<std::chrono::milliseconds>(time * random);
}

// The first failure in a row, another one, and the end of them.
void ClusterLink::say(const std::string& what, const Result<void>& how) {
  const std::scoped_lock lock(mutex_);
  if (stopping_) return;
  const auto before = failing_.find(what);
  if (how) {
    if (before == failing_.end()) return;
    log_->info("operation={} the API server takes it again", what);
    failing_.erase(before);
    return;
  }
  const std::string text = how.error().to_string();
  if (before != failing_.end() && before->second == text) return;
  log_->warn("operation={} error=\"{}\" retry=true", what, text);
  failing_[what] = text;
}

// --- heartbeat
// -------------------------------------------------------------------------------------------------

void ClusterLink::run_heartbeat() {
  const std::string name = "ublk-node-" + options_.node_name;
  const kube::Resource leases{"coordination.k8s.io", "v1", "leases", options_.namespace_name};
  std::chrono::milliseconds wait{0};
  while (pause(wait)) {
    const nlohmann::json lease{
        {"apiVersion", "coordination.k8s.io/v1"},
        {"kind", "Lease"},
        {"metadata",
         {{"name", name},
          {"namespace", options_.namespace_name},
          {"labels",
           {{"app.kubernetes.io/name", "ublk-operator"},
            {"app.kubernetes.io/component", "node"}}}}},
        {"spec",
         {{"holderIdentity", options_.holder},
          {"leaseDurationSeconds", lease_seconds},
          {"renewTime", format_time_micro(std::chrono::system_clock::now())}}}};
    const auto done = client_.apply(leases.path(name), lease, manager, cancel_);
    say("heartbeat", done ? Result<void>() : Result<void>(done.error()));
    if (done) {
      const std::scoped_lock lock(mutex_);
      beat_ = Clock::now();
    }
    wait = jittered(done ? heartbeat_every : heartbeat_retry);
  }
}

// --- status
// -------------------------------------------------------------------------------------------------

void ClusterLink::learn_cluster() {
  for (auto wait = 500ms; !stopping(); wait = std::min<std::chrono::milliseconds>(2 * wait, 30s)) {
    const auto found = client_.get("/api/v1/namespaces/kube-system", cancel_);
    if (found) {
      const auto uid_at = nlohmann::json::json_pointer("/metadata/uid");
      const std::string uid = found->contains(uid_at) && found->at(uid_at).is_string()
                                  ? found->at(uid_at).get<std::string>()
                                  : "";
      if (!uid.empty()) {
        say("learn_cluster", {});
        volumes_.set_cluster(uid);
        return;
      }
    }
    say("learn_cluster",
        found ? Error{EPROTO, "get", "namespace kube-system", "it has no uid"} : found.error());
    if (!pause(jittered(wait))) return;
  }
}

void ClusterLink::run_writer() {
  learn_cluster();
  while (true) {
    std::optional<std::string> name;
    {
      std::unique_lock lock(mutex_);
      while (!stopping_ && !node_stale_ && Clock::now() < node_due_) {
        name = plan_.take(Clock::now());
        if (name) break;
        changed_.wait_until(lock, std::min(node_due_, plan_.next().value_or(node_due_)));
      }
      if (stopping_) return;
      if (!name) node_stale_ = false;
    }
    if (name)
      write_volume(*name);
    else
      write_node();
  }
}

void ClusterLink::write_volume(const std::string& name) {
  std::optional<Volume> volume;
  bool again = false;
  {
    const std::scoped_lock lock(mutex_);
    volume = latest_[name];
    again = stale_.erase(name) > 0;
  }
  const auto object = volumes_.find(name);
  {
    const std::scoped_lock lock(mutex_);
    // Before every object was seen nothing is known to be pointless. And a node that is not heard
    // does not contradict who says so: they would go on for ever.
    const bool heard = beat_ && Clock::now() - *beat_ < std::chrono::seconds(lease_seconds);
    if (!volumes_.synced() || (object && object->silenced && !heard)) {
      if (again) stale_.insert(name);
      plan_.failed(name, Clock::now(), std::uniform_real_distribution<double>(0, 1)(random_));
      return;
    }
  }
  nlohmann::json wanted;
  if (object && volume && volume->metadata.uid == object->uid)
    wanted = status_object(*volume);
  else if (object && !volume && object->deleting)
    wanted = removed_object(name, *object, format_now());
  else if (object && !volume && object->awaited)
    wanted = awaited_object(name, *object, format_now());

  Result<void> how;
  if (again) written_.erase(name);
  if (!wanted.is_null() && written_[name] != wanted) {
    const auto done =
        client_.apply(volume_resource().path(name, "status"), wanted, manager, cancel_);
    if (!done) how = done.error();
  }
  // Gone meanwhile: the watch tells of it. EBUSY, for what says that a volume is gone: the object
  // is not the one that was seen, and may be another one of that name.
  const bool pointless = how.err() == ENOENT && !volumes_.find(name);
  say("status", pointless ? Result<void>() : how);
  const std::scoped_lock lock(mutex_);
  if (!how && !pointless) {
    plan_.failed(name, Clock::now(), std::uniform_real_distribution<double>(0, 1)(random_));
    return;
  }
  if (how && !wanted.is_null()) written_[name] = wanted;
  plan_.written(name, Clock::now());
  // Only once it was said that the volume is gone: it may have gone while that it is there was
  // said.
  if (volume || latest_[name]) return;
  latest_.erase(name);
  written_.erase(name);
  plan_.forget(name);
}

void ClusterLink::write_node() {
  const std::string& name = options_.node_name;
  const nlohmann::json bare{
      {"apiVersion", kApiVersion}, {"kind", "UblkNode"}, {"metadata", {{"name", name}}}};
  nlohmann::json wanted = bare;
  wanted["status"] = options_.node_facts();
  Result<void> how;
  // Now and then all the same: somebody may have deleted it.
  if (wanted != node_written_ || Clock::now() >= node_again_) {
    nlohmann::json timed = wanted;
    for (auto& condition : timed["status"]["conditions"]) {
      auto& [status, since] = node_conditions_[condition.value("type", "")];
      if (status != condition.value("status", "")) {
        status = condition.value("status", "");
        since = format_now();
      }
      condition["lastTransitionTime"] = since;
    }
    auto done = client_.apply(node_resource().path(name, "status"), timed, manager, cancel_);
    if (done.err() == ENOENT) {
      done = client_.apply(node_resource().path(name), bare, manager, cancel_);
      if (done) done = client_.apply(node_resource().path(name, "status"), timed, manager, cancel_);
    }
    if (!done) how = done.error();
    if (done) node_written_ = wanted;
    if (done) node_again_ = Clock::now() + jittered(node_write_every);
  }
  say("node_status", how);
  node_due_ = Clock::now() + jittered(how ? std::chrono::milliseconds(node_check_every) : 5s);
}

}  // namespace ublk_operator
