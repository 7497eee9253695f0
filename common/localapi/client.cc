#include "common/localapi/client.h"

#include <poll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include "common/api/decode.h"
#include "common/base/limits.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

Error not_reached(const std::string& path, const std::string& why) {
  return Error{ENOTCONN, "connect", path, why};
}

std::string why_no_connection(int err) {
  switch (err) {
    case ENOENT:
    case ENOTDIR:
    case ECONNREFUSED:
      return "the agent is not running there; start it with 'systemctl start ublk-node' (or "
             "'ublk-node run --volumes DIR'), in a cluster look at the node's pod, or name its "
             "socket with --socket";
    case EACCES:
    case EPERM:
      return "no permission to use the agent's socket; run as root (sudo)";
    case EAGAIN:
      return "the agent does not accept connections; see 'systemctl status ublk-node'";
    default:
      return std::string("cannot connect to the agent: ") + std::strerror(err);  // NOLINT
  }
}

// Left of `deadline` for poll(2), rounded up so that it does not spin near the end.
int poll_timeout(Clock::time_point deadline) {
  if (deadline == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000));
}

// One connection: lines in, lines out, each call with a deadline and an optional descriptor that
// ends it when readable (ECANCELED).
class Connection {
 public:
  static Result<Connection> open(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path))
      return not_reached(path, "the socket's path is too long for a socket");
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid()) return not_reached(path, why_no_connection(errno));
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
      return not_reached(path, why_no_connection(errno));
    return Connection(path, std::move(fd));
  }

  Result<void> send(const Json& message, Clock::time_point deadline, int cancel_fd = -1) const {
    const std::string text = format_message(message);
    size_t sent = 0;
    while (sent < text.size()) {
      const ssize_t count = ::send(fd_.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (count >= 0) {
        sent += static_cast<size_t>(count);
      } else if (errno == EAGAIN) {
        if (auto ready = wait(POLLOUT, deadline, cancel_fd); !ready) return ready;
      } else if (errno == EPIPE || errno == ECONNRESET) {
        return {};  // it closed; why is in what it sent before that, or in the end of the stream
      } else if (errno != EINTR) {
        return lost();
      }
    }
    return {};
  }

  Result<Json> receive(Clock::time_point deadline, int cancel_fd = -1) {
    while (true) {
      if (const size_t end = in_.find('\n', searched_); end != std::string::npos) {
        auto message = parse_message(std::string_view(in_).substr(0, end));
        in_.erase(0, end + 1);
        searched_ = 0;
        return message;
      }
      searched_ = in_.size();
      if (in_.size() > limits::local_api_bytes_max) {
        return Error{EPROTO, "call", path_,
                     "the answer is larger than " + std::to_string(limits::local_api_bytes_max) +
                         " bytes; this is not the agent's socket, or of another version"};
      }
      std::array<char, 64 << 10> buffer;  // NOLINT: recv() fills it
      const ssize_t count = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
      if (count > 0) {
        in_.append(buffer.data(), static_cast<size_t>(count));
      } else if (count < 0 && errno == EAGAIN) {
        if (auto ready = wait(POLLIN, deadline, cancel_fd); !ready) return ready.error();
      } else if (count == 0 || errno != EINTR) {
        return lost();
      }
    }
  }

 private:
  Connection(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  Error lost() const {
    return not_reached(path_,
                       "the agent ended the connection before it answered, so the outcome is "
                       "unknown; see 'systemctl status ublk-node', then look with 'ublkctl get'");
  }

  Result<void> wait(short events, Clock::time_point deadline, int cancel_fd) const {
    std::array<pollfd, 2> polled{pollfd{fd_.get(), events, 0}, pollfd{cancel_fd, POLLIN, 0}};
    const int ready = ::poll(polled.data(), polled.size(), poll_timeout(deadline));
    if (polled[1].revents != 0) return Error{ECANCELED, "call", path_, "unwatched"};
    if (ready == 0 && Clock::now() >= deadline) {
      return Error{ETIMEDOUT, "call", path_,
                   "the agent did not answer in time, so the outcome is unknown; look with "
                   "'ublkctl get', and at 'journalctl -u ublk-node'"};
    }
    return {};
  }

  std::string path_;
  UniqueFd fd_;
  std::string in_;
  size_t searched_ = 0;  // no newline before this
};

// The result of an answer, or the error it carries.
Result<Json> take_result(Json answer, const std::string& path) {
  if (const auto error = answer.find("error"); error != answer.end()) {
    Error carried = error_from_json(*error);
    // Too many clients: for the caller as good as not reached, and not a fault of the volume.
    if (carried.err == EUSERS) carried.err = ENOTCONN;
    return carried;
  }
  const auto result = answer.find("result");
  if (result == answer.end())
    return Error{EPROTO, "call", path, "the answer holds neither a result nor an error"};
  return std::move(*result);
}

// Wakes when something appears on the way to the agent's socket. The folder itself comes and goes
// with the service (RuntimeDirectory=), so it is the nearest one that exists that is watched.
UniqueFd watch_for_socket(const std::string& path) {
  UniqueFd fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!fd.valid()) return fd;
  std::error_code ignored;
  auto folder = std::filesystem::absolute(path, ignored).parent_path();
  while (::inotify_add_watch(fd.get(), folder.c_str(),
                             IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF) < 0 &&
         folder.has_relative_path())
    folder = folder.parent_path();
  return fd;
}

}  // namespace

