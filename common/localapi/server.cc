#include "common/localapi/server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "common/api/decode.h"
#include "common/base/files.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

Json answer(const Json& id, Json result) { return {{"id", id}, {"result", std::move(result)}}; }
Json refusal(const Json& id, const Error& error) {
  return {{"id", id}, {"error", error_to_json(error)}};
}

Error invalid(const std::string& method, const std::string& detail) {
  return Error{EINVAL, method, "local API", detail};
}

// What a method takes; the rest of a request is refused by it.
struct Parameters {
  const std::string& method;
  const Json& json;

  [[nodiscard]] Result<void> only(const std::set<std::string>& known) const {
    for (const auto& [key, value] : json.items()) {
      if (!known.contains(key)) {
        return invalid(method, "unknown parameter '" + key +
                                   "'; ublkctl may be newer than the agent: update the agent");
      }
    }
    return {};
  }
  [[nodiscard]] Result<std::string> text(const char* key) const {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string())
      return invalid(method, std::string("parameter '") + key + "' must be a string");
    return found->get<std::string>();
  }
  [[nodiscard]] Result<bool> flag(const char* key) const {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_boolean())
      return invalid(method, std::string("parameter '") + key + "' must be true or false");
    return found->get<bool>();
  }
};

Result<Json> done(const Result<void>& outcome) {
  if (!outcome) return outcome.error();
  return Json::object();
}

Result<Json> call_named(VolumeService& service, const std::string& method, const Parameters& in) {
  const auto name = in.text("name");
  if (!name) return name.error();
  const auto with_flag = [&](const char* key, auto&& act) -> Result<Json> {
    if (auto known = in.only({"name", key}); !known) return known.error();
    const auto flag = in.flag(key);
    if (!flag) return flag.error();
    return done(act(*flag));
  };
  if (method == "recover")
    return with_flag("replaceServer",
                     [&](bool replace) { return service.recover(*name, replace); });
  if (method == "pause")
    return with_flag("paused", [&](bool paused) { return service.pause(*name, paused); });
  if (method == "stop") {
    if (auto known = in.only({"name", "stopped", "force"}); !known) return known.error();
    const auto stopped = in.flag("stopped");
    if (!stopped) return stopped.error();
    const auto force = in.flag("force");
    if (!force) return force.error();
    return done(service.stop(*name, *stopped, *force));
  }
  if (auto known = in.only({"name"}); !known) return known.error();
  if (method == "remove") return done(service.remove(*name));
  auto volume = service.get(*name);
  if (!volume) return volume.error();
  return to_json(*volume);
}

Result<Json> call_service(VolumeService& service, const std::string& method, const Json& params) {
  const Parameters in{method, params};
  if (method == "get" || method == "remove" || method == "stop" || method == "recover" ||
      method == "pause")
    return call_named(service, method, in);
  if (method == "list" || method == "support_bundle") {
    if (auto known = in.only({}); !known) return known.error();
    if (method == "support_bundle") return service.support_bundle();
    Json volumes = Json::array();
    for (const Volume& volume : service.list()) volumes.push_back(to_json(volume));
    return volumes;
  }
  if (method == "events") {
    if (auto known = in.only({"volume"}); !known) return known.error();
    const auto volume = in.text("volume");
    if (!volume) return volume.error();
    Json events = Json::array();
    for (const VolumeEvent& event : service.events(*volume)) events.push_back(to_json(event));
    return events;
  }
  if (method == "apply") {
    if (auto known = in.only({"manifest"}); !known) return known.error();
    const auto manifest = in.text("manifest");
    if (!manifest) return manifest.error();
    auto names = service.apply(*manifest);
    if (!names) return names.error();
    return Json(*names);
  }
  return Error{EOPNOTSUPP, method, "local API",
               "the agent does not know this method; update the agent"};
}

bool changes_nothing(const std::string& method) {
  return method == "list" || method == "get" || method == "events" || method == "watch";
}

// One connection, served by one thread: requests in order, and at most one watch.
class Client {
 public:
  Client(VolumeService& service, UniqueFd socket, EventFd wake, bool may_change,
         const LocalApiServer::Options& options, int stop_fd)
      : service_(service),
        socket_(std::move(socket)),
        wake_(std::move(wake)),
        may_change_(may_change),
        options_(options),
        stop_fd_(stop_fd) {}

  // Until the client is gone, told off, or the server stops.
  void serve();

 private:
  struct Change {
    std::string name;
    std::optional<Volume> volume;
  };
  enum class Step { go_on, end };

  Step wait_and_move_bytes();
  Step read_some();
  Step write_some();
  void handle_lines();
  void handle(std::string_view line);
  Result<Json> dispatch(const Json& request);
  void start_watch();
  void take_changes();
  void send(const Json& message);
  void close_after(const Error& error);
  void on_change(const std::string& name, const std::optional<Volume>& volume);

