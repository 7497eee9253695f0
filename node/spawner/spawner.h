// Spawner: the parent of all servers of a node. It starts them, keeps a copy of their channels for
// the next agent, and tells who ended; nothing else (see protocol.h), so that there is no reason to
// restart it.
// Shape    one thread, one epoll loop, every request answered without waiting for a child.
// Errors   create(): EADDRINUSE when another spawner listens there; ERANGE for a bad range of uids.
//          What happens to single servers and connections is answered or logged, never fatal.
// Threads  one; servers end with the thread that runs run() (PR_SET_PDEATHSIG).
#pragma once
#include <sys/types.h>

#include <memory>
#include <string>

#include "common/base/log.h"
#include "common/base/result.h"

namespace ublk_operator {

struct SpawnerOptions {
  std::string socket_path = "/run/ublk-operator/spawner.sock";
  // One uid a running server, from systemd's range of dynamic users: no account, no container and
  // no file that stays uses it, and there is a rule for taking one that all who follow it share
  // (see uid_pool.h). Not used when the spawner is not root: servers then keep its own uid.
  uid_t uid_base = 61184;
  uid_t uid_count = 4336;
  std::string uid_lock_directory = "/run/systemd/dynamic-uid";
  bool use_cgroups = true;
};

class Spawner {
 public:
  // Listens when it returns; nobody is answered before run().
  [[nodiscard]] static Result<Spawner> create(const SpawnerOptions& options, Logger log);
  Spawner(Spawner&&) noexcept;
  Spawner& operator=(Spawner&&) noexcept;
  ~Spawner();

  // Until `stop_fd` is readable or a client asks for shutdown; then every server is killed and
  // reaped. ETIMEDOUT: some could not be reaped within limits::reap_deadline (they are killed, and
  // end when their uninterruptible wait does).
  [[nodiscard]] Result<void> run(int stop_fd);

 private:
  class Loop;
  explicit Spawner(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

}  // namespace ublk_operator
