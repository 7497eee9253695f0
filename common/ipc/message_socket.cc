#include "common/ipc/message_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "common/base/limits.h"

namespace ublk_operator {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t control_bytes = CMSG_SPACE(sizeof(int) * limits::message_fds_max);
// Waiting longer is the same as waiting for ever; poll(2) counts milliseconds in an int.
constexpr auto wait_max = std::chrono::hours(24);
// connect(2) waits while the backlog is full: that long may a listener be busy.
constexpr auto connect_deadline = std::chrono::seconds(5);

std::string socket_name(int fd) { return "socket " + std::to_string(fd); }

Error peer_closed(int fd) {
  return Error{ECONNRESET, "receive", socket_name(fd), "the other side closed the connection"};
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return Error{
        ENAMETOOLONG, "connect", path,
        "a socket path has 1 to " + std::to_string(sizeof address.sun_path - 1) + " bytes"};
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

Result<UniqueFd> seqpacket_socket(int flags) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0));
  if (!fd.valid()) return errno_error("socket", "AF_UNIX SOCK_SEQPACKET");
  return fd;
}

Result<void> connect_to(int fd, const std::string& path) {
  auto address = address_of(path);
  if (!address) return std::move(address).error();
  while (::connect(fd, reinterpret_cast<const sockaddr*>(&*address), sizeof *address) < 0)
    if (errno != EINTR) return errno_error("connect", path);
  return {};
}

// Every descriptor of the message, whatever else is wrong with it: what is not owned here leaks.
std::vector<UniqueFd> take_fds(msghdr& header) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

Result<std::pair<MessageSocket, MessageSocket>> MessageSocket::pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
    return errno_error("socketpair", "AF_UNIX SOCK_SEQPACKET");
  return std::pair(MessageSocket(UniqueFd(fds[0])), MessageSocket(UniqueFd(fds[1])));
}

Result<MessageSocket> MessageSocket::connect(const std::string& path) {
  auto fd = seqpacket_socket(0);
  if (!fd) return std::move(fd).error();
  // Only connect(2) is bounded by this: sending never waits.
  const timeval bound{connect_deadline.count(), 0};
  if (::setsockopt(fd->get(), SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound) < 0)
    return errno_error("setsockopt", path);
  if (auto connected = connect_to(fd->get(), path); !connected) return std::move(connected).error();
  return MessageSocket(std::move(fd).value());
}

Result<MessageSocket> MessageSocket::duplicate() const {
  auto copy = fd_.duplicate();
  if (!copy) return std::move(copy).error();
  return MessageSocket(std::move(copy).value());
}

Result<void> MessageSocket::send(const nlohmann::json& body, const std::vector<int>& fds) const {
  UBLK_CHECK(body.is_object());
  // Names and paths come from outside and need not be UTF-8; dump() would throw on them.
  std::string text = body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > limits::message_bytes_max || fds.size() > limits::message_fds_max)
    return Error{EMSGSIZE, "send", socket_name(fd_.get()),
                 std::to_string(text.size()) + " bytes and " + std::to_string(fds.size()) +
                     " descriptors; at most " + std::to_string(limits::message_bytes_max) +
                     " and " + std::to_string(limits::message_fds_max)};
  iovec part{text.data(), text.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, control_bytes> control{};
  if (!fds.empty()) {
    const size_t bytes = sizeof(int) * fds.size();
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(c), fds.data(), bytes);
  }
  // A datagram is sent whole or not at all.
  while (::sendmsg(fd_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno == EINTR) continue;
    const bool full = errno == EAGAIN || errno == ENOBUFS;
    return errno_error("send", socket_name(fd_.get()),
                       full ? "the other side does not read its messages" : "");
  }
  return {};
}

