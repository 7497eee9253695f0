// LocalApiServer: carries a VolumeService over a unix socket (protocol.h) to ublkctl and scripts.
// Shape    start() listens and serves until stop() or the destructor. The socket is 0660 root:root
//          unless told otherwise: who is not root does not even connect. With a wider mode, others
//          may read (list, get, events, watch); only root and the agent's own uid may change things
//          or take a support bundle (SO_PEERCRED at connect).
// Errors   start(): EADDRINUSE (another agent answers at the path; a socket file nobody answers is
//          replaced), ENAMETOOLONG, or the system call's. Clients get theirs as answers.
// Threads  a thread for accept and one a client, at most limits::local_api_clients_max, all owned
//          and joined. The service is called from the clients' threads. A slow watcher costs memory
//          up to limits::local_api_watch_changes_max changes, then it is told so and dropped;
//          on_change never waits for it.
// Time     stop() waits for service calls under way, and for nothing else: clients are cut off.
#pragma once
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/localapi/protocol.h"
#include "common/localapi/service.h"

namespace ublk_operator {

class LocalApiServer {
 public:
  struct Options {
    std::string path = kLocalApiSocket;  // its folder is made when missing
    mode_t mode = 0660;
    size_t clients_max = limits::local_api_clients_max;
    size_t watch_changes_max = limits::local_api_watch_changes_max;
    std::chrono::milliseconds idle_max = limits::local_api_idle_max;
    std::chrono::milliseconds stall_max = limits::local_api_stall_max;
    // Who may do everything; empty: root and our own uid.
    std::function<bool(uid_t)> may_change;
  };

  // `service` must outlive the server.
  [[nodiscard]] static Result<std::unique_ptr<LocalApiServer>> start(VolumeService& service,
                                                                     Options options, Logger log);
  virtual ~LocalApiServer() = default;
  LocalApiServer() = default;
  LocalApiServer(const LocalApiServer&) = delete;
  LocalApiServer& operator=(const LocalApiServer&) = delete;

  // Removes the socket, cuts off all clients, joins all threads. Safe to repeat; not from within a
  // service call.
  virtual void stop() = 0;
};

}  // namespace ublk_operator
