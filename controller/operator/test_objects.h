// Objects and records as the controller's tests make them.
#pragma once
#include <string>

#include "controller/operator/inventory.h"
#include "nlohmann/json.hpp"

namespace ublk_operator::controller::testing {

constexpr uint64_t GiB = uint64_t{1} << 30;

inline VolumeRecord volume(const std::string& name, const std::string& node = "") {
  VolumeRecord record;
  record.name = name;
  record.uid = "uid-" + name;
  record.resource_version = "1";
  record.generation = 1;
  record.size_bytes = GiB;
  record.pool = "default";
  record.path = name + ".img";
  record.node_name = node;
  if (!node.empty()) record.finalizers = {kFinalizer};
  return record;
}

inline NodeRecord node(const std::string& name, uint64_t capacity = 10 * GiB,
                       uint64_t free = 10 * GiB) {
  NodeRecord record;
  record.name = name;
  record.pools["default"] = {capacity, free};
  record.modes = {"None", "Queue", "Reissue", "FailIO"};
  record.ready = true;
  return record;
}

inline nlohmann::json volume_json(const std::string& name, const std::string& node = "") {
  nlohmann::json object{
      {"apiVersion", "ublk.dev/v1alpha1"},
      {"kind", "UblkVolume"},
      {"metadata", {{"name", name}, {"generation", 1}}},
      {"spec", {{"size", "1Gi"}, {"backend", {{"file", {{"path", name + ".img"}}}}}}}};
  if (!node.empty()) object["spec"]["nodeName"] = node;
  return object;
}

inline nlohmann::json node_json(const std::string& name) {
  return {{"apiVersion", "ublk.dev/v1alpha1"},
          {"kind", "UblkNode"},
          {"metadata", {{"name", name}}},
          {"status",
           {{"modes", {"Queue", "Reissue", "FailIO"}},
            {"limits", {{"volumes", 1024}, {"queues", 64}, {"queueDepth", 4096}}},
            {"pools", {{{"name", "default"}, {"capacity", "10Gi"}, {"free", "9Gi"}}}},
            {"conditions", {{{"type", "Ready"}, {"status", "True"}}}}}}};
}

}  // namespace ublk_operator::controller::testing