Result<Message> MessageSocket::try_receive() const {
  std::string text(limits::message_bytes_max, '\0');
  iovec part{text.data(), text.size()};
  alignas(cmsghdr) std::array<char, control_bytes> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t received = -1;
  do {
    received = ::recvmsg(fd_.get(), &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  if (received < 0) return errno_error("receive", socket_name(fd_.get()));

  Message message;
  message.fds = take_fds(header);
  const auto refuse = [&](std::string_view why) {
    return Error{EPROTO, "receive", socket_name(fd_.get()), std::string(why)};
  };
  if ((header.msg_flags & MSG_TRUNC) != 0) return refuse("the message is larger than allowed");
  if ((header.msg_flags & MSG_CTRUNC) != 0)
    return refuse("more descriptors than allowed, or the limit of open files is reached");
  // An empty datagram looks the same as end of stream. Ours are never empty, so a peer that sends
  // one is treated as gone.
  if (received == 0) return peer_closed(fd_.get());
  text.resize(static_cast<size_t>(received));
  message.body = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!message.body.is_object()) return refuse("the message is not a JSON object");
  return message;
}

Result<Message> MessageSocket::receive(milliseconds timeout) const {
  const auto deadline = steady_clock::now() + std::min<milliseconds>(timeout, wait_max);
  while (true) {
    auto message = try_receive();
    if (message.err() != EAGAIN) return message;
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left.count() <= 0)
      return Error{ETIMEDOUT, "receive", socket_name(fd_.get()),
                   "no message within " +
                       std::to_string(std::max<milliseconds::rep>(timeout.count(), 0)) + " ms"};
    pollfd p{fd_.get(), POLLIN, 0};
    if (::poll(&p, 1, static_cast<int>(left.count())) < 0 && errno != EINTR)
      return errno_error("poll", socket_name(fd_.get()));
  }
}

namespace {

// Removes a socket file that nobody answers at. Called with the lock held.
Result<void> remove_stale_socket(const std::string& path) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) < 0) {
    if (errno == ENOENT) return {};
    return errno_error("stat", path);
  }
  // connect(2) refuses on an ordinary file too: without this one would be deleted.
  if (!S_ISSOCK(info.st_mode))
    return Error{EEXIST, "listen", path, "exists and is not a socket; move it away"};
  auto probe = seqpacket_socket(SOCK_NONBLOCK);
  if (!probe) return std::move(probe).error();
  auto answer = connect_to(probe->get(), path);
  if (answer.err() == ECONNREFUSED) {
    if (::unlink(path.c_str()) < 0 && errno != ENOENT) return errno_error("unlink", path);
    return {};
  }
  // Connected, backlog full (EAGAIN) or another type of socket (EPROTOTYPE): somebody is there.
  if (answer.ok() || answer.err() == EAGAIN || answer.err() == EPROTOTYPE)
    return Error{EADDRINUSE, "listen", path, "another process listens here"};
  return answer;
}

}  // namespace

Result<MessageListener> MessageListener::listen(const std::string& path, mode_t mode) {
  auto address = address_of(path);
  if (!address) return std::move(address).error();
  // The lock spans probe, unlink, bind and listen: without it, of two processes that start together
  // the second could take the first one's socket, bound but not yet listening, for a stale one. It
  // is never waited for: a holder is about to listen, so the answer is known.
  const std::string lock_path = path + ".lock";
  UniqueFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock.valid()) return errno_error("open", lock_path);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno != EWOULDBLOCK) return errno_error("flock", lock_path);
    return Error{EADDRINUSE, "listen", path, "another process is just starting to listen here"};
  }
  if (auto removed = remove_stale_socket(path); !removed) return std::move(removed).error();

  auto fd = seqpacket_socket(SOCK_NONBLOCK);
  if (!fd) return std::move(fd).error();
  // bind(2) creates the file with the mode of the socket's inode less the umask, so that it is
  // never more open than `mode`; umask(2) itself is of the whole process and not ours to change.
  // Until listen(2) every connect is refused.
  if (::fchmod(fd->get(), mode) < 0) return errno_error("fchmod", path);
  if (::bind(fd->get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) < 0)
    return errno_error("bind", path);
  if (::chmod(path.c_str(), mode) < 0) return errno_error("chmod", path);
  if (::listen(fd->get(), SOMAXCONN) < 0) return errno_error("listen", path);
  return MessageListener(std::move(fd).value());
}

Result<MessageSocket> MessageListener::accept() const {
  while (true) {
    const int fd = ::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (fd >= 0) return MessageSocket(UniqueFd(fd));
    if (errno == EINTR || errno == ECONNABORTED) continue;
    return errno_error("accept", socket_name(fd_.get()));
  }
}

}  // namespace ublk_operator
