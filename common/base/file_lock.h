// FileLock: a lock that ends with its process, whatever ends it: flock(2) on a small file that
// holds the owner's process id for people. One owner a file, for as long as the lock lives.
// Errors   EWOULDBLOCK: another process has it (detail names its pid when it can be read);
//          ECANCELED: the stop descriptor became readable; the errno of the file system.
// Threads  any; a lock is one thread's. wait() forks: a child that only waits for the lock.
#pragma once
#include <string>

#include "common/base/result.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

class FileLock {
 public:
  // `advice`: what to do when another has it.
  [[nodiscard]] static Result<FileLock> take(const std::string& path, const std::string& advice);
  // The same, but waits until the owner is gone.
  [[nodiscard]] static Result<FileLock> wait(const std::string& path, int stop_fd);

 private:
  explicit FileLock(UniqueFd fd) : fd_(std::move(fd)) {}
  [[nodiscard]] static Result<UniqueFd> open(const std::string& path);
  [[nodiscard]] static Result<FileLock> own(UniqueFd fd, const std::string& path);
  UniqueFd fd_;
};

}  // namespace ublk_operator
