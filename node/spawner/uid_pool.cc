#include "node/spawner/uid_pool.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "common/base/files.h"

namespace ublk_operator {

namespace {
// EAGAIN: somebody else has it.
Result<UniqueFd> lock_file(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_CREAT | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd.valid()) return errno_error("open", path);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) < 0) return errno_error("flock", path);
  // Its holder unlinks the file before it lets go: what we locked may no longer be the file there.
  struct stat info{};
  if (::fstat(fd.get(), &info) < 0) return errno_error("fstat", path);
  if (info.st_nlink == 0) return Error{EAGAIN, "flock", path, "just released"};
  return fd;
}
}  // namespace

UidLease::~UidLease() {
  if (lock_.valid()) ::unlink(lock_path_.c_str());
}

Result<UidLease> UidPool::take() {
  if (auto made = make_directories(lock_directory_); !made) return std::move(made).error();
  for (uid_t tried = 0; tried < count_; ++tried) {
    const uid_t uid = base_ + next_;
    next_ = (next_ + 1) % count_;
    std::string path = lock_directory_ + "/" + std::to_string(uid);
    auto lock = lock_file(path);
    if (lock) return UidLease(uid, std::move(path), std::move(lock).value());
    if (lock.err() != EAGAIN) return std::move(lock).error();
  }
  return Error{EAGAIN, "take", "uid",
               "all of " + std::to_string(base_) + ".." + std::to_string(base_ + count_ - 1) +
                   " are in use"};
}

}  // namespace ublk_operator
