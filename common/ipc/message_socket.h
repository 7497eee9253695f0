// MessageSocket: one JSON message a datagram, with file descriptors, between our own processes on
// one machine.
// Shape    AF_UNIX SOCK_SEQPACKET; a message is a JSON object of at most limits::message_bytes_max
//          bytes and limits::message_fds_max descriptors (SCM_RIGHTS, received close-on-exec).
// Errors   EPIPE/ECONNRESET: the other side is gone; EAGAIN: nothing to receive (never from a
//          blocking call); EPROTO: not JSON, truncated or too many descriptors (all received ones
//          are closed); EMSGSIZE: too large to send.
// Threads  any number may send (a message goes whole or not at all) while one receives.
#pragma once
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/unique_fd.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {

struct Message {
  nlohmann::json body;  // always an object
  std::vector<UniqueFd> fds;
};

class MessageSocket {
 public:
  MessageSocket() = default;
  explicit MessageSocket(UniqueFd fd) : fd_(std::move(fd)) {}

  // A connected pair, both close-on-exec.
  [[nodiscard]] static Result<std::pair<MessageSocket, MessageSocket>> pair();
  // ENOENT, ECONNREFUSED: nobody listens at `path`.
  [[nodiscard]] static Result<MessageSocket> connect(const std::string& path);

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] bool valid() const { return fd_.valid(); }
  void close() { fd_.reset(); }
  [[nodiscard]] Result<MessageSocket> duplicate() const;

  // Never blocks: ENOBUFS/EAGAIN when the other side does not read (its problem, not ours to wait
  // for).
  [[nodiscard]] Result<void> send(const nlohmann::json& body,
                                  const std::vector<int>& fds = {}) const;
  // Blocks until a message, end of stream (ECONNRESET) or the deadline (ETIMEDOUT).
  [[nodiscard]] Result<Message> receive(std::chrono::milliseconds timeout) const;
  // EAGAIN when there is none.
  [[nodiscard]] Result<Message> try_receive() const;

 private:
  UniqueFd fd_;
};

// Listens at a path. A stale socket file (nobody answers) is replaced; EADDRINUSE when somebody
// does.
class MessageListener {
 public:
  [[nodiscard]] static Result<MessageListener> listen(const std::string& path, mode_t mode);
  [[nodiscard]] int fd() const { return fd_.get(); }
  // EAGAIN when nobody waits.
  [[nodiscard]] Result<MessageSocket> accept() const;

 private:
  explicit MessageListener(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace ublk_operator
