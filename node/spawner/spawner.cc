#include "node/spawner/spawner.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "common/base/limits.h"
#include "node/spawner/cgroup.h"
#include "node/spawner/launch.h"
#include "node/spawner/protocol.h"
#include "node/spawner/uid_pool.h"
#include "node/spawner/wire.h"

namespace ublk_operator {

namespace {

using nlohmann::json;
using std::chrono::steady_clock;

// What an epoll event is about, packed into its 64 bits of user data: ids are never reused, so an
// event that was fetched before its object went away finds nothing instead of a successor.
enum class Source : uint64_t { listener, stop, connection, report, server };
constexpr unsigned source_shift = 56;
uint64_t tag(Source source, uint64_t id = 0) {
  return static_cast<uint64_t>(source) << source_shift | id;
}

// The descriptors of a server: shared with messages that wait to be sent, so that a number is never
// sent after it was closed and reused.
struct ServerFds {
  Pidfd pidfd;
  MessageSocket channel;
};

struct Server {
  ServerInfo info;
  std::shared_ptr<const ServerFds> fds;
  UidLease uid;
  std::optional<Launch> launch;  // until exec has happened or failed
  bool failed = false;           // never became a server...
  bool listed = false;           // ...but a client knows of it
  uint64_t requester = 0;        // connection and request that wait for the launch
  json request;
};

struct Outgoing {
  json body;
  std::vector<std::shared_ptr<const ServerFds>> servers;
};

struct Connection {
  MessageSocket socket;
  std::deque<Outgoing> outbox;    // what the other side was too slow for
  bool waits_for_reader = false;  // epoll watches for EPOLLOUT
  bool subscribed = false;
};

}  // namespace

class Spawner::Loop {
 public:
  Loop(const SpawnerOptions& options, Logger log, MessageListener listener, UniqueFd epoll)
      : log_(std::move(log)),
        listener_(std::move(listener)),
        epoll_(std::move(epoll)),
        uids_(options.uid_base, options.uid_count, options.uid_lock_directory) {}
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  ~Loop() { kill_all(); }

  Result<void> prepare(const SpawnerOptions& options) {
    if (!is_root_)
      log_->warn("the spawner is not root: servers run as uid {} like itself", ::geteuid());
    if (options.use_cgroups) {
      auto cgroups = ServerCgroups::create();
      if (cgroups)
        cgroups_ = std::move(cgroups).value();
      else
        log_->warn("servers get no cgroup of their own, memory limits are not applied: {}",
                   cgroups.error().to_string());
    }
    return listen_again();
  }

  Result<void> run(int stop_fd) {
    stop_fd_ = stop_fd;
    if (auto watched = watch(stop_fd, EPOLLIN, tag(Source::stop)); !watched) return watched;
    while (!stopping_)
      if (auto handled = wait_and_handle(-1); !handled) return handled;
    return stop();
  }

