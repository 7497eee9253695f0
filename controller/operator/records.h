// What the controller keeps of each object: the fields it decides by, and no more, because there
// may be many thousands.
// Shape    plain values, read leniently: the API server has checked the schema, and what only a
//          node can judge is the node's to say. What is missing has the default of the manifest.
// Errors   a field that placement needs and that cannot be read is said in `unreadable`.
// Threads  pure functions.
#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/api/volume.h"
#include "nlohmann/json_fwd.hpp"

namespace ublk_operator::controller {

inline constexpr const char* kFinalizer = "ublk.dev/device";
inline constexpr const char* kForceRelease = "ublk.dev/force-release";
inline constexpr const char* kFieldManager = "ublk-controller";
inline constexpr const char* kNodeLeasePrefix = "ublk-node-";

struct VolumeRecord {
  std::string name;
  std::string uid;
  std::string resource_version;
  int64_t generation = 0;
  bool deleting = false;
  std::vector<std::string> finalizers;
  std::string force_release;  // the annotation's value; empty: none

  std::string node_name;  // empty: not bound
  uint64_t size_bytes = 0;
  std::string mode = "Reissue";
  std::string pool;  // empty: a backend that needs none
  std::string path;
  uint32_t queues = 1;
  uint32_t queue_depth = 64;
  std::string unreadable;  // "spec.size: ..."

  std::optional<Condition> bound;
  std::optional<Condition> ready;
  bool device_removed = false;  // DeviceRemoved is True
  bool made = false;            // the node has made its device, and so its file

  [[nodiscard]] bool has_finalizer() const;
  friend bool operator==(const VolumeRecord&, const VolumeRecord&) = default;
};
[[nodiscard]] VolumeRecord read_volume(const nlohmann::json& object);

struct PoolRecord {
  uint64_t capacity_bytes = 0;
  uint64_t free_bytes = 0;
  friend bool operator==(const PoolRecord&, const PoolRecord&) = default;
};

struct NodeRecord {
  std::string name;
  std::map<std::string, PoolRecord> pools;
  std::set<std::string> modes;
  // Nothing said: no limit that is known.
  std::optional<uint64_t> volumes_max;
  std::optional<uint64_t> queues_max;
  std::optional<uint64_t> queue_depth_max;
  bool ready = false;         // says that ublk works there
  std::string ready_message;  // why not
  friend bool operator==(const NodeRecord&, const NodeRecord&) = default;
};
[[nodiscard]] NodeRecord read_node(const nlohmann::json& object);

struct LeaseRecord {
  std::string version;  // changes with each renewal
  std::chrono::seconds duration{40};
  // By the node's clock, so only good for a guess.
  std::optional<std::chrono::system_clock::time_point> renewed;
};
[[nodiscard]] LeaseRecord read_node_lease(const nlohmann::json& object);

}  // namespace ublk_operator::controller
