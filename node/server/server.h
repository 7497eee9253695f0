// Server: what a ublk-server does between its start and its end.
//
//   standby --prepare--> prepared --grant--> serving --all queues taken back--> end
//
// Shape    one main thread that answers the channel, and one thread a queue (queue.h). All that can
//          fail or take long happens before ublkcN is opened: between that and the last fetch the
//          driver of 6.12 is fragile (a server that dies there can leave the device beyond
//          recovery).
// Errors   a failed prepare or grant is told ("failed") and ends the server; a message that makes
//          no sense is ignored once it serves.
// End      run() returns the exit status. There is no orderly stop: a server that half-drains is
//          worse than one that is gone, and what must be drained is taken back by the kernel
//          (QUIESCE_DEV, STOP_DEV). The caller should leave by _exit(), as a killed server does.
#pragma once
#include <memory>
#include <vector>

#include "common/ipc/message_socket.h"
#include "node/backends/backend.h"
#include "node/server/herald.h"
#include "node/server/memory.h"
#include "node/server/protocol.h"
#include "node/server/queue.h"

namespace ublk_operator {

class Server {
 public:
  // `arena`: buffers mapped ahead; used when they are large enough for the volume.
  [[nodiscard]] static Result<std::unique_ptr<Server>> create(MessageSocket channel, Mapping arena);
  ~Server();

  // Says ready, then serves until the end.
  [[nodiscard]] int run(const ReadyMessage& ready);

 private:
  Server(MessageSocket channel, Mapping arena, EventFd queue_ended, std::unique_ptr<Herald> herald);

  // What to exit with; none: go on.
  std::optional<int> read_channel();
  std::optional<int> handle(Message message);
  std::optional<int> check_queues();

  Result<void> prepare(const Geometry& geometry);
  void hurry();  // see PrepareMessage
  Result<void> grant(GrantMessage message, std::vector<UniqueFd> fds);
  Result<void> open_and_fetch(const GrantMessage& message, const UniqueFd& hook);
  Result<void> wait_for_queues();
  [[nodiscard]] StatsMessage stats(uint64_t id) const;
  [[nodiscard]] DescribedMessage described() const;
  void say(const nlohmann::json& body, const std::vector<int>& fds = {}) const;

  MessageSocket channel_;
  QueueGroup group_;
  Mapping arena_;
  std::optional<Geometry> prepared_;
  std::unique_ptr<Backend> backend_;
  std::vector<Mapping> descriptors_;  // a queue each
  std::vector<std::unique_ptr<Queue>> queues_;
  std::optional<GrantMessage> granted_;
  bool fetching_ = false;
  bool first_ = false;              // threads were made to run first
  std::unique_ptr<Herald> herald_;  // none: this kernel has no such thing
};

}  // namespace ublk_operator
