#include "node/server/server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "common/base/files.h"
#include "common/base/run_first.h"

namespace ublk_operator {
namespace {

constexpr int kExitOk = 0;
constexpr int kExitFailed = 1;

// For what has nobody else to be told to: the channel may be gone.
void complain(const Error& error) {
  (void)fprintf(stderr, "ublk-server: %s\n", error.to_string().c_str());
}

// Test hook: tells the test who stopped here, and stops for good.
void halt_if(bool here, const UniqueFd& hook) {
  if (!here) return;
  (void)write_all(hook.get(), std::to_string(getpid()) + "\n", "halt_at");
  for (;;) pause();
}

}  // namespace

Server::Server(MessageSocket channel, Mapping arena, EventFd queue_ended,
               std::unique_ptr<Herald> herald)
    : channel_(std::move(channel)),
      group_(std::move(queue_ended)),
      arena_(std::move(arena)),
      herald_(std::move(herald)) {}

Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::create(MessageSocket channel, Mapping arena) {
  auto event = EventFd::create();
  if (!event) return std::move(event).error();
  auto herald = Herald::start();
  return std::unique_ptr<Server>(new Server(std::move(channel), std::move(arena),
                                            std::move(event).value(),
                                            herald ? std::move(herald).value() : nullptr));
}

int Server::run(const ReadyMessage& ready) {
  say(to_json(ready));
  for (;;) {
    std::array<pollfd, 2> watched{{{.fd = group_.ended.fd(), .events = POLLIN, .revents = 0},
                                   {.fd = channel_.fd(), .events = POLLIN, .revents = 0}}};
    if (poll(watched.data(), watched.size(), -1) < 0) {
      if (errno == EINTR) continue;
      complain(errno_error("poll", "channel"));
      return kExitFailed;
    }
    if (watched[0].revents != 0) {
      if (const auto status = check_queues()) return *status;
    }
    if (watched[1].revents != 0) {
      if (const auto status = read_channel()) return *status;
    }
  }
}

std::optional<int> Server::check_queues() {
  group_.ended.drain();
  size_t ended = 0;
  for (const auto& queue : queues_) {
    const auto outcome = queue->ended();
    if (!outcome) continue;
    ++ended;
    if (!outcome->ok()) {
      // One queue that cannot go on: a fresh server for the whole device is the cure.
      complain(outcome->error());
      say(failed_to_json(outcome->error()));
      return kExitFailed;
    }
  }
  if (ended == queues_.size()) return kExitOk;
  return std::nullopt;
}

std::optional<int> Server::read_channel() {
  for (;;) {
    auto message = channel_.try_receive();
    if (message) {
      if (const auto status = handle(std::move(message).value())) return status;
      continue;
    }
    if (message.err() == EAGAIN || message.err() == EINTR) return std::nullopt;
    if (message.err() == EPROTO) {
      complain(message.error());
      if (granted_) continue;
      say(failed_to_json(message.error()));
      return kExitFailed;
    }
    // Nobody can say anything to us any more. A server that serves goes on; a standby without a
    // volume can never get one.
    channel_.close();
    if (granted_) return std::nullopt;
    return kExitOk;
  }
}

std::optional<int> Server::handle(Message message) {
  const auto type_field = message.body.find("type");
  const std::string type = type_field != message.body.end() && type_field->is_string()
                               ? type_field->get<std::string>()
                               : std::string();
  const auto refuse = [this](const Error& error) -> std::optional<int> {
    complain(error);
    // What is being served must not suffer from what is being said.
    if (granted_) return std::nullopt;
    say(failed_to_json(error));
    return kExitFailed;
  };

  if (type == "stats") {
    const auto id = message.body.find("id");
    say(to_json(
        stats(id != message.body.end() && id->is_number_unsigned() ? id->get<uint64_t>() : 0)));
    return std::nullopt;
  }
  if (type == "describe") {
    say(to_json(described()), herald_ ? std::vector<int>{herald_->fd()} : std::vector<int>{});
    return std::nullopt;
  }
  if (type != "prepare" && type != "grant")
    return refuse(Error{EPROTO, "handle_message", "channel", "unknown type \"" + type + "\""});
  if (granted_)
    return refuse(Error{EALREADY, type, granted_->volume,
                        "this server has its volume; a server serves one in its life"});

  if (type == "prepare") {
    auto parsed = prepare_from_json(message.body);
    if (!parsed) return refuse(parsed.error());
    if (first_ && !parsed->run_first) prepared_.reset();  // of an agent that asked for it
    if (auto prepared = prepare(parsed->geometry); !prepared) return refuse(prepared.error());
    if (parsed->run_first) hurry();
    say({{"type", "prepared"}});
    return std::nullopt;
  }

  auto parsed = grant_from_json(message.body);
  if (!parsed) return refuse(parsed.error());
  if (auto fetched = grant(std::move(parsed).value(), std::move(message.fds)); !fetched) {
    complain(fetched.error());
    say(failed_to_json(fetched.error()));
    return kExitFailed;
  }
  say({{"type", "fetching"}});
  return std::nullopt;
}

Result<void> Server::prepare(const Geometry& geometry) {
  if (prepared_ == geometry) return {};
  run_as_others();  // what follows takes long, and queues begin as this thread is
  first_ = false;
  queues_.clear();
  prepared_.reset();
  const size_t queue_bytes = size_t{geometry.queue_depth} * geometry.max_io_bytes;
  const size_t needed = queue_bytes * geometry.queues;
  if (arena_.bytes().size() < needed) {
    arena_ = Mapping{};  // first, so that both are never locked at once
    auto mapped = map_buffers(needed);
    if (!mapped) return std::move(mapped).error();
    arena_ = std::move(mapped).value();
  }
  for (uint16_t id = 0; id < geometry.queues; ++id) {
    auto queue =
        Queue::start(id, geometry, arena_.bytes().subspan(id * queue_bytes, queue_bytes), group_);
    if (!queue) return std::move(queue).error();
    queues_.push_back(std::move(queue).value());
  }
  if (auto started = wait_for_queues(); !started) return started;
  prepared_ = geometry;
  return {};
}

void Server::hurry() {
  (void)run_first(pthread_self());  // not allowed: a little later, then
  for (const auto& queue : queues_) queue->hurry();
  first_ = true;
}

Result<void> Server::grant(GrantMessage message, std::vector<UniqueFd> fds) {
  UniqueFd hook;
  if (!message.halt_at.empty()) {
    if (fds.empty())
      return Error{EPROTO, "grant", message.volume, "halt_at needs a descriptor to write to"};
    hook = std::move(fds.back());
    fds.pop_back();
  }
  if (auto prepared = prepare(message.geometry); !prepared) return prepared;

  // What the device promises, the backend must be able to keep.
  message.backend.emplace("size_bytes", message.geometry.size_bytes);
  message.backend.emplace("logical_block_bytes", message.geometry.logical_block_bytes);
  message.backend.emplace("read_only", message.geometry.read_only);
  if (message.latency_ns > 0) message.backend["latency_ns"] = message.latency_ns;
  auto backend = make_backend(message.backend, std::move(fds));
  if (!backend) return std::move(backend).error();
  backend_ = std::move(backend).value();

  for (size_t id = 0; id < queues_.size(); ++id)
    queues_[id]->attach(
        *backend_, message.queue_cpus.empty() ? std::vector<unsigned>{} : message.queue_cpus[id]);
  if (auto attached = wait_for_queues(); !attached) return attached;

  granted_ = std::move(message);
  if (auto fetched = open_and_fetch(*granted_, hook); !fetched) return fetched;
  run_as_others();
  // For good: whoever takes this process over later does not run before others.
  const rlimit ordinary{.rlim_cur = 0, .rlim_max = 0};
  (void)setrlimit(RLIMIT_RTPRIO, &ordinary);
  fetching_ = true;
  return {};
}

Result<void> Server::open_and_fetch(const GrantMessage& message, const UniqueFd& hook) {
  const std::string path = char_path(message.device);
  const uint16_t depth = message.geometry.queue_depth;
  descriptors_.reserve(queues_.size());

  halt_if(message.halt_at == "before_open", hook);
  // Said before it is done: who dies without it has left no trace on the device.
  say({{"type", "opening"}});
  // EBUSY (another server still holds it) is not retried here: who granted knows when it is free.
  UniqueFd char_fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!char_fd.valid()) return errno_error("open", path);
  for (uint16_t id = 0; id < message.geometry.queues; ++id) {
    const size_t bytes = abi::desc_bytes(depth);
    void* address = mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, char_fd.get(),
                         static_cast<off_t>(abi::desc_offset(id)));
    if (address == MAP_FAILED)
      return errno_error("mmap", path,
                         errno == EINVAL ? "another process has mapped this device before, or its "
                                           "queue depth is not the granted one"
                                         : "");
    descriptors_.emplace_back(address, bytes);
  }
  halt_if(message.halt_at == "after_mmap", hook);

  const bool halt = message.halt_at == "half_fetched";
  size_t tags_left = halt ? queues_.size() * depth / 2 : 0;
  for (size_t id = 0; id < queues_.size(); ++id) {
    const auto* descriptors = static_cast<const abi::IoDesc*>(descriptors_[id].address());
    if (halt) {
      const size_t tags = std::min<size_t>(tags_left, depth);
      tags_left -= tags;
      queues_[id]->fetch_and_halt(char_fd.get(), descriptors, static_cast<uint16_t>(tags));
    } else {
      queues_[id]->fetch(char_fd.get(), descriptors);
    }
  }
  if (auto fetched = wait_for_queues(); !fetched) return fetched;
  halt_if(halt, hook);
  // Here char_fd closes, and the rings alone hold ublkcN: its release proves their end (ring.h,
  // "Fence").
  return {};
}

