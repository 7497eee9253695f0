// A network between a client and the API server that a test can disturb: it delays, hangs, cuts and
// truncates. Connections are carried byte by byte; TLS goes through as it is.
// Threads  one of its own; a disturbance is there when its call returns.
#pragma once
#include <atomic>
#include <chrono>
#include <deque>
#include <list>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "common/base/unique_fd.h"

namespace ublk_operator::cluster {

class Proxy {
 public:
  // To that port of this machine.
  explicit Proxy(int server_port);
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;
  [[nodiscard]] int port() const { return port_; }

  // Nothing goes through the connections there are, and nobody closes them. New ones are served.
  void hang() { command(Command::hang); }
  // From now on what the server sends comes so much later, in its order.
  void delay(std::chrono::milliseconds time) { delay_ = time; }
  // All connections are closed now.
  void cut() { command(Command::cut); }
  // Each connection that is there passes so many more bytes to the client, and is closed then.
  void truncate(size_t bytes) {
    allowance_ = bytes;
    command(Command::truncate);
  }

 private:
  using Clock = std::chrono::steady_clock;
  enum class Command { none, hang, cut, truncate };
  struct Pair {
    UniqueFd client;
    UniqueFd server;
    bool hangs = false;
    bool ended = false;  // the server closed it; what is held is still to come
    std::deque<std::pair<Clock::time_point, std::string>> held;  // to the client: when, what
    std::optional<size_t> left;                                  // bytes to the client
  };
  void command(Command what);
  void obey();
  void accept();
  bool to_client(Pair& pair) const;  // false: the connection is over
  void run();

  const int server_port_;
  int port_ = 0;
  UniqueFd listener_;
  EventFd wake_ = EventFd::must_create();
  std::atomic<bool> stopping_ = false;
  std::atomic<Command> command_ = Command::none;
  std::atomic<size_t> allowance_ = 0;
  std::atomic<std::chrono::milliseconds> delay_{};
  std::list<Pair> pairs_;
  std::thread thread_;
};

}  // namespace ublk_operator::cluster
