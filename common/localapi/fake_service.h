// FakeVolumeService: volumes in memory, for tests of what carries or uses a VolumeService. It keeps
// the contract's errors (ENOENT, EINVAL for a manifest that does not decode, EBUSY while in use and
// not forced) and tells watchers.
// Threads  every method from any thread, as the contract says. on_change is called with the lock
//          held, so unwatch() waits for one that is under way; on_change must not call back.
#pragma once
#include <cerrno>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/api/decode.h"
#include "common/localapi/service.h"

namespace ublk_operator {

class FakeVolumeService : public VolumeService {
 public:
  // ---- what a test arranges and looks at ----
  void put(const Volume& volume) {
    const std::lock_guard lock(mutex_);
    volumes_[volume.metadata.name] = volume;
    tell(volume.metadata.name);
  }
  void change(const std::string& name, const std::function<void(Volume&)>& edit) {
    const std::lock_guard lock(mutex_);
    edit(volumes_.at(name));
    tell(name);
  }
  void erase(const std::string& name) {
    const std::lock_guard lock(mutex_);
    volumes_.erase(name);
    tell(name);
  }
  void add_event(const VolumeEvent& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(event);
    tell(event.volume);
  }
  // stop and remove: in use until told otherwise. A removed one that is in use stays.
  void set_in_use(const std::string& name, bool in_use) {
    const std::lock_guard lock(mutex_);
    if (in_use) {
      in_use_.insert(name);
    } else {
      in_use_.erase(name);
    }
  }
  // The next calls of `method` ("get", "apply", ...) fail so.
  void fail(const std::string& method, const Error& error) {
    const std::lock_guard lock(mutex_);
    failures_.insert_or_assign(method, error);
  }
  void set_bundle(nlohmann::json bundle) {
    const std::lock_guard lock(mutex_);
    bundle_ = std::move(bundle);
  }
  // Called at the start of each method, without the lock: to hold a call while a test looks.
  void set_on_call(std::function<void(const std::string& method)> hook) {
    const std::lock_guard lock(mutex_);
    on_call_ = std::move(hook);
  }
  // "stop a stopped=true force=false", in order.
  [[nodiscard]] std::vector<std::string> calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  [[nodiscard]] std::string last_manifest() const {
    const std::lock_guard lock(mutex_);
    return last_manifest_;
  }
  [[nodiscard]] size_t watchers() const {
    const std::lock_guard lock(mutex_);
    return watchers_.size();
  }

  // ---- the service ----
  [[nodiscard]] std::vector<Volume> list() override {
    record("list", "");
    const std::lock_guard lock(mutex_);
    std::vector<Volume> volumes;
    for (const auto& [name, volume] : volumes_) volumes.push_back(volume);
    return volumes;
  }
  [[nodiscard]] Result<Volume> get(const std::string& name) override {
    if (auto ready = find("get", name, ""); !ready) return ready.error();
    const std::lock_guard lock(mutex_);
    return volumes_.at(name);
  }
  [[nodiscard]] std::vector<VolumeEvent> events(const std::string& volume) override {
    record("events", volume);
    const std::lock_guard lock(mutex_);
    std::vector<VolumeEvent> events;
    for (const VolumeEvent& event : events_) {
      if (volume.empty() || event.volume == volume) events.push_back(event);
    }
    return events;
  }
  [[nodiscard]] Result<std::vector<std::string>> apply(const std::string& manifest) override {
    record("apply", "");
    if (auto failure = failure_of("apply")) return *failure;
    const DecodedManifest decoded = decode_manifest(manifest, "manifest");
    if (!decoded.ok()) return Error{EINVAL, "apply", "manifest", "it does not decode"};
    const std::lock_guard lock(mutex_);
    last_manifest_ = manifest;
    std::vector<std::string> names;
    for (const DecodedDocument& document : decoded.documents) {
      names.push_back(document.name);
      volumes_[document.name] = *document.volume;
      tell(document.name);
    }
    return names;
  }
  [[nodiscard]] Result<void> remove(const std::string& name) override {
    if (auto ready = find("remove", name, ""); !ready) return ready;
    const std::lock_guard lock(mutex_);
    if (in_use_.contains(name)) return {};
    volumes_.erase(name);
    tell(name);
    return {};
  }
  [[nodiscard]] Result<void> stop(const std::string& name, bool stopped, bool force) override {
    if (auto ready = find("stop", name, flag(" stopped=", stopped) + flag(" force=", force));
        !ready)
      return ready;
    const std::lock_guard lock(mutex_);
    if (stopped && !force && in_use_.contains(name))
      return Error{EBUSY, "stop", "volume " + name, "the device is open by mount"};
    volumes_.at(name).status.state = stopped ? "" : "LIVE";
    tell(name);
    return {};
  }
  [[nodiscard]] Result<void> recover(const std::string& name, bool replace_server) override {
    return find("recover", name, flag(" replace_server=", replace_server));
  }
  [[nodiscard]] Result<void> pause(const std::string& name, bool paused) override {
    return find("pause", name, flag(" paused=", paused));
  }
  [[nodiscard]] nlohmann::json support_bundle() override {
    record("support_bundle", "");
    const std::lock_guard lock(mutex_);
    return bundle_;
  }
  [[nodiscard]] uint64_t watch(OnChange on_change) override {
    record("watch", "");
    const std::lock_guard lock(mutex_);
    const uint64_t id = next_watcher_++;
    const auto& watcher = watchers_.emplace(id, std::move(on_change)).first->second;
    for (const auto& [name, volume] : volumes_) watcher(name, volume);
    return id;
  }
  void unwatch(uint64_t id) override {
    const std::lock_guard lock(mutex_);
    watchers_.erase(id);
  }

 private:
  static std::string flag(const char* name, bool value) {
    return std::string(name) + (value ? "true" : "false");
  }
  void record(const std::string& method, const std::string& rest) {
    std::function<void(const std::string&)> hook;
    {
      const std::lock_guard lock(mutex_);
      calls_.push_back(rest.empty() ? method : method + " " + rest);
      hook = on_call_;
    }
    if (hook) hook(method);
  }
  std::optional<Error> failure_of(const std::string& method) const {
    const std::lock_guard lock(mutex_);
    const auto found = failures_.find(method);
    if (found == failures_.end()) return std::nullopt;
    return found->second;
  }
  Result<void> find(const std::string& method, const std::string& name, const std::string& rest) {
    record(method, name + rest);
    if (auto failure = failure_of(method)) return *failure;
    const std::lock_guard lock(mutex_);
    if (!volumes_.contains(name))
      return Error{ENOENT, method, "volume " + name,
                   "there is no such volume; 'ublkctl get' lists what there is"};
    return {};
  }
  void tell(const std::string& name) const {  // with the lock
    const auto found = volumes_.find(name);
    const auto volume =
        found == volumes_.end() ? std::nullopt : std::optional<Volume>(found->second);
    for (const auto& [id, on_change] : watchers_) on_change(name, volume);
  }

  mutable std::mutex mutex_;
  std::map<std::string, Volume> volumes_;
  std::set<std::string> in_use_;
  std::vector<VolumeEvent> events_;
  std::map<std::string, Error> failures_;
  nlohmann::json bundle_ = nlohmann::json::object();
  std::function<void(const std::string&)> on_call_;
  std::vector<std::string> calls_;
  std::string last_manifest_;
  std::map<uint64_t, OnChange> watchers_;
  uint64_t next_watcher_ = 1;
};

}  // namespace ublk_operator
