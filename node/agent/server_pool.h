// ServerPool: the agent's servers. Keeps the connection to the spawner, a few warm standbys, and
// the notices of servers that exited.
// Shape    acquire() gives a server that no volume has; whoever acquired it owns it until it dies.
//          adopt() gives, once, the servers that a former agent had bound to volumes.
// Errors   ENOTCONN: no spawner answers at the moment; on_change is called when one does again.
// Threads  any; the pool has one thread of its own, which connects, refills and listens for exits.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/base/log.h"
#include "node/spawner/client.h"
#include "node/ublk/geometry.h"

namespace ublk_operator {

inline constexpr const char* no_spawner_answers =
    "no spawner answers; look at the unit ublk-spawner, in a cluster at the container spawner of "
    "the "
    "node's pod";

struct ServerPoolOptions {
  std::string spawner_socket;
  std::string server_program;
  unsigned standby_count = 1;
  bool run_first = false;  // standbys: PrepareMessage
  // `ublk-node run`: starts a spawner when none answers. Empty: wait for one.
  std::function<Result<void>()> start_spawner;
};

struct AcquiredServer {
  SpawnedServer server;
  bool told = false;  // to prepare for the geometry; it answers, or has answered, with "prepared"
};

// How a server ended, which its spawner says a moment after it ended.
struct ServerEnd {
  std::optional<ExitNotice> notice;
  bool to_be_said = false;  // not yet, but by a spawner that is there, or whose return would tell
};

class ServerPool {
 public:
  // on_change: from the pool's thread, whenever a spawner was found or lost, or a server exited.
  ServerPool(ServerPoolOptions options, Logger log, std::function<void()> on_change);
  ~ServerPool();
  ServerPool(const ServerPool&) = delete;
  ServerPool& operator=(const ServerPool&) = delete;

  void start();
  // Waits until the first spawner answered and its servers are known. ETIMEDOUT.
  [[nodiscard]] Result<void> wait_connected(std::chrono::milliseconds timeout);

  // One with buffers for `geometry`, a standby where there is one.
  [[nodiscard]] Result<AcquiredServer> acquire(const Geometry& geometry);
  // The server that `volume` had; nullopt: none lives.
  [[nodiscard]] std::optional<SpawnedServer> adopt(const std::string& volume);
  void bind(uint64_t server, const std::string& volume, uint64_t generation);

  // Standbys get buffers of the largest size seen, so that one fits any volume, and prepare for the
  // geometry seen last: the next volume's is most often the same.
  void note_geometry(const Geometry& geometry);
  // A volume that needed a server is served again: now is a good time to warm the next one.
  void refill();
  // The server program was replaced: standbys of the old one serve nobody.
  void drop_standbys();
  [[nodiscard]] ServerEnd end_of(uint64_t id, pid_t pid);
  [[nodiscard]] bool connected() const;

 private:
  void run();
  void connect_locked(std::unique_lock<std::mutex>& lock);
  void lost_locked();
  void hand_out_locked(const ServerInfo& server);
  void note_exit_locked(const ExitNotice& notice);
  void note_locked(const Geometry& geometry);
  static void ask_what_it_holds(SpawnedServer& server);
  void fill_standbys(std::unique_lock<std::mutex>& lock);

  const ServerPoolOptions options_;
  const Logger log_;
  const std::function<void()> on_change_;
  EventFd wake_;
  mutable std::mutex mutex_;
  std::condition_variable connected_changed_;
  std::shared_ptr<SpawnerClient> client_;
  struct Standby {
    SpawnedServer server;
    std::optional<Geometry> told;  // to prepare for
  };
  std::deque<Standby> standbys_;
  std::map<std::string, SpawnedServer> adoptable_;
  std::deque<ExitNotice> exits_;
  std::set<pid_t>
      handed_out_;  // acquired or adopted; neither said to have ended nor unknown to the spawner
  uint64_t arena_bytes_ = 0;
  std::optional<Geometry> geometry_;  // of the volume seen last
  bool refill_wanted_ = true;
  bool stopping_ = false;
  std::chrono::milliseconds retry_{0};
  std::chrono::steady_clock::time_point spawn_not_before_{};
  std::thread thread_;
};

}  // namespace ublk_operator
