// What the agent and a ublk-server say to each other over the server's channel (MessageSocket), and
// nothing else does. Each message is an object with a "type".
//
//   server -> agent   ready      once: memory locked, waiting for a volume
//   agent  -> server  prepare    sizes buffers and rings; touches nothing outside
//   server -> agent   prepared   or failed
//   agent  -> server  grant      + fds: the right to open ublkcN and the backend
//   server -> agent   opening    from now on ublkcN may be open and mapped
//   server -> agent   fetching   all FETCH commands are submitted; or failed
//   server -> agent   failed     the server exits with status 1
//   agent  -> server  stats      -> stats       at any time after the grant
//   agent  -> server  describe   -> described   what it holds, for adoption; + the herald's
//                                           descriptor (herald.h), if any
//
// Errors   a message that makes no sense ends a server that serves nothing yet (failed), and is
//          ignored by one that serves. from_json: EPROTO (a field is missing or of another type),
//          EINVAL (a value that cannot be).
//
// A closed channel does not end a server that serves: the spawner holds a copy of the agent's end,
// and hands it to the next agent. The server ends when its spawner does (PR_SET_PDEATHSIG), when it
// is killed, or, with status 0, when the kernel takes its queues back (every fetch completed with
// ENODEV: the device was stopped or quiesced).
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/api/volume.h"
#include "common/base/result.h"
#include "nlohmann/json.hpp"
#include "node/ublk/device.h"

namespace ublk_operator {

// What the server found itself to be: it drops and gains nothing, whoever started it must have
// (node/spawner).
struct ReadyMessage {
  uid_t uid = 0;
  bool has_capabilities = false;  // effective or permitted ones
  bool no_new_privileges = false;
  bool io_flusher = false;     // PR_SET_IO_FLUSHER; threads inherit it
  bool memory_locked = false;  // if not, `warning` says why
  uint64_t arena_bytes = 0;
  uint64_t startup_us = 0;  // from the begin of main() until this message
  std::string warning;
};

// Sent as soon as the geometry is known, so that memory is ready before the old server's device is
// released.
struct PrepareMessage {
  Geometry geometry;
  // From then until every tag is fetched the server's threads run first (common/base/run_first.h):
  // nearly all of that time they wait, and then applications do.
  bool run_first = false;
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

[[nodiscard]] nlohmann::json to_json(const ReadyMessage& message);
[[nodiscard]] Result<ReadyMessage> ready_from_json(const nlohmann::json& json);
[[nodiscard]] nlohmann::json to_json(const Geometry& geometry);
// EINVAL also for what no server could serve: no queue, a depth or buffers beyond
// common/base/limits.h, blocks and sizes that do not fit each other.
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
