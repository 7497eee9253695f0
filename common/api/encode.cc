// to_json and to_yaml of decode.h.
#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>
#include <utility>

#include "common/api/decode.h"
#include "common/api/quantity.h"
#include "common/api/tree.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {
namespace {

using Json = nlohmann::json;

std::string octal(uint32_t mode) {
  std::array<char, 16> text{};
  std::snprintf(text.data(), text.size(), "%04o", mode);
  return text.data();
}

Json metadata_json(const Metadata& metadata) {
  Json json = {{"name", metadata.name}, {"generation", metadata.generation}};
  if (!metadata.uid.empty()) json["uid"] = metadata.uid;
  if (!metadata.labels.empty()) json["labels"] = metadata.labels;
  if (!metadata.annotations.empty()) json["annotations"] = metadata.annotations;
  return json;
}

Json backend_json(const BackendSpec& backend) {
  const auto* file = std::get_if<FileBackendSpec>(&backend);
  if (file == nullptr) return {{"null", Json::object()}};
  return {{"file",
           {{"pool", file->pool},
            {"path", file->path},
            {"provisioning", to_string(file->provisioning)},
            {"directIO", file->direct_io}}}};
}

Json spec_json(const VolumeSpec& spec) {
  Json recovery = {{"mode", to_string(spec.recovery.mode)},
                   {"onDeadline", to_string(spec.recovery.on_deadline)},
                   {"maxRestarts", spec.recovery.max_restarts},
                   {"backOff",
                    {{"initial", format_duration(spec.recovery.back_off.initial)},
                     {"max", format_duration(spec.recovery.back_off.maximum)}}}};
  if (spec.recovery.deadline) recovery["deadline"] = format_duration(*spec.recovery.deadline);
  Json json = {{"size", format_quantity(spec.size_bytes)},
               {"recovery", std::move(recovery)},
               {"backend", backend_json(spec.backend)},
               {"faultInjection", {{"latency", format_duration(spec.fault_injection.latency)}}},
               {"queues", spec.queues},
               {"queueDepth", spec.queue_depth},
               {"maxIOSize", format_quantity(spec.max_io_bytes)},
               {"logicalBlockSize", spec.logical_block_bytes},
               {"readOnly", spec.read_only},
               {"running", spec.running},
               {"device",
                {{"mode", octal(spec.device.mode)},
                 {"owner", spec.device.owner},
                 {"group", spec.device.group}}},
               {"reclaimPolicy", to_string(spec.reclaim_policy)}};
  if (!spec.node_name.empty()) json["nodeName"] = spec.node_name;
  return json;
}

// What is not there is left out, as in Kubernetes; counters are always there.
Json status_json(const VolumeStatus& status) {
  Json json = {{"observedGeneration", status.observed_generation},
               {"conditions", Json::array()},
               {"leaseGeneration", status.lease_generation},
               {"recoveryCount", status.recovery_count}};
  for (const Condition& condition : status.conditions) {
    json["conditions"].push_back(to_json(condition));
  }
  if (status.device_id) json["deviceID"] = *status.device_id;
  if (!status.device_path.empty()) json["devicePath"] = status.device_path;
  if (!status.link_path.empty()) json["linkPath"] = status.link_path;
  if (!status.state.empty()) json["state"] = status.state;
  if (status.server_pid) json["serverPID"] = *status.server_pid;
  Json last = Json::object();
  if (status.last_recovery_duration) {
    last["duration"] = format_duration_micro(*status.last_recovery_duration);
  }
  if (!status.last_recovery_reason.empty()) last["reason"] = status.last_recovery_reason;
  if (!status.last_recovery_time.empty()) last["time"] = status.last_recovery_time;
  if (!last.empty()) json["lastRecovery"] = std::move(last);
  if (status.size_bytes != 0) json["size"] = format_quantity(status.size_bytes);
  for (const auto& [operation, counters] : status.io) {
    json["io"][operation] = {{"operations", counters.operations},
                             {"bytes", counters.bytes},
                             {"errors", counters.errors}};
  }
  for (const auto& [name, count] : status.io_errors) json["ioErrors"][name] = count;
  return json;
}

// The order in which people expect fields; others follow by name. One list serves every level,
// because no two levels disagree.
size_t rank(const std::string& key) {
  static constexpr auto order = std::to_array<std::string_view>({"apiVersion",
                                                                 "kind",
                                                                 "metadata",
                                                                 "spec",
                                                                 "status",
                                                                 "name",
                                                                 "namespace",
                                                                 "uid",
                                                                 "generation",
                                                                 "resourceVersion",
                                                                 "labels",
                                                                 "annotations",
                                                                 "volume",
                                                                 "nodeName",
                                                                 "size",
                                                                 "mode",
                                                                 "deadline",
                                                                 "onDeadline",
                                                                 "maxRestarts",
                                                                 "recovery",
                                                                 "backOff",
                                                                 "initial",
                                                                 "max",
                                                                 "backend",
                                                                 "pool",
                                                                 "path",
                                                                 "provisioning",
                                                                 "directIO",
                                                                 "faultInjection",
                                                                 "latency",
                                                                 "queues",
                                                                 "queueDepth",
                                                                 "maxIOSize",
                                                                 "logicalBlockSize",
                                                                 "readOnly",
                                                                 "running",
                                                                 "device",
                                                                 "owner",
                                                                 "group",
                                                                 "reclaimPolicy",
                                                                 "type",
                                                                 "reason",
                                                                 "message",
                                                                 "observedGeneration",
                                                                 "conditions",
                                                                 "deviceID",
                                                                 "devicePath",
                                                                 "linkPath",
                                                                 "state",
                                                                 "serverPID",
                                                                 "leaseGeneration",
                                                                 "recoveryCount",
                                                                 "lastRecovery"});
  return static_cast<size_t>(std::find(order.begin(), order.end(), key) - order.begin());
}

bool is_condition(const Json& object) {
  return object.contains("type") && object.contains("status");
}

std::vector<std::pair<std::string, const Json*>> ordered(const Json& object) {
  std::vector<std::pair<std::string, const Json*>> fields;
  for (const auto& [key, value] : object.items()) fields.emplace_back(key, &value);
  // A condition begins with its type although `status` ranks high at the top.
  const bool condition = is_condition(object);
  const auto place = [&](const std::string& key) {
    return condition && key == "type" ? size_t{0} : rank(key) + 1;
  };
  std::sort(fields.begin(), fields.end(), [&](const auto& a, const auto& b) {
    return std::pair(place(a.first), a.first) < std::pair(place(b.first), b.first);
  });
  return fields;
}

// Without quotes only what every YAML reader takes for the same string.
std::string yaml_string(const std::string& text) {
  constexpr std::string_view letters =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/";
  constexpr std::string_view inside =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/.-";
  const bool plain = !text.empty() && letters.find(text[0]) != std::string_view::npos &&
                     text.find_first_not_of(inside) == std::string::npos && !is_number_word(text) &&
                     !is_bool_word(text) && !is_null_word(text) &&
                     text.find_first_not_of("0123456789-_.") != std::string::npos;
  if (plain) return text;
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

void write_yaml(const Json& json, size_t indent, bool in_list, std::string& out);

// What follows "key:" or "- ".
void write_value(const Json& json, size_t indent, std::string& out) {  // NOLINT(misc-no-recursion)
  const bool collection = json.is_object() || json.is_array();
  if (collection && !json.empty()) {
    out += "\n";
    // Lists stand in the column of their key, as kubectl prints them.
    write_yaml(json, json.is_array() ? indent : indent + 2, false, out);
    return;
  }
  out += " ";
  if (json.is_object()) {
    out += "{}";
  } else if (json.is_array()) {
    out += "[]";
  } else if (json.is_string()) {
    out += yaml_string(json.get_ref<const std::string&>());
  } else {
    out += json.dump();
  }
  out += "\n";
}

void write_yaml(const Json& json, size_t indent, bool in_list,  // NOLINT(misc-no-recursion)
                std::string& out) {
  if (json.is_object()) {
    bool first = true;
    for (const auto& [key, value] : ordered(json)) {
      if (!first || !in_list) out += std::string(indent, ' ');
      first = false;
      out += yaml_string(key) + ":";
      write_value(*value, indent, out);
    }
    return;
  }
  for (const auto& item : json) {
    out += std::string(indent, ' ') + "-";
    if (item.is_object() && !item.empty()) {
      out += " ";
      write_yaml(item, indent + 2, true, out);
    } else {
      write_value(item, indent + 2, out);
    }
  }
}

}  // namespace

nlohmann::json to_json(const Condition& condition) {
  return {{"type", condition.type},
          {"status", to_string(condition.status)},
          {"reason", condition.reason},
          {"message", condition.message},
          {"observedGeneration", condition.observed_generation},
          {"lastTransitionTime", condition.last_transition_time}};
}

nlohmann::json to_json(const Volume& volume) {
  Json json = {{"apiVersion", kApiVersion},
               {"kind", kVolumeKind},
               {"metadata", metadata_json(volume.metadata)},
               {"status", status_json(volume.status)}};
  // No valid spec has size 0: such a volume is known by name only, because its manifest never was
  // right, and inventing a spec for it would be a lie.
  if (volume.spec.size_bytes != 0) json["spec"] = spec_json(volume.spec);
  return json;
}

nlohmann::json to_json(const VolumeEvent& event) {
  return {{"volume", event.volume},
          {"type", event.warning ? "Warning" : "Normal"},
          {"reason", event.reason},
          {"message", event.message},
          {"firstTimestamp", event.first_time},
          {"lastTimestamp", event.last_time},
          {"count", event.count}};
}

std::string to_yaml(const nlohmann::json& json) {
  std::string out;
  if ((json.is_object() || json.is_array()) && !json.empty()) {
    write_yaml(json, 0, false, out);
  } else {
    write_value(json, 0, out);
    out.erase(0, 1);
  }
  return out;
}

}  // namespace ublk_operator
