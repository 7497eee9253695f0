#include "node/agent/server_pool.h"

#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include "common/base/limits.h"
#include "node/server/protocol.h"
#include "node/spawner/wire.h"

namespace ublk_operator {

namespace {
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// No event tells that a socket begins to answer: asked at once, then with a doubling pause.
constexpr auto reconnect_min = 20ms;
constexpr auto reconnect_max = 1000ms;
// A standby that dies while idle is replaced after this long, so that a program that cannot start
// does not spin.
constexpr auto respawn_pause = 1000ms;
// The volume that took a standby serves since this moment: its application's first requests have
// the CPUs for themselves. A death within it waits for a server to be started.
constexpr auto refill_after = 100ms;
constexpr auto spawn_timeout = 10s;
constexpr auto describe_timeout = 1s;
// A larger one is made for its volume when needed: standbys are locked memory that nobody uses yet.
constexpr uint64_t standby_arena_bytes_max = 64 << 20;
constexpr size_t exits_kept_max = 4 * limits::volumes_max;

// A server's own memory beyond its buffers, and the page cache of a file without direct I/O. One
// that leaks is killed, and recovered, before it takes the node's.
constexpr uint64_t memory_beyond_arena = 1 << 30;
SpawnRequest request_for(const std::string& program, uint64_t arena_bytes) {
  return {program, arena_bytes, arena_bytes + memory_beyond_arena};
}

// Of that very server: ids begin anew with each spawner, and pids come again.
const ExitNotice* find_notice(const std::deque<ExitNotice>& exits, uint64_t id, pid_t pid) {
  const auto it = std::find_if(exits.rbegin(), exits.rend(), [&](const ExitNotice& notice) {
    return notice.id == id && notice.pid == pid;
  });
  return it == exits.rend() ? nullptr : &*it;
}

// Is the process's program the file that lies at `program` now?
bool runs(pid_t pid, const std::string& program) {
  struct stat running{};
  struct stat there{};
  const std::string exe = "/proc/" + std::to_string(pid) + "/exe";
  return ::stat(exe.c_str(), &running) == 0 && ::stat(program.c_str(), &there) == 0 &&
         running.st_dev == there.st_dev && running.st_ino == there.st_ino;
}

}  // namespace

ServerPool::ServerPool(ServerPoolOptions options, Logger log, std::function<void()> on_change)
    : options_(std::move(options)),
      log_(std::move(log)),
      on_change_(std::move(on_change)),
      wake_(EventFd::must_create()) {}

ServerPool::~ServerPool() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  wake_.signal();
  if (thread_.joinable()) thread_.join();
}

void ServerPool::start() {
  thread_ = std::thread([this] { run(); });
}

bool ServerPool::connected() const {
  const std::scoped_lock lock(mutex_);
  return client_ != nullptr;
}

Result<void> ServerPool::wait_connected(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  if (!connected_changed_.wait_for(lock, timeout, [this] { return client_ != nullptr; }))
    return Error{ETIMEDOUT, "connect", options_.spawner_socket, no_spawner_answers};
  return {};
}

Result<AcquiredServer> ServerPool::acquire(const Geometry& geometry) {
  const uint64_t arena_bytes = geometry.buffer_bytes();
  std::shared_ptr<SpawnerClient> client;
  {
    const std::scoped_lock lock(mutex_);
    note_locked(geometry);
    const auto fits = [&](const Standby& standby) {
      return standby.server.info.arena_bytes >= arena_bytes && !standby.server.pidfd.exited();
    };
    auto chosen = std::find_if(standbys_.begin(), standbys_.end(), [&](const Standby& standby) {
      return standby.told == geometry && fits(standby);
    });
    if (chosen == standbys_.end()) chosen = std::find_if(standbys_.begin(), standbys_.end(), fits);
    if (chosen != standbys_.end()) {
      AcquiredServer acquired{std::move(chosen->server), chosen->told == geometry};
      standbys_.erase(chosen);
      hand_out_locked(acquired.server.info);
      return acquired;
    }
    client = client_;
  }
  if (!client)
    return Error{ENOTCONN, "spawn", options_.spawner_socket, "no spawner answers at the moment"};
  auto server = client->spawn(request_for(options_.server_program, arena_bytes), spawn_timeout);
  if (!server) return std::move(server).error();
  const std::scoped_lock lock(mutex_);
  hand_out_locked(server->info);
  return AcquiredServer{std::move(server).value(), false};
}