  VolumeService& service_;
  const UniqueFd socket_;
  const EventFd wake_;
  const bool may_change_;
  const LocalApiServer::Options& options_;
  const int stop_fd_;

  // The client's thread only.
  std::string in_;
  std::string out_;
  size_t out_sent_ = 0;
  bool read_closed_ = false;
  bool closing_ = false;  // nothing more is handled; ends when out_ is sent
  std::optional<uint64_t> watch_;
  Json watch_id_;
  Clock::time_point last_progress_ = Clock::now();

  std::mutex mutex_;
  std::deque<Change> changes_;  // under mutex_
  bool overflowed_ = false;     // under mutex_
};

void Client::on_change(const std::string& name, const std::optional<Volume>& volume) {
  {
    const std::lock_guard lock(mutex_);
    if (overflowed_) return;
    if (changes_.size() >= options_.watch_changes_max) {
      overflowed_ = true;
      changes_.clear();
    } else {
      changes_.push_back({name, volume});
    }
  }
  wake_.signal();
}

void Client::send(const Json& message) {
  std::string text = format_message(message);
  if (text.size() > limits::local_api_bytes_max) {
    text = format_message(
        refusal(message.value("id", Json()),
                Error{EMSGSIZE, "answer", "local API",
                      "the answer is larger than " + std::to_string(limits::local_api_bytes_max) +
                          " bytes; ask for one volume at a time"}));
  }
  if (out_.empty()) last_progress_ = Clock::now();
  out_ += text;
}

void Client::close_after(const Error& error) {
  send(refusal(watch_ ? watch_id_ : Json(), error));
  closing_ = true;
}

void Client::start_watch() {
  watch_ = service_.watch([this](const std::string& name, const std::optional<Volume>& volume) {
    on_change(name, volume);
  });
}

Result<Json> Client::dispatch(const Json& request) {
  const auto method_field = request.find("method");
  if (method_field == request.end() || !method_field->is_string())
    return invalid("call", "a request needs \"method\", a string");
  const std::string method = method_field->get<std::string>();
  const Json params = request.value("params", Json::object());
  if (!params.is_object()) return invalid(method, "\"params\" must be an object");
  if (!may_change_ && !changes_nothing(method)) {
    return Error{EPERM, method, "local API",
                 "only root may do this; use sudo (list, get, events and watch are open to you)"};
  }
  if (method != "watch") return call_service(service_, method, params);
  if (watch_) {
    return Error{EALREADY, method, "local API", "this connection watches already; use another"};
  }
  if (auto known = Parameters{method, params}.only({}); !known) return known.error();
  watch_id_ = request.value("id", Json());
  start_watch();
  return Json::object();
}

void Client::handle(std::string_view line) {
  const auto request = parse_message(line);
  if (!request) return send(refusal(nullptr, request.error()));
  const Json id = request->value("id", Json());
  auto result = dispatch(*request);
  send(result ? answer(id, std::move(result).value()) : refusal(id, result.error()));
}

void Client::handle_lines() {
  size_t begin = 0;
  // One answer at a time: who does not read answers cannot pile up requests either.
  while (!closing_ && out_.empty()) {
    const size_t end = in_.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string_view line(in_.data() + begin, end - begin);
    if (!line.empty()) handle(line);
    begin = end + 1;
  }
  in_.erase(0, begin);
  const size_t line_max = may_change_ ? limits::local_api_bytes_max : limits::message_bytes_max;
  if (!closing_ && out_.empty() && in_.size() > line_max) {
    close_after(Error{EMSGSIZE, "call", "local API",
                      "a request may have at most " + std::to_string(line_max) + " bytes"});
  }
}

void Client::take_changes() {
  constexpr size_t batch_bytes = 256 << 10;
  bool overflowed = false;
  while (out_.size() < batch_bytes) {
    Change change;
    {
      const std::lock_guard lock(mutex_);
      overflowed = overflowed_;
      if (changes_.empty()) break;
      change = std::move(changes_.front());
      changes_.pop_front();
    }
    Json volume = change.volume ? to_json(*change.volume) : Json();
    send({{"id", watch_id_}, {"event", {{"name", change.name}, {"volume", std::move(volume)}}}});
  }
  if (overflowed) {
    close_after(Error{ENOBUFS, "watch", "local API",
                      "more than " + std::to_string(options_.watch_changes_max) +
                          " changes were waiting to be read; watch again"});
  }
}

Client::Step Client::read_some() {
  std::array<char, 64 << 10> buffer;  // NOLINT: read() fills it
  const ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (count > 0) {
    in_.append(buffer.data(), static_cast<size_t>(count));
    last_progress_ = Clock::now();
    return Step::go_on;
  }
  if (count == 0) {
    read_closed_ = true;
    return Step::go_on;
  }
  return errno == EAGAIN || errno == EINTR ? Step::go_on : Step::end;
}

