#include "tests/cluster/proxy.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <vector>

namespace ublk_operator::cluster {

using namespace std::chrono_literals;

namespace {

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

std::string receive(const UniqueFd& from) {
  std::string bytes(16384, '\0');
  const ssize_t n = ::recv(from.get(), bytes.data(), bytes.size(), 0);
  bytes.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return bytes;
}

// These two: false: the connection is over.
bool send_all(const UniqueFd& to, const std::string& bytes) {
  for (size_t sent = 0; sent < bytes.size();) {
    const ssize_t n = ::send(to.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += static_cast<size_t>(n);
  }
  return true;
}
bool carry(const UniqueFd& from, const UniqueFd& to) {
  const std::string bytes = receive(from);
  return !bytes.empty() && send_all(to, bytes);
}

}  // namespace

Proxy::Proxy(int server_port) : server_port_(server_port) {
  listener_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(0);
  EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  socklen_t size = sizeof address;
  EXPECT_EQ(::getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  port_ = ntohs(address.sin_port);
  EXPECT_EQ(::listen(listener_.get(), 16), 0);
  thread_ = std::thread([this] { run(); });
}

Proxy::~Proxy() {
  stopping_ = true;
  wake_.signal();
  thread_.join();
}

void Proxy::command(Command what) {
  command_ = what;
  wake_.signal();
  command_.wait(what);
}

void Proxy::obey() {
  wake_.drain();
  switch (command_) {
    case Command::hang:
      for (auto& pair : pairs_) pair.hangs = true;
      break;
    case Command::cut:
      pairs_.clear();
      break;
    case Command::truncate:
      for (auto& pair : pairs_) pair.left = allowance_;
      break;
    case Command::none:
      break;
  }
  command_ = Command::none;
  command_.notify_all();
}

void Proxy::accept() {
  Pair pair;
  pair.client.reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  pair.server.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(server_port_);
  if (pair.client.valid() &&
      ::connect(pair.server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
          0)
    pairs_.push_back(std::move(pair));
}

bool Proxy::to_client(Pair& pair) const {
  std::string bytes = receive(pair.server);
  if (bytes.empty()) {
    pair.ended = true;
    return !pair.held.empty();
  }
  bool goes_on = true;
  if (pair.left) {
    goes_on = bytes.size() < *pair.left;
    bytes.resize(std::min(bytes.size(), *pair.left));
    *pair.left -= bytes.size();
  }
  const auto time = delay_.load();
  if (time == 0ms && pair.held.empty()) return send_all(pair.client, bytes) && goes_on;
  pair.held.emplace_back(Clock::now() + time, std::move(bytes));
  return goes_on;
}

void Proxy::run() {
  // False: the connection is over.
  const auto send_due = [](Pair& pair) {
    while (!pair.held.empty() && pair.held.front().first <= Clock::now()) {
      if (!send_all(pair.client, pair.held.front().second)) return false;
      pair.held.pop_front();
    }
    return !(pair.ended && pair.held.empty());
  };
  while (!stopping_) {
    std::vector<pollfd> fds{{wake_.fd(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    std::vector<Pair*> polled;
    auto next = Clock::time_point::max();
    for (auto& pair : pairs_) {
      if (pair.hangs) continue;
      polled.push_back(&pair);
      fds.push_back({pair.client.get(), POLLIN, 0});
      fds.push_back({pair.ended ? -1 : pair.server.get(), POLLIN, 0});
      if (!pair.held.empty()) next = std::min(next, pair.held.front().first);
    }
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now());
    const int timeout =
        next == Clock::time_point::max() ? -1 : std::max<int>(0, static_cast<int>(wait.count()));
    if (::poll(fds.data(), fds.size(), timeout) < 0) continue;
    if (fds[0].revents != 0) {
      obey();
      continue;
    }
    std::vector<Pair*> over;
    for (size_t i = 0; i < polled.size(); ++i) {
      Pair& pair = *polled[i];
      bool good = true;
      if (fds[2 + 2 * i].revents != 0) good = carry(pair.client, pair.server);
      if (good && fds[3 + 2 * i].revents != 0) good = to_client(pair);
      if (good) good = send_due(pair);
      if (!good) over.push_back(&pair);
    }
    pairs_.remove_if(
        [&](const Pair& pair) { return std::find(over.begin(), over.end(), &pair) != over.end(); });
    if (fds[1].revents != 0) accept();
  }
}

}  // namespace ublk_operator::cluster
