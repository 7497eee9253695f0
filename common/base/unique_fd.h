// UniqueFd: owns one file descriptor and closes it in the destructor.
#pragma once
#include <utility>

#include "common/base/result.h"

namespace ublk_operator {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);  // closes the old one; errno is kept

  // dup with CLOEXEC.
  [[nodiscard]] Result<UniqueFd> duplicate() const;

 private:
  int fd_ = -1;
};

// An eventfd (non-blocking, close-on-exec): signal() makes it readable, drain() makes it unreadable
// again. signal() is async-signal-safe and may be called from any thread.
class EventFd {
 public:
  [[nodiscard]] static Result<EventFd> create();
  // For members of objects whose construction cannot fail: aborts when the process is out of
  // descriptors.
  [[nodiscard]] static EventFd must_create();
  void signal() const;
  void drain() const;
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace ublk_operator
