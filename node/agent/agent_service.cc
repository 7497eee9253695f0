// What people ask of the agent (VolumeService): the other half of agent.h, beside the loop of
// agent.cc.
#include <sys/utsname.h>

#include <cerrno>
#include <condition_variable>

#include "common/api/quantity.h"
#include "common/base/strings.h"
#include "node/agent/agent.h"
#include "node/agent/manifest_request.h"

namespace ublk_operator {

using namespace std::chrono_literals;

namespace {

constexpr auto stats_timeout = 500ms;
constexpr auto stop_timeout = 30s;

Error no_such_volume(const std::string& name) {
  return {ENOENT, "get", "volume " + name, "no such volume; `ublkctl get` lists those there are"};
}

const Condition* condition_of(const Volume& volume, const char* type) {
  return find_condition(volume.status.conditions, type);
}

bool is_true(const Condition* condition) {
  return condition != nullptr && condition->status == ConditionStatus::yes;
}

bool has_stopped(const Volume& volume) {
  const auto* ready = condition_of(volume, "Ready");
  return volume.status.state.empty() && ready != nullptr &&
         ready->reason == reconcile::to_string(reconcile::Why::stopped);
}

}  // namespace

std::vector<Volume> Agent::list() {
  const std::scoped_lock lock(board_mutex_);
  std::vector<Volume> volumes;
  for (const auto& [name, volume] : board_) volumes.push_back(volume);
  return volumes;
}

Result<Volume> Agent::get(const std::string& name) {
  // A finished worker is joined a moment after the watchers heard that its volume is gone. Who asks
  // on their word is told the same: nothing wakes him again.
  auto worker = find(name);
  if (!worker || worker->finished()) return no_such_volume(name);
  return worker->describe(stats_timeout);
}

std::vector<VolumeEvent> Agent::events(const std::string& volume) { return events_.list(volume); }

Result<std::vector<std::string>> Agent::apply(const std::string& manifest) {
  auto requested = read_request(manifest);
  if (!requested) return std::move(requested).error();
  std::vector<std::string> names;
  const std::scoped_lock lock(source_mutex_);
  if (!source_) return Error{EAGAIN, "apply", "agent", "it is still starting; try again"};
  for (const auto& [name, text] : *requested) {
    std::optional<SourceIdentity> present;
    {
      const std::scoped_lock workers(workers_mutex_);
      if (auto it = accepted_.find(name); it != accepted_.end()) present = it->second.source;
    }
    if (auto written = source_->write_manifest(name, text, present); !written) {
      Error error = std::move(written).error();
      if (!names.empty()) error.detail += "; applied before it: " + join(names, ", ");
      return error;
    }
    names.push_back(name);
  }
  return names;
}

Result<void> Agent::remove(const std::string& name) {
  auto worker = find(name);
  if (!worker) return no_such_volume(name);
  SourceIdentity present;
  {
    const std::scoped_lock lock(workers_mutex_);
    present = accepted_[name].source;
  }
  const std::scoped_lock lock(source_mutex_);
  if (!source_) return Error{EAGAIN, "delete", "agent", "it is still starting; try again"};
  auto removed = source_->remove_manifest(name, present);
  if (!removed && removed.err() != ENOENT) return removed;
  // A person said so: that counts also when the file, or its folder, had vanished or was replaced
  // before.
  worker->set_removed();
  const std::scoped_lock workers(workers_mutex_);
  told_.erase(name);  // what the source says from now on takes that back
  return {};
}

Result<void> Agent::stop(const std::string& name, bool stopped, bool force) {
  auto worker = find(name);
  if (!worker) return no_such_volume(name);
  if (!stopped) {
    worker->set_stopped(false, false);
    return {};
  }
  struct Outcome {
    std::mutex mutex;
    std::condition_variable changed;
    bool gone = false;
    std::string users;  // in use
  };
  auto outcome = std::make_shared<Outcome>();
  {
    const std::scoped_lock lock(board_mutex_);
    const auto it = board_.find(name);
    if (it != board_.end() && is_true(condition_of(it->second, "Paused")))
      return Error{EBUSY, "stop", "volume " + name,
                   "it is paused, so nothing is stopped; `ublkctl resume " + name + "` first"};
    if (it != board_.end() && has_stopped(it->second)) return {};
  }
  worker->set_stopped(true, force);
  const uint64_t id =
      watch([outcome, name](const std::string& changed, const std::optional<Volume>& volume) {
        if (changed != name) return;
        const std::scoped_lock lock(outcome->mutex);
        const auto* in_use = volume ? condition_of(*volume, "InUse") : nullptr;
        outcome->gone = !volume || has_stopped(*volume);
        outcome->users = is_true(in_use) ? in_use->message : std::string();
        outcome->changed.notify_all();
      });
  bool gone = false;
  std::string users;
  {
    std::unique_lock lock(outcome->mutex);
    if (worker->finished()) outcome->gone = true;  // perhaps before the watch began
    outcome->changed.wait_for(lock, stop_timeout,
                              [&] { return outcome->gone || (!force && !outcome->users.empty()); });
    gone = outcome->gone;
    users = outcome->users;
  }
  unwatch(id);
  if (gone) return {};
  if (!force) {
    // Nothing was cut off, and nothing lies in wait for the last user.
    worker->set_stopped(false, false);
    if (!users.empty())
      return Error{EBUSY, "stop", "volume " + name, users + "; --force cuts its users off"};
  }
  return Error{ETIMEDOUT, "stop", "volume " + name,
               "not stopped yet; `ublkctl describe " + name + "` says why"};
}

Result<void> Agent::recover(const std::string& name, bool replace_server) {
  auto worker = find(name);
  if (!worker) return no_such_volume(name);
  worker->recover(replace_server);
  return {};
}

Result<void> Agent::pause(const std::string& name, bool paused) {
  auto worker = find(name);
  if (!worker) return no_such_volume(name);
  worker->set_paused(paused);
  return {};
}

nlohmann::json Agent::support_bundle() {
  nlohmann::json bundle;
  nlohmann::json pools = nlohmann::json::object();
  for (const auto& [name, pool] : options_.pools) pools[name] = pool.path;
  utsname kernel{};
  ::uname(&kernel);
  bundle["kernel"] = std::string(kernel.release) + " " + kernel.version;
  bundle["kernelFeatures"] = flags_to_string(driver_.features());
  bundle["time"] = format_now();
  bundle["options"] = {{"volumesDir", options_.open_source ? "" : options_.volumes_dir},
                       {"stateDir", options_.state_dir},
                       {"spawnerSocket", options_.spawner_socket},
                       {"serverProgram", options_.server_program},
                       {"pools", std::move(pools)}};
  bundle["spawnerConnected"] = pool_->connected();
  bundle["volumes"] = nlohmann::json::array();
  for (const auto& volume : list()) {
    bundle["volumes"].push_back(to_json(volume));
    if (auto lease = store_->load_lease(volume.metadata.name))
      bundle["leases"][volume.metadata.name] = {
          {"device", lease->device ? nlohmann::json(*lease->device) : nlohmann::json()},
          {"generation", lease->generation},
          {"step", to_string(lease->step)},
          {"holderPid", lease->holder_pid},
          {"recoveryBegun", lease->recovery_begun},
          {"staleMapping", lease->stale_mapping}};
  }
  bundle["events"] = nlohmann::json::array();
  for (const auto& event : events_.list("")) bundle["events"].push_back(to_json(event));
  return bundle;
}

uint64_t Agent::watch(OnChange on_change) {
  const std::scoped_lock lock(board_mutex_);
  for (const auto& [name, volume] : board_) on_change(name, volume);
  const uint64_t id = next_watcher_++;
  watchers_.emplace(id, std::move(on_change));
  return id;
}

void Agent::unwatch(uint64_t id) {
  const std::scoped_lock lock(board_mutex_);
  watchers_.erase(id);
}

}  // namespace ublk_operator