Result<void> Server::wait_for_queues() {
  Result<void> first_failure;
  for (const auto& queue : queues_)
    if (auto outcome = queue->wait(); !outcome && first_failure.ok())
      first_failure = std::move(outcome);
  return first_failure;
}

StatsMessage Server::stats(uint64_t id) const {
  static constexpr IoOp ops[] = {IoOp::read, IoOp::write, IoOp::flush, IoOp::discard,
                                 IoOp::write_zeroes};
  static_assert(std::size(ops) == io_op_count);
  StatsMessage message;
  message.id = id;
  for (const IoOp op : ops) {
    IoCounters& sum = message.io[to_string(op)];
    for (const auto& queue : queues_) {
      sum.operations += queue->counters().operations(op);
      sum.bytes += queue->counters().bytes(op);
      sum.errors += queue->counters().errors(op);
      const IoLatency latency = queue->counters().latency(op);
      for (size_t i = 0; i < IoLatency::buckets; ++i) sum.latency.counts[i] += latency.counts[i];
      sum.latency.sum_ns += latency.sum_ns;
    }
  }
  for (size_t err = 0; err < QueueCounters::errnos; ++err) {
    uint64_t sum = 0;
    for (const auto& queue : queues_) sum += queue->counters().errors_of(err);
    if (sum > 0) message.io_errors[err == 0 ? "other" : errno_name(static_cast<int>(err))] = sum;
  }
  return message;
}

DescribedMessage Server::described() const {
  DescribedMessage message;
  if (granted_) {
    message.granted = true;
    message.volume = granted_->volume;
    message.generation = granted_->generation;
    message.device = granted_->device;
    message.fetching = fetching_;
  }
  return message;
}

void Server::say(const nlohmann::json& body, const std::vector<int>& fds) const {
  // A channel that nobody reads, or that is gone, is the other side's problem: serving goes on.
  if (channel_.valid()) (void)channel_.send(body, fds);
}

}  // namespace ublk_operator