Client::Step Client::write_some() {
  const ssize_t count = ::send(socket_.get(), out_.data() + out_sent_, out_.size() - out_sent_,
                               MSG_DONTWAIT | MSG_NOSIGNAL);
  if (count < 0) return errno == EAGAIN || errno == EINTR ? Step::go_on : Step::end;
  last_progress_ = Clock::now();
  out_sent_ += static_cast<size_t>(count);
  if (out_sent_ == out_.size()) {
    out_.clear();
    out_sent_ = 0;
  }
  return Step::go_on;
}

Client::Step Client::wait_and_move_bytes() {
  const bool sending = !out_.empty();
  if (!sending && closing_) return Step::end;
  if (!sending && read_closed_ && !watch_) return Step::end;

  const bool reading = !sending && !read_closed_;
  std::array<pollfd, 3> polled{
      pollfd{socket_.get(), static_cast<short>((sending ? POLLOUT : 0) | (reading ? POLLIN : 0)),
             0},
      pollfd{wake_.fd(), POLLIN, 0}, pollfd{stop_fd_, POLLIN, 0}};
  milliseconds left{-1};  // a watcher may stay silent for ever
  if (sending || !watch_) {
    const auto until = last_progress_ + (sending ? options_.stall_max : options_.idle_max);
    left = std::chrono::ceil<milliseconds>(until - Clock::now());
    if (left.count() <= 0) return Step::end;
  }
  const int ready = ::poll(polled.data(), polled.size(), static_cast<int>(left.count()));
  if (ready < 0) return errno == EINTR ? Step::go_on : Step::end;
  if (polled[2].revents != 0) return Step::end;
  if (polled[1].revents != 0) wake_.drain();
  if ((polled[0].revents & POLLIN) != 0) return read_some();
  if ((polled[0].revents & (POLLHUP | POLLERR)) != 0) return Step::end;
  if ((polled[0].revents & POLLOUT) != 0) return write_some();
  return Step::go_on;
}

void Client::serve() {
  while (wait_and_move_bytes() == Step::go_on) {
    if (out_.empty() && !closing_) handle_lines();
    if (watch_ && !closing_ && out_.empty()) take_changes();
  }
  if (watch_) service_.unwatch(*watch_);
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return Error{ENAMETOOLONG, "bind", path,
                 "a socket's path has at most " + std::to_string(sizeof(address.sun_path) - 1) +
                     " bytes; choose a shorter folder"};
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Result<UniqueFd> stream_socket(const std::string& path) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return errno_error("socket", path);
  return fd;
}

bool somebody_answers(const std::string& path) {
  const auto address = address_of(path);
  const auto fd = stream_socket(path);
  if (!address || !fd) return false;
  return ::connect(fd->get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) ==
             0 ||
         errno == EAGAIN;  // its backlog is full
}

struct Listener {
  UniqueFd fd;
  dev_t device = 0;  // which file is ours, so that stop() never removes a successor's
  ino_t inode = 0;
};