// ---- a watch: its connection and its thread
// ------------------------------------------------------

class LocalApiClient::Watch {
 public:
  static Result<std::unique_ptr<Watch>> start(const LocalApiClient& client, OnChange on_change) {
    auto stop = EventFd::create();
    if (!stop) return stop.error();
    auto watch = std::unique_ptr<Watch>(new Watch(client, std::move(on_change), std::move(*stop)));
    auto connection = watch->subscribe();
    if (!connection) return connection.error();
    try {
      watch->thread_ = std::thread([raw = watch.get(), first = std::move(*connection)]() mutable {
        raw->run(std::move(first));
      });
    } catch (const std::system_error& error) {
      return Error{EAGAIN, "watch", client.path_, error.what()};
    }
    return watch;
  }
  ~Watch() {
    stop_.signal();
    if (thread_.joinable()) thread_.join();
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  Watch(const LocalApiClient& client, OnChange on_change, EventFd stop)
      : client_(client), on_change_(std::move(on_change)), stop_(std::move(stop)) {}

  Result<Connection> subscribe() const {
    const auto deadline = Clock::now() + client_.call_timeout_;
    auto connection = Connection::open(client_.path_);
    if (!connection) return connection;
    const Json request{{"id", 1}, {"method", "watch"}, {"params", Json::object()}};
    if (auto sent = connection->send(request, deadline, stop_.fd()); !sent) return sent.error();
    auto answer = connection->receive(deadline, stop_.fd());
    if (!answer) return answer.error();
    if (auto result = take_result(std::move(*answer), client_.path_); !result)
      return result.error();
    return connection;
  }

  void run(Connection connection) {
    while (true) {
      if (read_changes(connection) == ECANCELED) return;
      auto again = come_back();
      if (!again) return;
      connection = std::move(*again);
      report_gone();
    }
  }

  // Until the connection is of no more use; the reason.
  int read_changes(Connection& connection) {
    while (true) {
      auto message = connection.receive(Clock::time_point::max(), stop_.fd());
      if (!message) return message.err();
      const auto event = message->find("event");
      if (event == message->end() || !event->is_object()) return EPROTO;
      const auto name = event->find("name");
      const auto volume = event->find("volume");
      if (name == event->end() || !name->is_string() || volume == event->end()) return EPROTO;
      if (volume->is_null()) {
        known_.erase(name->get<std::string>());
        on_change_(name->get<std::string>(), std::nullopt);
        continue;
      }
      const auto decoded = volume_from_json(*volume);
      if (!decoded) continue;  // of a newer agent; `get` will say what is wrong with it
      known_.insert(name->get<std::string>());
      on_change_(name->get<std::string>(), *decoded);
    }
  }

  // Until the agent answers again; nullopt when unwatched meanwhile.
  std::optional<Connection> come_back() {
    while (true) {
      const UniqueFd appeared = watch_for_socket(client_.path_);  // before the try: none is missed
      auto connection = subscribe();
      if (connection) return std::move(*connection);
      if (connection.err() == ECANCELED) return std::nullopt;
      // The time limit is for what shows nowhere: an agent that has no place for one more client.
      constexpr int retry_ms = 1000;
      std::array<pollfd, 2> polled{pollfd{appeared.get(), POLLIN, 0},
                                   pollfd{stop_.fd(), POLLIN, 0}};
      (void)::poll(polled.data(), polled.size(), retry_ms);
      if (polled[1].revents != 0) return std::nullopt;
    }
  }

  void report_gone() {
    const auto present = client_.list_volumes(stop_.fd());
    if (!present) return;  // lost again: the next round does it
    std::set<std::string> gone = known_;
    for (const Volume& volume : *present) gone.erase(volume.metadata.name);
    for (const std::string& name : gone) {
      known_.erase(name);
      on_change_(name, std::nullopt);
    }
  }

  const LocalApiClient& client_;
  const OnChange on_change_;
  const EventFd stop_;
  std::set<std::string> known_;  // the thread's
  std::thread thread_;
};

// ---- calls
// ---------------------------------------------------------------------------------------

LocalApiClient::LocalApiClient(std::string path, std::chrono::milliseconds call_timeout)
    : path_(std::move(path)), call_timeout_(call_timeout) {}

LocalApiClient::~LocalApiClient() = default;

Result<Json> LocalApiClient::call(const char* method, Json params, int cancel_fd) const {
  const auto deadline = Clock::now() + call_timeout_;
  auto connection = Connection::open(path_);
  if (!connection) return connection.error();
  const Json request{{"id", 1}, {"method", method}, {"params", std::move(params)}};
  if (auto sent = connection->send(request, deadline, cancel_fd); !sent) return sent.error();
  auto answer = connection->receive(deadline, cancel_fd);
  if (!answer) return answer.error();
  return take_result(std::move(*answer), path_);
}

void LocalApiClient::remember(Result<void> outcome) {
  const std::lock_guard lock(mutex_);
  reachable_ = std::move(outcome);
}

Result<void> LocalApiClient::reachable() {
  const std::lock_guard lock(mutex_);
  return reachable_;
}

Result<std::vector<Volume>> LocalApiClient::list_volumes(int cancel_fd) const {
  auto result = call("list", Json::object(), cancel_fd);
  if (!result) return result.error();
  std::vector<Volume> volumes;
  for (const Json& item : *result) {
    auto volume = volume_from_json(item);
    if (!volume) return volume.error();
    volumes.push_back(std::move(*volume));
  }
  return volumes;
}

std::vector<Volume> LocalApiClient::list() {
  auto volumes = list_volumes();
  if (!volumes) {
    remember(volumes.error());
    return {};
  }
  remember({});
  return std::move(*volumes);
}

Result<Volume> LocalApiClient::get(const std::string& name) {
  auto result = call("get", {{"name", name}});
  if (!result) return result.error();
  return volume_from_json(*result);
}

std::vector<VolumeEvent> LocalApiClient::events(const std::string& volume) {
  const auto result = call("events", {{"volume", volume}});
  if (!result) {
    remember(result.error());
    return {};
  }
  std::vector<VolumeEvent> events;
  for (const Json& item : *result) {
    auto event = event_from_json(item);
    if (!event) {
      remember(event.error());
      return {};
    }
    events.push_back(std::move(*event));
  }
  remember({});
  return events;
}

Result<std::vector<std::string>> LocalApiClient::apply(const std::string& manifest) {
  if (manifest.size() > limits::manifest_bytes_max) {
    return Error{EFBIG, "apply", "manifest",
                 "it has " + std::to_string(manifest.size()) + " bytes, more than " +
                     std::to_string(limits::manifest_bytes_max) + "; split it"};
  }
  try {
    (void)Json(manifest).dump();  // format_message() would repair, and so change, what is not UTF-8
  } catch (const Json::exception&) {
    return Error{EINVAL, "apply", "manifest", "it is not UTF-8 text; convert it first"};
  }
  const auto result = call("apply", {{"manifest", manifest}});
  if (!result) return result.error();
  std::vector<std::string> names;
  for (const Json& name : *result) {
    if (name.is_string()) names.push_back(name.get<std::string>());
  }
  return names;
}

namespace {
Result<void> outcome_of(const Result<Json>& result) {
  if (!result) return result.error();
  return {};
}
}  // namespace

Result<void> LocalApiClient::remove(const std::string& name) {
  return outcome_of(call("remove", {{"name", name}}));
}

Result<void> LocalApiClient::stop(const std::string& name, bool stopped, bool force) {
  return outcome_of(call("stop", {{"name", name}, {"stopped", stopped}, {"force", force}}));
}

Result<void> LocalApiClient::recover(const std::string& name, bool replace_server) {
  return outcome_of(call("recover", {{"name", name}, {"replaceServer", replace_server}}));
}

Result<void> LocalApiClient::pause(const std::string& name, bool paused) {
  return outcome_of(call("pause", {{"name", name}, {"paused", paused}}));
}

Json LocalApiClient::support_bundle() {
  auto result = call("support_bundle", Json::object());
  if (!result) {
    remember(result.error());
    return Json::object();
  }
  remember({});
  return std::move(*result);
}

uint64_t LocalApiClient::watch(OnChange on_change) {
  auto watch = Watch::start(*this, std::move(on_change));
  if (!watch) {
    remember(watch.error());
    return 0;
  }
  const std::lock_guard lock(mutex_);
  reachable_ = {};
  const uint64_t id = next_watch_++;
  watches_.emplace(id, std::move(*watch));
  return id;
}

void LocalApiClient::unwatch(uint64_t id) {
  std::unique_ptr<Watch> ended;  // joined without the lock: its on_change may be calling us
  {
    const std::lock_guard lock(mutex_);
    const auto found = watches_.find(id);
    if (found == watches_.end()) return;
    ended = std::move(found->second);
    watches_.erase(found);
  }
}

}  // namespace ublk_operator
