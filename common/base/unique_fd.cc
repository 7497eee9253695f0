#include "common/base/unique_fd.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace ublk_operator {

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) {
    const int saved = errno;
    ::close(fd_);  // EINTR included, Linux has released the descriptor: never close it twice
    errno = saved;
  }
  fd_ = fd;
}

Result<UniqueFd> UniqueFd::duplicate() const {
  const int copy = ::fcntl(fd_, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return errno_error("dup", "file descriptor " + std::to_string(fd_));
  return UniqueFd(copy);
}

Result<EventFd> EventFd::create() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return errno_error("eventfd", "");
  return EventFd(UniqueFd(fd));
}

EventFd EventFd::must_create() {
  auto fd = create();
  UBLK_CHECK(fd.ok());
  return std::move(fd).value();
}

void EventFd::signal() const {
  const uint64_t one = 1;
  // EAGAIN means that the counter is at its maximum: it is readable, which is all that is asked.
  [[maybe_unused]] const ssize_t n = ::write(fd_.get(), &one, sizeof one);
}

void EventFd::drain() const {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t n = ::read(fd_.get(), &count, sizeof count);
}

}  // namespace ublk_operator
