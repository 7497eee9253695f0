#include "node/spawner/client.h"

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <utility>

#include "common/base/limits.h"
#include "node/spawner/wire.h"

namespace ublk_operator {

namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// A spawner answers this at once; it has nothing to wait for.
constexpr auto subscribe_deadline = limits::command_deadline;
// Notices of one call of process_events(): the caller's loop has other work too.
constexpr size_t notices_per_call_max = 256;

milliseconds left_until(steady_clock::time_point deadline) {
  return std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
}

Error unexpected(const json& body) {
  return Error{EPROTO, "receive", "spawner",
               "unexpected answer " +
                   body.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 200)};
}

// The servers of one answer: descriptors come as pairs, in order.
Result<SpawnedServer> take_server(const json& body, std::vector<UniqueFd>& fds, size_t index) {
  if (fds.size() < 2 * (index + 1)) return unexpected(body);
  auto info = server_info_from_json(body);
  if (!info) return std::move(info).error();
  Pidfd pidfd(std::move(fds[2 * index]), info->pid);
  return SpawnedServer{std::move(info).value(), std::move(pidfd),
                       MessageSocket(std::move(fds[2 * index + 1]))};
}

Result<SpawnedServer> take_spawned(Message& answer) {
  const auto server = answer.body.find("server");
  if (wire::type_of(answer.body) != "spawned" || server == answer.body.end())
    return unexpected(answer.body);
  return take_server(*server, answer.fds, 0);
}

class Client final : public SpawnerClient {
 public:
  Client(MessageSocket requests, MessageSocket events)
      : requests_(std::move(requests)), events_(std::move(events)) {}

  [[nodiscard]] int fd() const override { return events_.fd(); }

  Result<SpawnedServer> spawn(const SpawnRequest& request, milliseconds timeout) override {
    const auto deadline = steady_clock::now() + timeout;
    auto turn = take_turn(deadline);
    if (!turn) return std::move(turn).error();
    if (auto sent = send(to_json(request)); !sent) return std::move(sent).error();
    auto answer = receive(deadline);
    if (!answer) return std::move(answer).error();
    return take_spawned(*answer);
  }

  Result<std::vector<SpawnedServer>> list(milliseconds timeout) override {
    const auto deadline = steady_clock::now() + timeout;
    auto turn = take_turn(deadline);
    if (!turn) return std::move(turn).error();
    if (auto sent = send({{"type", "list"}}); !sent) return std::move(sent).error();
    std::vector<SpawnedServer> servers;
    // Every message but the last is full, so this many hold all.
    for (size_t messages = 0; messages <= limits::servers_max; ++messages) {
      auto answer = receive(deadline);
      if (!answer) return std::move(answer).error();
      const auto part = answer->body.find("servers");
      const auto last = answer->body.find("last");
      if (wire::type_of(answer->body) != "servers" || part == answer->body.end() ||
          !part->is_array() || last == answer->body.end() || !last->is_boolean())
        return unexpected(answer->body);
      for (size_t i = 0; i < part->size(); ++i) {
        auto server = take_server((*part)[i], answer->fds, i);
        if (!server) return std::move(server).error();
        servers.push_back(std::move(server).value());
      }
      if (last->get<bool>()) return servers;
    }
    return Error{EPROTO, "list", "spawner", "more servers than there may be"};
  }

  void bind(uint64_t id, const std::string& volume, uint64_t generation) override {
    // No answer, so no turn: this is between the grant of a device and the end of its recovery, and
    // the request of somebody else may take long. A hint for the next agent, which asks the servers
    // themselves as well: not worth an error.
    (void)requests_.send(
        {{"type", "bind"}, {"id", id}, {"volume", volume}, {"generation", generation}});
  }

  Result<void> shutdown(milliseconds timeout) override {
    const auto deadline = steady_clock::now() + timeout;
    auto turn = take_turn(deadline);
    if (!turn) return std::move(turn).error();
    if (auto sent = send({{"type", "shutdown"}}); !sent) return sent;
    auto answer = receive(deadline);
    if (!answer) return std::move(answer).error();
    if (wire::type_of(answer->body) != "stopped") return unexpected(answer->body);
    return {};
  }

  Result<void> process_events(const std::function<void(const ExitNotice&)>& on_exit) override {
    for (size_t i = 0; i < notices_per_call_max; ++i) {
      auto message = events_.try_receive();
      if (message.err() == EAGAIN) return {};
      if (!message) return std::move(message).error();
      auto notice = exit_notice_from_json(message->body);
      if (wire::type_of(message->body) != "exited" || !notice) return unexpected(message->body);
      on_exit(*notice);
    }
    return {};
  }

 private:
  // One request and its answer at a time. A flag and a condition instead of a mutex held all along:
  // whoever waits for a turn has a deadline.
  class Turn {
   public:
    explicit Turn(Client* client) : client_(client) {}
    Turn(Turn&& other) noexcept : client_(std::exchange(other.client_, nullptr)) {}
    Turn& operator=(Turn&&) = delete;
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
      if (client_ == nullptr) return;
      {
        const std::lock_guard lock(client_->mutex_);
        client_->busy_ = false;
      }
      client_->free_.notify_one();
    }

   private:
    Client* client_;
  };

  Result<Turn> take_turn(steady_clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    if (!free_.wait_until(lock, deadline, [this] { return !busy_; }))
      return Error{ETIMEDOUT, "ask", "spawner", "it is still busy with earlier requests"};
    busy_ = true;
    return Turn(this);
  }

  Result<void> send(json body) {
    body["request"] = ++request_;
    return requests_.send(body);
  }

  // The answer to the request just sent. Answers to requests that were given up come first.
  Result<Message> receive(steady_clock::time_point deadline) {
    while (true) {
      auto message = requests_.receive(left_until(deadline));
      if (!message) return message;
      const std::string type = wire::type_of(message->body);
      auto request = wire::number_field<uint64_t>(message->body, "request");
      // Without a number: what the spawner says to a connection it refuses.
      if (!request && type == "error") return wire::error_from_json(message->body);
      if (request && *request == request_) {
        if (type == "error") return wire::error_from_json(message->body);
        return message;
      }
      // Nobody would ever use that server: its spawn() has returned ETIMEDOUT.
      if (auto late = take_spawned(*message)) (void)late->pidfd.kill(SIGKILL);
    }
  }

  MessageSocket requests_;
  MessageSocket events_;
  std::mutex mutex_;
  std::condition_variable free_;
  bool busy_ = false;
  uint64_t request_ = 0;  // of whoever has the turn
};

}  // namespace

Result<std::unique_ptr<SpawnerClient>> connect_spawner(const std::string& socket_path) {
  auto requests = MessageSocket::connect(socket_path);
  if (!requests) return std::move(requests).error();
  auto events = MessageSocket::connect(socket_path);
  if (!events) return std::move(events).error();
  if (auto sent = events->send({{"type", "subscribe"}}); !sent) return std::move(sent).error();
  auto answer = events->receive(subscribe_deadline);
  if (!answer) return std::move(answer).error();
  if (wire::type_of(answer->body) == "error") return wire::error_from_json(answer->body);
  if (wire::type_of(answer->body) != "subscribed") return unexpected(answer->body);
  return std::unique_ptr<SpawnerClient>(
      std::make_unique<Client>(std::move(requests).value(), std::move(events).value()));
}

}  // namespace ublk_operator
