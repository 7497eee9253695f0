// What the agent and a ublk-server say to each other over the server's channel (MessageSocket), and
// nothing else does.
//
//   server -> agent   {"type":"ready"}                                 once: memory locked, waiting
//   for a volume agent  -> server  {"type":"prepare", geometry...}                  size buffers
//   and rings; touches nothing outside server -> agent   {"type":"prepared"} (or "failed") agent ->
//   server  {"type":"grant", device, generation, backend...} + fds: the right to open ublkcN and
//   the backend server -> agent   {"type":"fetching"}                              all FETCH
//   commands are submitted server -> agent   {"type":"failed", errno, operation, object, detail} it
//   exits afterwards agent  -> server  {"type":"stats", "id"}  ->  {"type":"stats", "id", ...} at
//   any time after grant agent  -> server  {"type":"describe"}     ->  {"type":"described", ...}
//   what it holds, for adoption
//
// A closed channel does not end a server: the spawner holds a copy of the agent's end, and hands it
// to the next agent. The server ends when its spawner does (PR_SET_PDEATHSIG), when it is killed,
// or when the kernel takes its queues back (every fetch completed with ENODEV: the device was
// stopped or quiesced).
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "common/api/volume.h"
#include "common/base/result.h"
#include "nlohmann/json.hpp"
#include "node/ublk/device.h"

namespace ublk_operator {

// Sent as soon as the geometry is known, so that memory is ready before the old server's device is
// released.
struct PrepareMessage {
  Geometry geometry;
};

// The third step of a lease: geometry, backend and the right to open this one ublkcN go to one
// server, with the generation. Descriptors sent along: those of the backend first, then, if
// `halt_at` is set, the test hook's.
struct GrantMessage {
  std::string volume;
  uint64_t generation = 0;
  DeviceId device = 0;
  Geometry geometry;
  std::vector<std::vector<unsigned>>
      queue_cpus;           // one list a queue (GET_QUEUE_AFFINITY); empty: not bound
  nlohmann::json backend;   // see make_backend()
  uint64_t latency_ns = 0;  // faultInjection.latency
  // Test hook: at this point the server writes its pid and a newline to the last descriptor and
  // stops for good.
  std::string halt_at;  // "", "before_open", "after_mmap", "half_fetched"
};

struct StatsMessage {
  uint64_t id = 0;
  std::map<std::string, IoCounters> io;       // by operation
  std::map<std::string, uint64_t> io_errors;  // by errno name
};

struct DescribedMessage {
  bool granted = false;
  std::string volume;
  uint64_t generation = 0;
  DeviceId device = 0;
  bool fetching = false;
};

[[nodiscard]] nlohmann::json to_json(const Geometry& geometry);
[[nodiscard]] Result<Geometry> geometry_from_json(const nlohmann::json& json);
[[nodiscard]] nlohmann::json to_json(const PrepareMessage& message);
[[nodiscard]] Result<PrepareMessage> prepare_from_json(const nlohmann::json& json);
[[nodiscard]] nlohmann::json to_json(const GrantMessage& message);
[[nodiscard]] Result<GrantMessage> grant_from_json(const nlohmann::json& json);
[[nodiscard]] nlohmann::json to_json(const StatsMessage& message);
[[nodiscard]] Result<StatsMessage> stats_from_json(const nlohmann::json& json);
[[nodiscard]] nlohmann::json to_json(const DescribedMessage& message);
[[nodiscard]] Result<DescribedMessage> described_from_json(const nlohmann::json& json);
[[nodiscard]] nlohmann::json failed_to_json(const Error& error);
[[nodiscard]] Error failed_from_json(const nlohmann::json& json);

}  // namespace ublk_operator
