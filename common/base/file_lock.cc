#include "common/base/file_lock.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "common/base/files.h"
#include "common/base/pidfd.h"
#include "common/base/strings.h"

namespace ublk_operator {

namespace {

constexpr size_t owner_bytes_max = 64;

}  // namespace

Result<UniqueFd> FileLock::open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return errno_error("open", path);
  return fd;
}

Result<FileLock> FileLock::own(UniqueFd fd, const std::string& path) {
  // It only informs, the lock itself is what counts: a full disk keeps nobody from it.
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(fd.get(), 0) == 0) (void)write_all(fd.get(), pid, path);
  return FileLock(std::move(fd));
}

Result<FileLock> FileLock::take(const std::string& path, const std::string& advice) {
  auto fd = open(path);
  if (!fd) return fd.error();
  if (::flock(fd->get(), LOCK_EX | LOCK_NB) == 0) return own(std::move(*fd), path);
  if (errno != EWOULDBLOCK) return errno_error("flock", path);
  const auto owner = read_file(path, owner_bytes_max);
  const bool known = owner && !trim(*owner).empty();
  return Error{EWOULDBLOCK, "lock", path,
               (known ? "process " + std::string(trim(*owner)) : std::string("another process")) +
                   " has it: " + advice};
}

// The lock belongs to the open file, not to the process: what the child waits for is ours once it
// has it. A wait in this process could not be ended, and inotify tells of the owner's close a
// moment before the lock is free.
Result<FileLock> FileLock::wait(const std::string& path, int stop_fd) {
  auto fd = open(path);
  if (!fd) return fd.error();
  const pid_t self = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return errno_error("fork", path);
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != self) ::_exit(ECANCELED);
    int err = 0;
    do err = ::flock(fd->get(), LOCK_EX) < 0 ? errno : 0;
    while (err == EINTR);
    ::_exit(err);
  }
  auto waiting = Pidfd::open(child);
  bool stopped = false;
  if (waiting) {
    std::array<pollfd, 2> fds{pollfd{waiting->fd(), POLLIN, 0}, pollfd{stop_fd, POLLIN, 0}};
    while (::poll(fds.data(), fds.size(), -1) < 0 && errno == EINTR) {
    }
    stopped = fds[0].revents == 0;
  }
  if (stopped || !waiting) (void)::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!waiting) return waiting.error();
  if (stopped) return Error{ECANCELED, "lock", path, "stopped while it waited"};
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return Error{WIFEXITED(status) ? WEXITSTATUS(status) : EINTR, "lock", path,
                 "the process that waited for it failed"};
  return own(std::move(*fd), path);
}

}  // namespace ublk_operator