 private:
  Result<void> watch(int fd, uint32_t events, uint64_t data) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = data;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0)
      return errno_error("epoll_ctl", "spawner");
    return {};
  }
  void forget(int fd) { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

  Result<void> listen_again() {
    auto watched = watch(listener_.fd(), EPOLLIN, tag(Source::listener));
    accepting_ = watched.ok();
    return watched;
  }
  void listen_after_close() {
    if (!accepting_ && !stopping_) (void)listen_again();
  }

  Result<void> wait_and_handle(int timeout_ms) {
    std::array<epoll_event, 64> events{};
    const int count =
        ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
    if (count < 0 && errno != EINTR) return errno_error("epoll_wait", "spawner");
    for (int i = 0; i < count; ++i) handle(events[static_cast<size_t>(i)]);
    return {};
  }

  void handle(const epoll_event& event) {
    const uint64_t id = event.data.u64 & ((uint64_t{1} << source_shift) - 1);
    switch (static_cast<Source>(event.data.u64 >> source_shift)) {
      case Source::listener:
        return accept();
      case Source::stop:
        stopping_ = true;
        return;
      case Source::connection:
        return serve(id, event.events);
      case Source::report:
        return read_launch(id);
      case Source::server:
        return reap(id);
    }
  }

  // --- connections

  void accept() {
    auto socket = listener_.accept();
    if (!socket) {
      if (socket.err() == EAGAIN) return;
      // Out of descriptors: the waiting connection would wake us up for ever. Whatever closes next
      // makes room.
      log_->error("no connection accepted until another one closes: {}",
                  socket.error().to_string());
      forget(listener_.fd());
      accepting_ = false;
      return;
    }
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(socket->fd(), SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 ||
        (peer.uid != 0 && peer.uid != ::geteuid())) {
      log_->warn("refused a connection of uid {} (pid {}): only root may start servers", peer.uid,
                 peer.pid);
      return;
    }
    if (connections_.size() >= limits::spawner_connections_max) {
      const Error full{EUSERS, "connect", "spawner",
                       "it serves " + std::to_string(connections_.size()) + " connections already"};
      log_->warn("refused pid {}: {}", peer.pid, full.to_string());
      (void)socket->send(wire::error_to_json(full));
      return;
    }
    const uint64_t id = next_connection_++;
    if (auto watched = watch(socket->fd(), EPOLLIN, tag(Source::connection, id)); !watched) {
      log_->error("{}", watched.error().to_string());
      return;
    }
    connections_[id].socket = std::move(socket).value();
  }

  void drop(uint64_t id) {
    const auto it = connections_.find(id);
    if (it == connections_.end()) return;
    // Not left to close(2): a child between fork and exec holds a copy, and events would go on.
    forget(it->second.socket.fd());
    connections_.erase(it);
    listen_after_close();
  }

  void serve(uint64_t id, uint32_t events) {
    const auto it = connections_.find(id);
    if (it == connections_.end()) return;
    if ((events & EPOLLOUT) != 0 && !flush(id, it->second)) return;
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
    // One message an event: a busy connection does not keep the others waiting.
    auto message = it->second.socket.try_receive();
    if (!message) {
      if (message.err() == EAGAIN) return;
      if (message.err() != ECONNRESET)
        log_->warn("closed a connection: {}", message.error().to_string());
      return drop(id);
    }
    answer(id, message->body);
  }

  // Sends now, or when the other side has read what it got before.
  void send(uint64_t id, Outgoing message) {
    const auto it = connections_.find(id);
    if (it == connections_.end()) return;
    Connection& connection = it->second;
    if (connection.outbox.size() >= limits::spawner_outbox_messages_max) {
      log_->warn("closed a connection that does not read its messages");
      return drop(id);
    }
    connection.outbox.push_back(std::move(message));
    if (!connection.waits_for_reader) (void)flush(id, connection);
  }

  // False when the connection had to be closed.
  bool flush(uint64_t id, Connection& connection) {
    while (!connection.outbox.empty()) {
      const Outgoing& next = connection.outbox.front();
      std::vector<int> fds;
      for (const auto& server : next.servers) {
        fds.push_back(server->pidfd.fd());
        fds.push_back(server->channel.fd());
      }
      const auto sent = connection.socket.send(next.body, fds);
      if (sent.err() == EAGAIN || sent.err() == ENOBUFS) break;
      if (!sent) {
        if (sent.err() != EPIPE && sent.err() != ECONNRESET)
          log_->warn("closed a connection: {}", sent.error().to_string());
        drop(id);
        return false;
      }
      connection.outbox.pop_front();
    }
    const bool waits = !connection.outbox.empty();
    if (waits != connection.waits_for_reader && !stopping_) {
      connection.waits_for_reader = waits;
      epoll_event event{};
      event.events = waits ? EPOLLIN | EPOLLOUT : EPOLLIN;
      event.data.u64 = tag(Source::connection, id);
      UBLK_CHECK(::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection.socket.fd(), &event) == 0);
    }
    return true;
  }

  void reply(uint64_t connection, const json& request, json body,
             std::vector<std::shared_ptr<const ServerFds>> servers = {}) {
    if (const auto number = request.find("request"); number != request.end())
      body["request"] = *number;
    send(connection, Outgoing{std::move(body), std::move(servers)});
  }

  void answer(uint64_t connection, const json& request) {
    const std::string type = wire::type_of(request);
    if (type == "spawn") {
      if (auto started = spawn(connection, request); !started) {
        log_->error("server not started: {}", started.error().to_string());
        reply(connection, request, wire::error_to_json(started.error()));
      }
    } else if (type == "list") {
      list(connection, request);
    } else if (type == "bind") {
      if (auto bound = bind(request); !bound) log_->warn("{}", bound.error().to_string());
    } else if (type == "subscribe") {
      connections_.at(connection).subscribed = true;
      reply(connection, request, {{"type", "subscribed"}});
    } else if (type == "shutdown") {
      stopping_ = true;
      shutdown_requester_ = std::pair(connection, request);
    } else {
      reply(connection, request,
            wire::error_to_json(Error{EOPNOTSUPP, "serve", "request '" + type + "'",
                                      "this spawner does not know it"}));
    }
  }

  // --- servers

  Result<void> spawn(uint64_t connection, const json& body) {
    auto request = spawn_request_from_json(body);
    if (!request) return std::move(request).error();
    if (servers_.size() >= limits::servers_max)
      return Error{EAGAIN, "spawn", request->program,
                   std::to_string(servers_.size()) + " servers run already, the most there may be"};
    LaunchRequest launch;
    std::optional<UidLease> lease;
    if (is_root_) {
      auto taken = uids_.take();
      if (!taken) return std::move(taken).error();
      lease.emplace(std::move(taken).value());
      launch.uid = lease->uid();
    }
    auto channel = MessageSocket::pair();
    if (!channel) return std::move(channel).error();

    const uint64_t id = next_server_++;
    UniqueFd leaf;
    if (cgroups_.available()) {
      auto made = cgroups_.add(id, request->memory_max_bytes);
      if (made)
        leaf = std::move(made).value();
      else
        log_->warn("server={} runs without a cgroup of its own: {}", id, made.error().to_string());
    }
    launch.program = request->program;
    launch.arguments = {"--channel", "3", "--arena", std::to_string(request->arena_bytes)};
    launch.channel = channel->second.fd();
    launch.cgroup_procs = leaf.get();
    auto started = Launch::start(launch);
    if (!started) {
      cgroups_.remove(id);
      return std::move(started).error();
    }
    auto fds = std::make_shared<ServerFds>();
    fds->pidfd = started->take_pidfd();
    fds->channel = std::move(channel->first);
    Server server{ServerInfo{id, started->pid(), lease ? lease->uid() : ::geteuid(),
                             request->program, request->arena_bytes, "", 0},
                  std::move(fds),
                  lease ? std::move(*lease) : UidLease(),
                  std::move(started).value(),
                  false,
                  false,
                  connection,
                  body};
    const int report_fd = server.launch->report_fd();
    const int pidfd = server.fds->pidfd.fd();
    servers_.emplace(id, std::move(server));
    // Without these the child would never be reaped; both fail only when memory is out.
    UBLK_CHECK(watch(report_fd, EPOLLIN, tag(Source::report, id)).ok());
    UBLK_CHECK(watch(pidfd, EPOLLIN, tag(Source::server, id)).ok());
    return {};
  }

  void read_launch(uint64_t id) {
    const auto it = servers_.find(id);
    if (it == servers_.end() || !it->second.launch) return;
    Server& server = it->second;
    LaunchReport report = server.launch->read_report();
    // The same refusal for every server of a spawner: once is enough.
    for (const Error& warning : report.warnings)
      if (warned_.insert(warning.operation).second)
        log_->warn("servers run without it: {}", warning.to_string());
    if (report.failure) {
      server.failed = true;
      log_->error("server not started: {}", report.failure->to_string());
      reply(server.requester, server.request, wire::error_to_json(*report.failure));
    } else if (report.finished && !server.failed) {
      log_->info("server={} pid={} uid={} started program={}", id, server.info.pid, server.info.uid,
                 server.info.program);
      reply(server.requester, server.request,
            {{"type", "spawned"}, {"server", to_json(server.info)}}, {server.fds});
    }
    if (!report.finished) return;
    forget(server.launch->report_fd());
    server.launch.reset();
  }

  void reap(uint64_t id) {
    const auto it = servers_.find(id);
    if (it == servers_.end()) return;
    int status = 0;
    const pid_t reaped = ::waitpid(it->second.info.pid, &status, WNOHANG);
    if (reaped == 0 || (reaped < 0 && errno == EINTR)) return;
    // What it said about its launch comes first: an answer is owed.
    read_launch(id);
    Server server = std::move(servers_.at(id));
    forget(server.fds->pidfd.fd());  // copies of it may live on in messages that wait
    servers_.erase(id);
    const bool out_of_memory = cgroups_.out_of_memory(id);
    cgroups_.remove(id);
    if (!server.failed || server.listed)
      announce(server.info, reaped > 0 ? std::optional(status) : std::nullopt, out_of_memory);
    listen_after_close();
  }

  void announce(const ServerInfo& info, std::optional<int> status, bool out_of_memory) {
    ExitNotice notice{info.id, info.pid, -1, 0, false};
    if (status && WIFSIGNALED(*status)) {
      notice.signal = WTERMSIG(*status);
      notice.out_of_memory = out_of_memory && notice.signal == SIGKILL;
    } else if (status) {
      notice.exit_code = WEXITSTATUS(*status);
    }
    log_->info("server={} pid={} volume={} {}", info.id, info.pid, info.volume, notice.to_string());
    const json body = to_json(notice);
    std::vector<uint64_t> subscribers;  // send() may drop a connection
    for (const auto& [id, connection] : connections_)
      if (connection.subscribed) subscribers.push_back(id);
    for (const uint64_t id : subscribers) send(id, Outgoing{body, {}});
  }

  void list(uint64_t connection, const json& request) {
    constexpr size_t per_message = limits::message_fds_max / 2;
    auto it = servers_.begin();
    do {
      json servers = json::array();
      std::vector<std::shared_ptr<const ServerFds>> fds;
      for (; it != servers_.end() && servers.size() < per_message; ++it) {
        if (it->second.failed) continue;
        it->second.listed = true;
        servers.push_back(to_json(it->second.info));
        fds.push_back(it->second.fds);
      }
      reply(connection, request,
            {{"type", "servers"}, {"servers", servers}, {"last", it == servers_.end()}},
            std::move(fds));
    } while (it != servers_.end());
  }

  Result<void> bind(const json& request) {
    auto id = wire::number_field<uint64_t>(request, "id");
    if (!id) return std::move(id).error();
    auto volume = wire::text_field(request, "volume");
    if (!volume) return std::move(volume).error();
    auto generation = wire::number_field<uint64_t>(request, "generation");
    if (!generation) return std::move(generation).error();
    if (volume->size() > limits::volume_name_bytes_max)
      return Error{ENAMETOOLONG, "bind", "server " + std::to_string(*id), "the volume's name"};
    const auto it = servers_.find(*id);
    if (it == servers_.end()) return {};  // it ended meanwhile: the notice is on its way
    it->second.info.volume = std::move(volume).value();
    it->second.info.generation = *generation;
    return {};
  }

  // --- the end

  void kill_all() {
    // SIGKILL, not SIGTERM: the kernel turns a killed server's device into one that waits for the
    // next server. One that is only half way through leaving would hold on to it.
    for (auto& [id, server] : servers_) (void)server.fds->pidfd.kill(SIGKILL);
  }

  Result<void> stop() {
    log_->info("stopping: killing {} servers", servers_.size());
    kill_all();
    const auto deadline = steady_clock::now() + limits::reap_deadline;
    while (!servers_.empty()) {
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(deadline - steady_clock::now());
      if (left.count() <= 0) {
        const Error error{ETIMEDOUT, "reap", std::to_string(servers_.size()) + " servers",
                          "killed, but in an uninterruptible wait"};
        log_->error("{}", error.to_string());
        return error;
      }
      // Nothing else is served any more, so that nothing new is started.
      std::array<epoll_event, 64> events{};
      const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                     static_cast<int>(left.count()));
      if (count < 0 && errno != EINTR) return errno_error("epoll_wait", "spawner");
      for (int i = 0; i < count; ++i) handle_while_stopping(events[static_cast<size_t>(i)]);
    }
    if (shutdown_requester_)
      reply(shutdown_requester_->first, shutdown_requester_->second, {{"type", "stopped"}});
    log_->info("stopped");
    return {};
  }

  void handle_while_stopping(const epoll_event& event) {
    const uint64_t id = event.data.u64 & ((uint64_t{1} << source_shift) - 1);
    switch (static_cast<Source>(event.data.u64 >> source_shift)) {
      case Source::report:
        return read_launch(id);
      case Source::server:
        return reap(id);
      // Level-triggered: they would wake us up again and again.
      case Source::listener:
        forget(listener_.fd());
        return;
      case Source::stop:
        forget(stop_fd_);
        return;
      case Source::connection:
        if (const auto it = connections_.find(id); it != connections_.end())
          forget(it->second.socket.fd());
        return;
    }
  }

  Logger log_;
  MessageListener listener_;
  UniqueFd epoll_;
  UidPool uids_;
  ServerCgroups cgroups_;
  const bool is_root_ = ::geteuid() == 0;
  bool accepting_ = false;
  bool stopping_ = false;
  int stop_fd_ = -1;
  std::optional<std::pair<uint64_t, json>> shutdown_requester_;
  std::map<uint64_t, Connection> connections_;
  std::map<uint64_t, Server> servers_;
  std::set<std::string> warned_;
  uint64_t next_connection_ = 1;
  uint64_t next_server_ = 1;
};

Spawner::Spawner(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
Spawner::Spawner(Spawner&&) noexcept = default;
Spawner& Spawner::operator=(Spawner&&) noexcept = default;
Spawner::~Spawner() = default;

Result<Spawner> Spawner::create(const SpawnerOptions& options, Logger log) {
  const uint64_t uid_end = uint64_t{options.uid_base} + options.uid_count;
  // (uid_t)-1 means "no change" to setresuid, and 65535 is its 16 bit brother.
  if (options.uid_base == 0 || options.uid_count == 0 || uid_end > UINT32_MAX)
    return Error{ERANGE, "create", "spawner",
                 "the range of uids starts above 0, is not empty and ends below 2^32"};
  auto listener = MessageListener::listen(options.socket_path, 0600);
  if (!listener) return std::move(listener).error();
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return errno_error("epoll_create1", "spawner");
  auto loop = std::make_unique<Loop>(options, std::move(log), std::move(listener).value(),
                                     std::move(epoll));
  if (auto prepared = loop->prepare(options); !prepared) return std::move(prepared).error();
  return Spawner(std::move(loop));
}

Result<void> Spawner::run(int stop_fd) { return loop_->run(stop_fd); }

}  // namespace ublk_operator
