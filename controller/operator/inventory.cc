#include "controller/operator/inventory.h"

#include <algorithm>

namespace ublk_operator::controller {

namespace {

// Versions of one kind of objects grow (Kubernetes API concepts, "Resource versions"); they are
// decimal numbers without leading zeros.
bool older(const std::string& a, const std::string& b) {
  return a.size() != b.size() ? a.size() < b.size() : a < b;
}

void subtract(uint64_t& from, uint64_t what) { from -= std::min(from, what); }

}  // namespace

// --- volumes

Inventory::Names Inventory::volume_changed(const std::string& name,
                                           std::optional<VolumeRecord> volume) {
  const auto known = volumes_.find(name);
  if (!volume) {
    if (known == volumes_.end()) return {};
    drop(name);
    Names names{name};
    add_unbound(names);  // there may be space now
    return names;
  }
  if (known != volumes_.end() && known->second.assumed &&
      older(volume->resource_version, known->second.record.resource_version))
    return {};
  put(std::move(*volume), false);
  return {name};
}

void Inventory::assume(VolumeRecord volume) {
  const auto known = volumes_.find(volume.name);
  // Gone meanwhile, or the watch was quicker.
  if (known == volumes_.end() || known->second.record.uid != volume.uid ||
      older(volume.resource_version, known->second.record.resource_version))
    return;
  put(std::move(volume), true);
}

void Inventory::put(VolumeRecord volume, bool assumed) {
  drop(volume.name);
  load(volume, true);
  if (volume.node_name.empty() && !volume.deleting) unbound_.insert(volume.name);
  std::string name = volume.name;
  volumes_[std::move(name)] = {std::move(volume), assumed};
}

void Inventory::drop(const std::string& name) {
  const auto known = volumes_.find(name);
  if (known == volumes_.end()) return;
  load(known->second.record, false);
  unbound_.erase(name);
  volumes_.erase(known);
}

void Inventory::load(const VolumeRecord& volume, bool add) {
  if (volume.node_name.empty()) return;
  Load& load = loads_[volume.node_name];
  if (add)
    load.volumes.insert(volume.name);
  else
    load.volumes.erase(volume.name);
  if (!volume.pool.empty()) {
    auto& promised = load.pools[volume.pool];
    const uint64_t not_made = volume.made ? 0 : volume.size_bytes;
    auto& file = promised.files[volume.path];
    if (add) {
      promised.bytes += volume.size_bytes;
      promised.not_made_bytes += not_made;
      file.insert(volume.name);
    } else {
      subtract(promised.bytes, volume.size_bytes);
      subtract(promised.not_made_bytes, not_made);
      file.erase(volume.name);
      if (file.empty()) promised.files.erase(volume.path);
    }
  }
  if (load.volumes.empty()) loads_.erase(volume.node_name);
}

const VolumeRecord* Inventory::volume(const std::string& name) const {
  const auto known = volumes_.find(name);
  return known == volumes_.end() ? nullptr : &known->second.record;
}

Inventory::Names Inventory::all_volumes() const {
  Names names;
  names.reserve(volumes_.size());
  for (const auto& [name, kept] : volumes_) names.push_back(name);
  return names;
}

Inventory::Names Inventory::on_node(const std::string& node) const {
  const auto load = loads_.find(node);
  if (load == loads_.end()) return {};
  return {load->second.volumes.begin(), load->second.volumes.end()};
}

void Inventory::add_unbound(Names& names) const {
  names.insert(names.end(), unbound_.begin(), unbound_.end());
}

// --- nodes

Inventory::Names Inventory::node_changed(const std::string& name, std::optional<NodeRecord> node) {
  const auto known = nodes_.find(name);
  if (!node) {
    if (known == nodes_.end()) return {};
    nodes_.erase(known);
    Names names = on_node(name);
    add_unbound(names);  // the reason may be another
    return names;
  }
  if (known != nodes_.end() && known->second == *node) return {};
  Names names;
  if (known == nodes_.end()) names = on_node(name);
  nodes_[name] = std::move(*node);
  add_unbound(names);
  return names;
}

Inventory::Names Inventory::node_lease_changed(const std::string& node,
                                               std::optional<LeaseRecord> lease, Time now,
                                               WallTime wall) {
  if (!lease) {
    heartbeats_.erase(node);
  } else {
    const auto known = heartbeats_.find(node);
    Heartbeat beat;
    beat.seen_to_change =
        known != heartbeats_.end() && known->second.lease.version != lease->version;
    beat.looks_fresh = lease->renewed && wall - *lease->renewed < lease->duration;
    beat.changed_at = now;
    beat.lease = std::move(*lease);
    heartbeats_[node] = std::move(beat);
  }
  return leases_heard(now);
}

Inventory::Names Inventory::leases_heard(Time now) {
  // The silence was ours: nobody is blamed for it. Who was silent before it is so until it is heard
  // itself.
  if (heard_ && now - *heard_ > deaf_after)
    for (auto& [node, beat] : heartbeats_)
      if (life(node) != Life::silent) beat.changed_at = now;
  heard_ = now;
  return judge_all(now);
}

Inventory::Names Inventory::time_passed(Time now) { return judge_all(now); }

Life Inventory::judge(const Heartbeat& beat, Time now) const {
  const bool over = now - beat.changed_at >= beat.lease.duration;
  if (over) return Life::silent;
  return beat.seen_to_change || beat.looks_fresh ? Life::alive : Life::unsure;
}

Inventory::Names Inventory::judge_all(Time now) {
  const bool deaf = !heard_ || now - *heard_ > deaf_after;
  Names names;
  bool any = false;
  const auto set = [&](const std::string& node, Life life) {
    const auto known = lives_.find(node);
    if (known != lives_.end() && known->second == life) return;
    // Who was never heard of is silent already.
    const bool changed = known != lives_.end() || life != Life::silent;
    lives_[node] = life;
    if (!changed) return;
    any = true;
    const Names here = on_node(node);
    names.insert(names.end(), here.begin(), here.end());
  };
  for (const auto& [node, beat] : heartbeats_) {
    const Life life = judge(beat, now);
    if (life == Life::silent && deaf) continue;
    set(node, life);
  }
  for (auto it = lives_.begin(); it != lives_.end();) {
    if (heartbeats_.contains(it->first)) {
      ++it;
      continue;
    }
    const Names here = on_node(it->first);
    if (it->second != Life::silent) {
      any = true;
      names.insert(names.end(), here.begin(), here.end());
    }
    it = lives_.erase(it);
  }
  if (any) add_unbound(names);
  return names;
}

std::optional<Inventory::Time> Inventory::next_change(Time now) const {
  std::optional<Time> next;
  for (const auto& [node, beat] : heartbeats_) {
    if (life(node) == Life::silent) continue;
    const Time over = beat.changed_at + beat.lease.duration;
    if (over > now && (!next || over < *next)) next = over;
  }
  return next;
}

Life Inventory::life(const std::string& node) const {
  const auto known = lives_.find(node);
  return known == lives_.end() ? Life::silent : known->second;
}

bool Inventory::serves(const std::string& node) const {
  const auto known = nodes_.find(node);
  return known != nodes_.end() && known->second.ready && life(node) == Life::alive;
}

std::vector<NodeView> Inventory::views(const VolumeRecord& volume) const {
  std::vector<NodeView> views;
  views.reserve(nodes_.size());
  for (const auto& [name, node] : nodes_) {
    NodeView view{&node, life(name), 0, std::nullopt, ""};
    const auto load = loads_.find(name);
    const Load::Promised* promised = nullptr;
    if (load != loads_.end()) {
      view.volumes = load->second.volumes.size();
      const auto at = load->second.pools.find(volume.pool);
      if (at != load->second.pools.end()) promised = &at->second;
    }
    if (const auto pool = node.pools.find(volume.pool); pool != node.pools.end()) {
      view.pool = PoolView{pool->second, 0, 0};
      if (promised != nullptr) {
        view.pool->promised_bytes = promised->bytes;
        view.pool->not_made_bytes = promised->not_made_bytes;
        const auto file = promised->files.find(volume.path);
        if (file != promised->files.end()) view.same_file = *file->second.begin();
      }
    }
    views.push_back(std::move(view));
  }
  return views;
}

Inventory::Counts Inventory::counts() const {
  Counts counts;
  counts.volumes = volumes_.size();
  counts.unbound = unbound_.size();
  counts.nodes = nodes_.size();
  for (const auto& [node, load] : loads_)
    if (!nodes_.contains(node)) counts.orphaned += load.volumes.size();
  for (const auto& [name, node] : nodes_) {
    const bool silent = life(name) == Life::silent;
    counts.silent_nodes += silent ? 1 : 0;
    counts.not_ready_nodes += !silent && !node.ready ? 1 : 0;
  }
  return counts;
}

}  // namespace ublk_operator::controller