// Bound and listening under another name first: whoever sees `path` (inotify) can connect to it.
Result<Listener> listen_at(const std::string& path, mode_t mode) {
  const std::string folder = path.substr(0, path.find_last_of('/'));
  if (!folder.empty() && folder != path) {
    if (auto made = make_directories(folder); !made) return made.error();
  }
  if (somebody_answers(path)) {
    return Error{EADDRINUSE, "listen", path, "another agent answers there; stop it first"};
  }
  const std::string fresh = path + ".new";
  const auto address = address_of(fresh);
  if (!address) return address.error();
  auto fd = stream_socket(path);
  if (!fd) return fd.error();
  ::unlink(fresh.c_str());
  if (::bind(fd->get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0)
    return errno_error("bind", fresh);
  struct stat made{};
  constexpr int backlog = 16;
  if (::chmod(fresh.c_str(), mode) != 0 || ::listen(fd->get(), backlog) != 0 ||
      ::stat(fresh.c_str(), &made) != 0 || ::rename(fresh.c_str(), path.c_str()) != 0) {
    const Error error = errno_error("listen", path);
    ::unlink(fresh.c_str());
    return error;
  }
  return Listener{std::move(*fd), made.st_dev, made.st_ino};
}

class Server : public LocalApiServer {
 public:
  Server(VolumeService& service, Options options, Logger log, Listener listener, EventFd stop,
         EventFd ended)
      : service_(service),
        options_(std::move(options)),
        log_(std::move(log)),
        listener_(std::move(listener)),
        stop_(std::move(stop)),
        ended_(std::move(ended)),
        thread_([this] { run(); }) {}
  ~Server() override { Server::stop(); }

  void stop() override {
    const std::lock_guard lock(stopping_);
    if (!thread_.joinable()) return;
    stop_.signal();
    thread_.join();
    struct stat present{};
    if (::stat(options_.path.c_str(), &present) == 0 && present.st_dev == listener_.device &&
        present.st_ino == listener_.inode)
      ::unlink(options_.path.c_str());
    listener_.fd.reset();
  }

 private:
  struct Slot {
    std::unique_ptr<Client> client;
    std::thread thread;
    bool ended = false;  // under slots_mutex_
  };

  void run();
  void accept_one();
  void reap();
  [[nodiscard]] bool may_change(int fd) const;
  static void turn_away(int fd, const Error& error);

  VolumeService& service_;
  const Options options_;
  const Logger log_;
  Listener listener_;
  const EventFd stop_;   // never drained: ends every thread
  const EventFd ended_;  // a client's thread is about to return
  std::mutex stopping_;
  std::mutex slots_mutex_;
  std::list<Slot> slots_;  // changed by the accepting thread only
  std::thread thread_;     // last: it uses all of the above
};

bool Server::may_change(int fd) const {
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  if (options_.may_change) return options_.may_change(peer.uid);
  return peer.uid == 0 || peer.uid == ::geteuid();
}

void Server::turn_away(int fd, const Error& error) {
  const std::string text = format_message(refusal(nullptr, error));
  // A fresh connection's buffer takes it; if not, the client learns it from the end of the stream.
  (void)::send(fd, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

void Server::accept_one() {
  UniqueFd fd(::accept4(listener_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
      log_->warn("msg=\"local API cannot accept\" error={}", errno_name(errno));
      // Nothing tells when a descriptor is free again, and the listener stays readable.
      pollfd stop{stop_.fd(), POLLIN, 0};
      (void)::poll(&stop, 1, 100);
    }
    return;
  }
  const Error busy{EUSERS, "connect", options_.path,
                   std::to_string(options_.clients_max) +
                       " clients are connected already; end one (ublkctl events --watch?)"};
  // A caller that has just hung up (each call is a connection) may not be noticed yet.
  constexpr int grace_ms = 200;
  std::array<pollfd, 2> polled{pollfd{ended_.fd(), POLLIN, 0}, pollfd{stop_.fd(), POLLIN, 0}};
  if (slots_.size() >= options_.clients_max && ::poll(polled.data(), polled.size(), grace_ms) > 0) {
    ended_.drain();
    reap();
  }
  if (slots_.size() >= options_.clients_max) return turn_away(fd.get(), busy);
  auto wake = EventFd::create();
  if (!wake) return turn_away(fd.get(), wake.error());
  const bool privileged = may_change(fd.get());
  Slot& slot = slots_.emplace_back();
  slot.client = std::make_unique<Client>(service_, std::move(fd), std::move(*wake), privileged,
                                         options_, stop_.fd());
  try {
    slot.thread = std::thread([this, &slot] {
      slot.client->serve();
      {
        const std::lock_guard lock(slots_mutex_);
        slot.ended = true;
      }
      ended_.signal();
    });
  } catch (const std::system_error& error) {
    log_->warn("msg=\"local API cannot start a thread\" error=\"{}\"", error.what());
    slots_.pop_back();
  }
}

void Server::reap() {
  for (auto slot = slots_.begin(); slot != slots_.end();) {
    bool ended = false;
    {
      const std::lock_guard lock(slots_mutex_);
      ended = slot->ended;
    }
    if (!ended) {
      ++slot;
      continue;
    }
    slot->thread.join();
    slot = slots_.erase(slot);
  }
}

void Server::run() {
  while (true) {
    std::array<pollfd, 3> polled{pollfd{listener_.fd.get(), POLLIN, 0},
                                 pollfd{ended_.fd(), POLLIN, 0}, pollfd{stop_.fd(), POLLIN, 0}};
    if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) break;
    if (polled[2].revents != 0) break;
    if (polled[1].revents != 0) {
      ended_.drain();
      reap();
    }
    if (polled[0].revents != 0) accept_one();
  }
  for (Slot& slot : slots_) slot.thread.join();
  slots_.clear();
}

}  // namespace

Result<std::unique_ptr<LocalApiServer>> LocalApiServer::start(VolumeService& service,
                                                              Options options, Logger log) {
  auto stop = EventFd::create();
  if (!stop) return stop.error();
  auto ended = EventFd::create();
  if (!ended) return ended.error();
  auto listener = listen_at(options.path, options.mode);
  if (!listener) return listener.error();
  try {
    return std::unique_ptr<LocalApiServer>(
        std::make_unique<Server>(service, std::move(options), std::move(log), std::move(*listener),
                                 std::move(*stop), std::move(*ended)));
  } catch (const std::system_error& error) {
    return Error{EAGAIN, "listen", "local API", error.what()};
  }
}

}  // namespace ublk_operator
