// What the agent and the spawner say to each other (MessageSocket at the spawner's socket path;
// root only).
//
// Requests carry "request", a number that the answer repeats; either may be answered with
//   {"type":"error", errno, operation, object, detail}.
//
//   {"type":"spawn", program, arena_bytes, memory_max_bytes}
//       -> {"type":"spawned", "server":{...}} + [pidfd, channel]        once exec has succeeded
//   {"type":"list"}
//       -> {"type":"servers", "servers":[...], "last":bool} + [pidfd, channel] a server, in order,
//          in as many messages as message_fds_max asks for
//   {"type":"bind", id, volume, generation}
//       remembered for the next list; no answer
//   {"type":"subscribe"}
//       -> {"type":"subscribed"}, and from then on this connection gets for every server that ends
//          {"type":"exited", id, pid, "code"|"signal", "outOfMemory"?}
//   {"type":"shutdown"}
//       -> {"type":"stopped"} when all servers are killed and reaped; then the spawner exits.
//          Only for tests and uninstall.
//
// The spawner is the parent of every server and does nothing else: no control command, no backend,
// no volume file. Agents come and go; servers end with the spawner (PR_SET_PDEATHSIG) and only with
// it.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>

#include "common/base/pidfd.h"
#include "common/ipc/message_socket.h"

namespace ublk_operator {

struct SpawnRequest {
  std::string program;       // absolute path of ublk-server
  uint64_t arena_bytes = 0;  // buffer memory to map and lock before "ready"
  // memory.max of its own leaf cgroup; 0: no limit. Not applied when no cgroup is writable.
  uint64_t memory_max_bytes = 0;
};

// One server as the spawner knows it.
struct ServerInfo {
  uint64_t id = 0;  // of this spawner's life, never reused
  pid_t pid = -1;
  uid_t uid = 0;  // its own; the device node is given to it at grant
  std::string program;
  uint64_t arena_bytes = 0;
  std::string volume;  // empty: a warm standby
  uint64_t generation = 0;
};

struct SpawnedServer {
  ServerInfo info;
  Pidfd pidfd;
  MessageSocket channel;  // the agent's end; the spawner keeps a copy
};

struct ExitNotice {
  uint64_t id = 0;
  pid_t pid = -1;
  int exit_code = -1;  // or
  int signal = 0;
  bool out_of_memory = false;  // the kernel's OOM killer sent the signal
  // "killed by SIGKILL (9)", "killed by SIGKILL (9), out of memory", "exited with status 1"
  [[nodiscard]] std::string to_string() const;
};

// EPROTO: a field is missing, of the wrong type or out of range; the detail names it.
[[nodiscard]] nlohmann::json to_json(const SpawnRequest& request);
[[nodiscard]] Result<SpawnRequest> spawn_request_from_json(const nlohmann::json& json);
[[nodiscard]] nlohmann::json to_json(const ServerInfo& info);
[[nodiscard]] Result<ServerInfo> server_info_from_json(const nlohmann::json& json);
[[nodiscard]] nlohmann::json to_json(const ExitNotice& notice);
[[nodiscard]] Result<ExitNotice> exit_notice_from_json(const nlohmann::json& json);

}  // namespace ublk_operator
