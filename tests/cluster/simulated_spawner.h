// SimulatedSpawner: a spawner and all servers of a node in one thread, for agents on a FakeKernel:
// it speaks node/spawner/protocol.h at its socket and node/server/protocol.h on each server's
// channel, and serves no data. So a machine holds thousands of served volumes without a process for
// each.
// Shape    a server lives until its agent's end of the channel is closed, as if it had been killed:
//          agents of a simulation do not come back, so nothing is kept for the next one, and what a
//          server is given (descriptors of a backend) is closed.
// Bounds   limits::servers_max servers, limits::spawner_connections_max connections.
// Threads  one of its own, ended by the destructor.
#pragma once
#include <memory>
#include <string>

#include "common/base/result.h"
#include "node/ublk/fake_control_device.h"

namespace ublk_operator {

class SimulatedSpawner {
 public:
  // EADDRINUSE and others: see MessageListener.
  [[nodiscard]] static Result<std::unique_ptr<SimulatedSpawner>> start(
      const std::string& socket_path, const FakeKernel& kernel);
  ~SimulatedSpawner();
  SimulatedSpawner(const SimulatedSpawner&) = delete;
  SimulatedSpawner& operator=(const SimulatedSpawner&) = delete;

 private:
  class Loop;
  explicit SimulatedSpawner(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

}  // namespace ublk_operator
