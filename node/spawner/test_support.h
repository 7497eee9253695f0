// For tests that start a spawner: folders and programs that its servers' uids can reach.
#pragma once
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "common/base/pidfd.h"
#include "common/ipc/message_socket.h"

namespace ublk_operator {

// For things that happen at once on a machine that is not overloaded.
inline constexpr std::chrono::seconds patience{20};

inline bool wait_readable(int fd, std::chrono::milliseconds timeout = patience) {
  pollfd p{fd, POLLIN, 0};
  return ::poll(&p, 1, static_cast<int>(timeout.count())) == 1;
}

class TempDirectory {
 public:
  TempDirectory() {
    std::string pattern = ::testing::TempDir() + "spawner_test.XXXXXX";
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
    // Servers run as other users.
    ::chmod(path_.c_str(), 0755);
  }
  TempDirectory(const TempDirectory&) = delete;
  TempDirectory& operator=(const TempDirectory&) = delete;
  ~TempDirectory() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The path of a program beside this test, wherever the build folder is mounted.
inline std::string helper_program(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() /
         "node/spawner" / name;
}

// The build's programs where any uid can read them, whatever the way to the build folder allows.
inline std::string install_program(const std::string& program, const std::string& folder) {
  std::string copy = folder + "/" + std::filesystem::path(program).filename().string();
  std::filesystem::copy_file(program, copy, std::filesystem::copy_options::skip_existing);
  ::chmod(copy.c_str(), 0755);
  return copy;
}

// The process that listens at `socket`.
inline Pidfd listener_of(const std::string& socket) {
  auto connection = MessageSocket::connect(socket);
  ucred peer{};
  socklen_t length = sizeof peer;
  if (!connection || ::getsockopt(connection->fd(), SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
    return {};
  auto pidfd = Pidfd::open(peer.pid);
  return pidfd ? std::move(pidfd).value() : Pidfd();
}

}  // namespace ublk_operator
