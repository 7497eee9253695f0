#include "controller/operator/startup_taints.h"

#include <cerrno>

#include "controller/operator/records.h"

namespace ublk_operator::controller {

namespace {

using nlohmann::json;

kube::Resource nodes() { return {"", "v1", "nodes", ""}; }

kube::Informer::Options informer_options() {
  kube::Informer::Options options;
  options.page_limit = 100;  // a node is 10 KiB and more
  options.back_off_max = std::chrono::seconds(3);
  return options;
}

}  // namespace

std::optional<json> untaint_patch(const json& node, const std::string& key) {
  const json::json_pointer where("/spec/taints");
  if (!node.contains(where) || !node[where].is_array()) return std::nullopt;
  json patch = json::array();
  // From the end, so that what is still to be removed keeps its place.
  for (size_t i = node[where].size(); i-- > 0;) {
    const json& taint = node[where][i];
    if (!taint.is_object() || taint.value("key", "") != key) continue;
    const std::string path = "/spec/taints/" + std::to_string(i);
    patch.push_back({{"op", "test"}, {"path", path}, {"value", taint}});
    patch.push_back({{"op", "remove"}, {"path", path}});
  }
  if (patch.empty()) return std::nullopt;
  return patch;
}

StartupTaints::StartupTaints(const std::shared_ptr<kube::Transport>& transport, std::string key,
                             MayFree may_free, metrics::Registry& registry, Logger log)
    : key_(std::move(key)),
      may_free_(std::move(may_free)),
      log_(std::move(log)),
      client_(transport),
      freed_(registry.counter("ublk_controller_untainted_nodes_total",
                              "Nodes that the start-up taint was taken off.")),
      nodes_(
          transport, nodes(), "", informer_options(),
          [this](const std::string& name, const json* object) { node_changed(name, object); },
          [] {}, log_) {}

StartupTaints::~StartupTaints() { stop(); }

void StartupTaints::start() {
  nodes_.start();
  worker_ = std::thread([this] { run(); });
}

void StartupTaints::stop() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  cancel_.cancel();
  if (worker_.joinable()) worker_.join();
}

size_t StartupTaints::tainted() const {
  const std::scoped_lock lock(mutex_);
  return tainted_.size();
}

void StartupTaints::node_changed(const std::string& name, const json* object) {
  auto patch = object != nullptr ? untaint_patch(*object, key_) : std::nullopt;
  const std::scoped_lock lock(mutex_);
  if (!patch) {
    tainted_.erase(name);
    return;
  }
  Tainted& known = tainted_[name];
  const json& metadata = object->at("metadata");
  const std::string uid = metadata.value("uid", "");
  if (known.uid != uid) known = {uid, {}, false};
  // Nodes change often; only what was waited for makes work.
  if (known.patch == *patch) return;
  known.patch = std::move(*patch);
  queue_.add(name, Clock::now());
  changed_.notify_all();
}

void StartupTaints::renewed(const std::string& node) {
  const std::scoped_lock lock(mutex_);
  const auto known = tainted_.find(node);
  if (known == tainted_.end()) return;
  known->second.renewed = true;
  queue_.add(node, Clock::now());
  changed_.notify_all();
}

void StartupTaints::look(const std::string& node) {
  const std::scoped_lock lock(mutex_);
  if (!tainted_.contains(node)) return;
  queue_.add(node, Clock::now());
  changed_.notify_all();
}

void StartupTaints::look_all() {
  const std::scoped_lock lock(mutex_);
  for (const auto& [name, node] : tainted_) queue_.add(name, Clock::now());
  changed_.notify_all();
}

void StartupTaints::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto name = queue_.take(Clock::now());
    if (!name) {
      if (const auto due = queue_.next())
        changed_.wait_until(lock, *due);
      else
        changed_.wait(lock);
      continue;
    }
    const auto known = tainted_.find(*name);
    if (known == tainted_.end() || !known->second.renewed) {
      queue_.done(*name);
      continue;
    }
    const json patch = known->second.patch;
    lock.unlock();
    const bool settled = !may_free_(*name) || free(*name, patch);
    lock.lock();
    if (settled)
      queue_.done(*name);
    else
      queue_.failed(*name, Clock::now(), std::uniform_real_distribution<double>(0, 1)(random_));
  }
}

bool StartupTaints::free(const std::string& name, const json& patch) {
  const auto written = client_.json_patch(nodes().path(name), patch, kFieldManager, cancel_);
  if (written) {
    freed_.add();
    log_->info("node={} operation=untaint taint={}", name, key_);
    return true;
  }
  // Gone, or we are to stop.
  if (written.err() == ENOENT || written.err() == ECANCELED) return true;
  log_->warn("node={} operation=untaint taint={} error=\"{}\" retry=true", name, key_,
             written.error().to_string());
  return false;
}

}  // namespace ublk_operator::controller
