// SpawnerClient: the agent's side of a spawner. One instance an agent; thread-safe: volume workers
// call spawn() from their own threads, while the agent's event loop calls process_events() when
// fd() is readable. Errors   EPIPE/ECONNRESET: the spawner is gone, and with it all its servers;
// make a new client.
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
  [[nodiscard]] virtual Result<SpawnedServer> spawn(const SpawnRequest& request,
                                                    std::chrono::milliseconds timeout) = 0;
  [[nodiscard]] virtual Result<std::vector<SpawnedServer>> list(
      std::chrono::milliseconds timeout) = 0;
  virtual void bind(uint64_t id, const std::string& volume, uint64_t generation) = 0;
  [[nodiscard]] virtual Result<void> shutdown(std::chrono::milliseconds timeout) = 0;
  // Reads what has arrived and calls on_exit for each notice. ECONNRESET: the spawner is gone.
  [[nodiscard]] virtual Result<void> process_events(
      const std::function<void(const ExitNotice&)>& on_exit) = 0;
};

// ENOENT, ECONNREFUSED: no spawner answers there.
[[nodiscard]] Result<std::unique_ptr<SpawnerClient>> connect_spawner(
    const std::string& socket_path);

}  // namespace ublk_operator
