#include "controller/operator/records.h"

#include <algorithm>
#include <cctype>
#include <ctime>

#include "common/api/quantity.h"
#include "common/kube/lease.h"
#include "nlohmann/json.hpp"

namespace ublk_operator::controller {

namespace {

using nlohmann::json;

const json& at(const json& object, const char* field) {
  static const json none;
  const auto found = object.is_object() ? object.find(field) : object.end();
  return object.is_object() && found != object.end() ? *found : none;
}

std::string text(const json& object, const char* field, const std::string& otherwise = "") {
  const json& value = at(object, field);
  return value.is_string() ? value.get<std::string>() : otherwise;
}

std::optional<uint64_t> number(const json& object, const char* field) {
  const json& value = at(object, field);
  if (!value.is_number_integer() || value.get<int64_t>() < 0) return std::nullopt;
  return value.get<uint64_t>();
}

// A string or a number.
Result<uint64_t> quantity(const json& value) {
  if (value.is_string()) return parse_quantity(value.get_ref<const std::string&>());
  if (value.is_number_integer() && value.get<int64_t>() >= 0) return value.get<uint64_t>();
  return Error{EINVAL, "parse", "quantity", "is not a quantity"};
}

ConditionStatus status_of(const std::string& status) {
  if (status == "True") return ConditionStatus::yes;
  return status == "False" ? ConditionStatus::no : ConditionStatus::unknown;
}

std::optional<Condition> condition(const json& conditions, const std::string& type) {
  if (!conditions.is_array()) return std::nullopt;
  for (const json& one : conditions) {
    if (text(one, "type") != type) continue;
    return Condition{type,
                     status_of(text(one, "status")),
                     text(one, "reason"),
                     text(one, "message"),
                     static_cast<int64_t>(number(one, "observedGeneration").value_or(0)),
                     text(one, "lastTransitionTime")};
  }
  return std::nullopt;
}

void read_metadata(const json& metadata, VolumeRecord& volume) {
  volume.name = text(metadata, "name");
  volume.uid = text(metadata, "uid");
  volume.resource_version = text(metadata, "resourceVersion");
  volume.generation = static_cast<int64_t>(number(metadata, "generation").value_or(0));
  volume.deleting = !text(metadata, "deletionTimestamp").empty();
  for (const json& finalizer : at(metadata, "finalizers"))
    if (finalizer.is_string()) volume.finalizers.push_back(finalizer.get<std::string>());
  volume.force_release = text(at(metadata, "annotations"), kForceRelease);
}

void read_spec(const json& spec, VolumeRecord& volume) {
  volume.node_name = text(spec, "nodeName");
  if (auto size = quantity(at(spec, "size")))
    volume.size_bytes = *size;
  else
    volume.unreadable = "spec.size " + size.error().detail;
  volume.mode = text(at(spec, "recovery"), "mode", volume.mode);
  if (const json& file = at(at(spec, "backend"), "file"); file.is_object()) {
    volume.pool = text(file, "pool", "default");
    volume.path = text(file, "path");
  }
  volume.queues = static_cast<uint32_t>(number(spec, "queues").value_or(volume.queues));
  volume.queue_depth =
      static_cast<uint32_t>(number(spec, "queueDepth").value_or(volume.queue_depth));
}

// "2026-01-02T03:04:05.678901Z"; a whole second is exact enough.
std::optional<std::chrono::system_clock::time_point> read_time(const std::string& time) {
  std::tm parts{};
  if (time.empty() || ::strptime(time.c_str(), "%Y-%m-%dT%H:%M:%S", &parts) == nullptr)
    return std::nullopt;
  return std::chrono::system_clock::from_time_t(::timegm(&parts));
}

}  // namespace

bool VolumeRecord::has_finalizer() const {
  return std::find(finalizers.begin(), finalizers.end(), kFinalizer) != finalizers.end();
}

VolumeRecord read_volume(const json& object) {
  VolumeRecord volume;
  read_metadata(at(object, "metadata"), volume);
  read_spec(at(object, "spec"), volume);
  const json& status = at(object, "status");
  volume.bound = condition(at(status, "conditions"), "Bound");
  volume.ready = condition(at(status, "conditions"), "Ready");
  const auto removed = condition(at(status, "conditions"), "DeviceRemoved");
  volume.device_removed = removed && removed->status == ConditionStatus::yes;
  volume.made = status.is_object() && (status.contains("deviceID") || status.contains("size"));
  return volume;
}

NodeRecord read_node(const json& object) {
  NodeRecord node;
  node.name = text(at(object, "metadata"), "name");
  const json& status = at(object, "status");
  for (const json& pool : at(status, "pools")) {
    const auto capacity = quantity(at(pool, "capacity"));
    const auto free = quantity(at(pool, "free"));
    const std::string name = text(pool, "name");
    if (!name.empty()) node.pools[name] = {capacity ? *capacity : 0, free ? *free : 0};
  }
  for (const json& mode : at(status, "modes"))
    if (mode.is_string()) node.modes.insert(mode.get<std::string>());
  const json& limits = at(status, "limits");
  node.volumes_max = number(limits, "volumes");
  node.queues_max = number(limits, "queues");
  node.queue_depth_max = number(limits, "queueDepth");
  const auto ready = condition(at(status, "conditions"), "Ready");
  node.ready = ready && ready->status == ConditionStatus::yes;
  node.ready_message = ready ? ready->message : "it has not said so yet";
  return node;
}

LeaseRecord read_node_lease(const json& object) {
  const auto spec = kube::read_lease(object);
  LeaseRecord lease;
  lease.version = text(at(object, "metadata"), "resourceVersion");
  if (spec.duration.count() > 0) lease.duration = spec.duration;
  lease.renewed = read_time(spec.renew_time);
  return lease;
}

}  // namespace ublk_operator::controller
