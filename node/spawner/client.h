// SpawnerClient: the agent's side of a spawner. One instance an agent.
// Threads  volume workers call spawn(), list() and shutdown() from their own threads (they are
//          served one after the other) and bind() (which waits for nobody), while one thread calls
//          process_events() when fd() is readable.
// Order    notices travel on a connection of their own: that of a server which ended at once may be
//          read before its spawn() has returned. connect_spawner() subscribes before it returns, so
//          no exit after a first list() is missed.
// Errors   EPIPE/ECONNRESET: the spawner is gone, and with it all its servers; make a new client
//          (its list() says what is left, if anything). ETIMEDOUT: outcome unknown; a server that
//          spawn() no longer waited for is killed by the client when its answer comes.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "node/spawner/protocol.h"

namespace ublk_operator {

class SpawnerClient {
 public:
  virtual ~SpawnerClient() = default;
  [[nodiscard]] virtual int fd() const = 0;
  // ENOENT, EACCES...: the program cannot be executed by a server's uid; EAGAIN:
  // limits::servers_max or the range of uids is reached. The pidfd may already be readable.
  [[nodiscard]] virtual Result<SpawnedServer> spawn(const SpawnRequest& request,
                                                    std::chrono::milliseconds timeout) = 0;
  [[nodiscard]] virtual Result<std::vector<SpawnedServer>> list(
      std::chrono::milliseconds timeout) = 0;
  virtual void bind(uint64_t id, const std::string& volume, uint64_t generation) = 0;
  [[nodiscard]] virtual Result<void> shutdown(std::chrono::milliseconds timeout) = 0;
  // Reads what has arrived and calls on_exit for each notice; never blocks. ECONNRESET: the spawner
  // is gone.
  [[nodiscard]] virtual Result<void> process_events(
      const std::function<void(const ExitNotice&)>& on_exit) = 0;
};

// ENOENT, ECONNREFUSED: no spawner answers there.
[[nodiscard]] Result<std::unique_ptr<SpawnerClient>> connect_spawner(
    const std::string& socket_path);

}  // namespace ublk_operator