std::optional<SpawnedServer> ServerPool::adopt(const std::string& volume) {
  const std::scoped_lock lock(mutex_);
  auto node = adoptable_.extract(volume);
  if (node.empty()) return std::nullopt;
  hand_out_locked(node.mapped().info);
  return std::move(node.mapped());
}

// Its end may have been said before.
void ServerPool::hand_out_locked(const ServerInfo& server) {
  if (find_notice(exits_, server.id, server.pid) == nullptr) handed_out_.insert(server.pid);
}

void ServerPool::bind(uint64_t server, const std::string& volume, uint64_t generation) {
  std::shared_ptr<SpawnerClient> client;
  {
    const std::scoped_lock lock(mutex_);
    client = client_;
  }
  if (client) client->bind(server, volume, generation);
}

void ServerPool::note_locked(const Geometry& geometry) {
  arena_bytes_ = std::max(arena_bytes_, std::min(geometry.buffer_bytes(), standby_arena_bytes_max));
  geometry_ = geometry;
}

void ServerPool::note_geometry(const Geometry& geometry) {
  {
    const std::scoped_lock lock(mutex_);
    const uint64_t before = arena_bytes_;
    note_locked(geometry);
    if (arena_bytes_ == before) return;
    refill_wanted_ = true;
    // Volumes that have just been found without a server come first.
    spawn_not_before_ = std::max(spawn_not_before_, Clock::now() + respawn_pause);
  }
  wake_.signal();
}

void ServerPool::refill() {
  {
    const std::scoped_lock lock(mutex_);
    refill_wanted_ = true;
    spawn_not_before_ = Clock::now() + refill_after;
  }
  wake_.signal();
}

void ServerPool::drop_standbys() {
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& standby : standbys_) (void)standby.server.pidfd.kill(SIGKILL);
    standbys_.clear();
    refill_wanted_ = true;
  }
  wake_.signal();
}

ServerEnd ServerPool::end_of(uint64_t id, pid_t pid) {
  const std::scoped_lock lock(mutex_);
  if (const ExitNotice* notice = find_notice(exits_, id, pid)) return {*notice, false};
  return {std::nullopt, handed_out_.contains(pid)};
}

// The spawner may not have heard of a grant; the server itself knows. What says that it serves is
// never a standby.
void ServerPool::ask_what_it_holds(SpawnedServer& server) {
  if (!server.info.volume.empty() || !server.channel.send({{"type", "describe"}})) return;
  const auto until = Clock::now() + describe_timeout;
  while (Clock::now() < until) {
    auto message =
        server.channel.receive(std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()));
    if (!message) return;
    if (wire::type_of(message->body) != "described") continue;
    auto described = described_from_json(message->body);
    if (described && described->granted) {
      server.info.volume = described->volume;
      server.info.generation = described->generation;
    }
    return;
  }
}

void ServerPool::connect_locked(std::unique_lock<std::mutex>& lock) {
  const auto handed_out = handed_out_;  // nobody gets one while there is no spawner
  lock.unlock();
  auto client = connect_spawner(options_.spawner_socket);
  if (!client && options_.start_spawner) {
    if (auto started = options_.start_spawner(); started)
      client = connect_spawner(options_.spawner_socket);
    else
      log_->error("operation=start_spawner error=\"{}\"", started.error().to_string());
  }
  Result<std::vector<SpawnedServer>> servers = std::vector<SpawnedServer>{};
  if (client) servers = (*client)->list(spawn_timeout);
  if (servers)
    for (auto& server : *servers)
      if (!handed_out.contains(server.info.pid))
        ask_what_it_holds(server);  // else its messages are a worker's
  lock.lock();
  if (!client || !servers) {
    const auto& error = client ? servers.error() : client.error();
    if (retry_ == 0ms)
      log_->warn("operation=connect_spawner error=\"{}\" retry=true", error.to_string());
    retry_ = std::clamp<std::chrono::milliseconds>(retry_ * 2, reconnect_min, reconnect_max);
    return;
  }
  retry_ = 0ms;
  client_ = std::move(*client);
  // Who ended meanwhile, or with another spawner, and was not said to: nobody will say how.
  (void)client_->process_events([this](const ExitNotice& notice) { note_exit_locked(notice); });
  for (const pid_t pid : handed_out)
    if (std::none_of(servers->begin(), servers->end(),
                     [&](const SpawnedServer& server) { return server.info.pid == pid; }))
      handed_out_.erase(pid);
  for (auto& server : *servers) {
    if (handed_out_.contains(server.info.pid)) continue;  // a worker of ours has it
    if (server.info.volume.empty() && !runs(server.info.pid, options_.server_program))
      (void)server.pidfd.kill(SIGKILL);  // of a program that was replaced since
    else if (server.info.volume.empty())
      standbys_.push_back({std::move(server), std::nullopt});
    else
      adoptable_.insert_or_assign(server.info.volume, std::move(server));
  }
  log_->info("operation=connect_spawner socket={} servers={}", options_.spawner_socket,
             servers->size());
  connected_changed_.notify_all();
}

