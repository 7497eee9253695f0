#include "tests/cluster/simulated_spawner.h"

#include <poll.h>

#include <cerrno>
#include <csignal>
#include <list>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/limits.h"
#include "node/server/protocol.h"
#include "node/spawner/protocol.h"
#include "node/spawner/wire.h"

namespace ublk_operator {

using nlohmann::json;

class SimulatedSpawner::Loop {
 public:
  Loop(MessageListener listener, const FakeKernel& kernel)
      : listener_(std::move(listener)), kernel_(kernel), thread_([this] { run(); }) {}
  ~Loop() {
    stop_.signal();
    thread_.join();
  }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

 private:
  struct Connection {
    MessageSocket socket;
    bool subscribed = false;
  };
  struct Server {
    ServerInfo info;
    FakeServer process;
    MessageSocket channel;  // its own end
    bool fetching = false;
    DeviceId device = 0;
  };

  void run() {
    while (true) {
      std::vector<pollfd> fds{{stop_.fd(), POLLIN, 0}, {listener_.fd(), POLLIN, 0}};
      for (const auto& connection : connections_)
        fds.push_back({connection.socket.fd(), POLLIN, 0});
      for (const auto& server : servers_) fds.push_back({server.channel.fd(), POLLIN, 0});
      if (::poll(fds.data(), fds.size(), -1) < 0) continue;  // EINTR
      if (fds[0].revents != 0) return;
      auto at = fds.begin() + 2;
      // What comes to be meanwhile was not asked for.
      const auto last_server = servers_.size();
      for (auto it = connections_.begin(); it != connections_.end(); ++at) {
        const bool over = at->revents != 0 && !read_requests(*it);
        it = over ? connections_.erase(it) : std::next(it);
      }
      auto it = servers_.begin();
      for (size_t i = 0; i < last_server; ++i, ++at) {
        const bool over = at->revents != 0 && !read_orders(*it);
        if (over) say_exit(it->info);
        it = over ? servers_.erase(it) : std::next(it);
      }
      if (fds[1].revents != 0) accept();
    }
  }

  void accept() {
    auto socket = listener_.accept();
    if (socket && connections_.size() < limits::spawner_connections_max)
      connections_.push_back({std::move(*socket), false});
  }

  // False: the connection is over.
  bool read_requests(Connection& connection) {
    while (true) {
      auto message = connection.socket.try_receive();
      if (!message) return message.err() == EAGAIN;
      if (!answer(connection, message->body)) return false;
    }
  }

  bool answer(Connection& connection, const json& body) {
    const std::string type = wire::type_of(body);
    const auto reply = [&](json what, const std::vector<int>& fds = {}) {
      what["request"] = body.value("request", uint64_t{0});
      return connection.socket.send(what, fds).ok();
    };
    if (type == "bind") return true;  // for the next agent, which there is none of
    if (type == "subscribe") {
      connection.subscribed = true;
      return reply({{"type", "subscribed"}});
    }
    // The only list is the first, before there are servers.
    if (type == "list")
      return reply({{"type", "servers"}, {"servers", json::array()}, {"last", true}});
    if (type != "spawn")
      return reply(wire::error_to_json({EOPNOTSUPP, type, "simulated spawner", ""}));
    auto request = spawn_request_from_json(body);
    if (!request) return reply(wire::error_to_json(request.error()));
    auto pair = MessageSocket::pair();
    if (!pair || servers_.size() >= limits::servers_max)
      return reply(wire::error_to_json({EAGAIN, "spawn", "simulated spawner", ""}));
    FakeServer process = kernel_.spawn_server();
    ServerInfo info;
    info.id = ++last_id_;
    info.pid = process.pid();
    info.program = request->program;
    info.arena_bytes = request->arena_bytes;
    const bool sent = reply({{"type", "spawned"}, {"server", to_json(info)}},
                            {process.pidfd(), pair->first.fd()});
    ReadyMessage ready;
    ready.arena_bytes = info.arena_bytes;
    (void)pair->second.send(to_json(ready));
    servers_.push_back({std::move(info), std::move(process), std::move(pair->second)});
    return sent;
  }

  // False: the server's agent does not want it any more.
  static bool read_orders(Server& server) {
    while (true) {
      auto message = server.channel.try_receive();
      if (!message) return message.err() == EAGAIN;
      const std::string type = wire::type_of(message->body);
      if (type == "prepare") {
        (void)server.channel.send({{"type", "prepared"}});
      } else if (type == "grant") {
        if (!serve(server, message->body)) return false;
      } else if (type == "describe") {
        (void)server.channel.send(
            to_json(DescribedMessage{server.fetching, server.info.volume, server.info.generation,
                                     server.device, server.fetching}));
      } else if (type == "stats") {
        StatsMessage stats;
        stats.id = message->body.value("id", uint64_t{0});
        (void)server.channel.send(to_json(stats));
      }
    }
  }

  static bool serve(Server& server, const json& body) {
    auto grant = grant_from_json(body);
    Result<void> served;
    if (grant) {
      (void)server.channel.send({{"type", "opening"}});
      served = server.process.serve(grant->device);
    } else {
      served = grant.error();
    }
    if (!served) {
      (void)server.channel.send(failed_to_json(served.error()));
      return false;
    }
    server.info.volume = grant->volume;
    server.info.generation = grant->generation;
    server.device = grant->device;
    server.fetching = true;
    return server.channel.send({{"type", "fetching"}}).ok();
  }

  void say_exit(const ServerInfo& info) {
    ExitNotice notice;
    notice.id = info.id;
    notice.pid = info.pid;
    notice.signal = SIGKILL;
    for (const auto& connection : connections_)
      if (connection.subscribed) (void)connection.socket.send(to_json(notice));
  }

  const MessageListener listener_;
  const FakeKernel& kernel_;
  const EventFd stop_ = EventFd::must_create();
  // By the thread.
  std::list<Connection> connections_;
  std::list<Server> servers_;
  uint64_t last_id_ = 0;
  std::thread thread_;
};

SimulatedSpawner::SimulatedSpawner(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
SimulatedSpawner::~SimulatedSpawner() = default;

Result<std::unique_ptr<SimulatedSpawner>> SimulatedSpawner::start(const std::string& socket_path,
                                                                  const FakeKernel& kernel) {
  auto listener = MessageListener::listen(socket_path, 0600);
  if (!listener) return std::move(listener).error();
  return std::unique_ptr<SimulatedSpawner>(
      new SimulatedSpawner(std::make_unique<Loop>(std::move(*listener), kernel)));
}

}  // namespace ublk_operator