void ServerPool::note_exit_locked(const ExitNotice& notice) {
  // A standby that died is replaced, though not in a spin.
  for (const auto& standby : standbys_)
    if (standby.server.info.id == notice.id) {
      log_->warn("operation=standby_died pid={} how=\"{}\"", notice.pid, notice.to_string());
      refill_wanted_ = true;
      spawn_not_before_ = Clock::now() + respawn_pause;
    }
  handed_out_.erase(notice.pid);
  exits_.push_back(notice);
  if (exits_.size() > exits_kept_max) exits_.pop_front();
}

void ServerPool::lost_locked() {
  log_->warn("operation=spawner_lost socket={}", options_.spawner_socket);
  client_.reset();
  standbys_.clear();  // they died with it
  adoptable_.clear();
  // Who was handed out is remembered: after a mere loss of the connection it is in the next list
  // again.
  refill_wanted_ = true;
}

void ServerPool::fill_standbys(std::unique_lock<std::mutex>& lock) {
  std::erase_if(standbys_, [](const Standby& standby) { return standby.server.pidfd.exited(); });
  // One that is too small for a volume seen since is of no use.
  for (auto it = standbys_.begin(); it != standbys_.end();) {
    if (it->server.info.arena_bytes >= arena_bytes_) {
      ++it;
      continue;
    }
    (void)it->server.pidfd.kill(SIGKILL);
    it = standbys_.erase(it);
  }
  // Nobody has asked for a volume yet: how large a standby must be is not known.
  if (arena_bytes_ == 0) return;
  while (standbys_.size() < options_.standby_count) {
    const auto client = client_;
    const SpawnRequest request = request_for(options_.server_program, arena_bytes_);
    lock.unlock();
    auto server = client->spawn(request, spawn_timeout);
    lock.lock();
    if (!server) {
      log_->warn("operation=spawn_standby error=\"{}\" retry=true", server.error().to_string());
      spawn_not_before_ = Clock::now() + respawn_pause;
      return;
    }
    Standby standby{std::move(server).value(), std::nullopt};
    if (geometry_ && geometry_->buffer_bytes() <= standby.server.info.arena_bytes &&
        standby.server.channel.send(to_json(PrepareMessage{*geometry_, options_.run_first})))
      standby.told = geometry_;
    standbys_.push_back(std::move(standby));
  }
  refill_wanted_ = false;
}

void ServerPool::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (!client_) {
      connect_locked(lock);
      if (client_) {
        lock.unlock();
        on_change_();
        lock.lock();
      }
    }
    if (client_ && refill_wanted_ && Clock::now() >= spawn_not_before_) fill_standbys(lock);

    std::array<pollfd, 2> fds{pollfd{wake_.fd(), POLLIN, 0},
                              pollfd{client_ ? client_->fd() : -1, POLLIN, 0}};
    int timeout = -1;
    if (!client_)
      timeout = static_cast<int>(retry_.count());
    else if (refill_wanted_ && arena_bytes_ > 0)
      timeout = static_cast<int>(
          std::clamp<std::chrono::milliseconds>(
              std::chrono::ceil<std::chrono::milliseconds>(spawn_not_before_ - Clock::now()), 1ms,
              respawn_pause)
              .count());
    const auto client = client_;
    lock.unlock();
    const int ready = ::poll(fds.data(), fds.size(), timeout);
    bool changed = false;
    Result<void> alive;
    std::vector<ExitNotice> notices;
    if (ready > 0 && fds[0].revents != 0) wake_.drain();
    if (ready > 0 && fds[1].revents != 0)
      alive = client->process_events([&](const ExitNotice& notice) { notices.push_back(notice); });
    lock.lock();
    for (const auto& notice : notices) note_exit_locked(notice);
    changed = !notices.empty();
    if (!alive && client_ == client) {
      lost_locked();
      changed = true;
    }
    if (changed) {
      lock.unlock();
      on_change_();
      lock.lock();
    }
  }
}

}  // namespace ublk_operator
