// UidPool: user ids that belong to nobody, one for each running server.
// Shape    a lease holds the id until it is destroyed; the next lease takes another id as long as
//          there is one, so that an id rests before it is used again.
// Errors   EAGAIN: all are taken.
// Threads  one.
// Source   systemd, src/core/dynamic-user.c: an id in the range 61184..65519 belongs to whoever
//          holds the BSD lock on /run/systemd/dynamic-uid/ID. We follow the same rule, so neither a
//          DynamicUser= service nor another spawner on this machine is ever given the same id.
#pragma once
#include <sys/types.h>

#include <string>

#include "common/base/unique_fd.h"

namespace ublk_operator {

class UidLease {
 public:
  UidLease() = default;
  UidLease(uid_t uid, std::string lock_path, UniqueFd lock)
      : uid_(uid), lock_path_(std::move(lock_path)), lock_(std::move(lock)) {}
  UidLease(UidLease&&) noexcept = default;
  UidLease& operator=(UidLease&&) = delete;
  UidLease(const UidLease&) = delete;
  UidLease& operator=(const UidLease&) = delete;
  ~UidLease();
  [[nodiscard]] uid_t uid() const { return uid_; }

 private:
  uid_t uid_ = 0;
  std::string lock_path_;
  UniqueFd lock_;
};

class UidPool {
 public:
  UidPool(uid_t base, uid_t count, std::string lock_directory)
      : base_(base), count_(count), lock_directory_(std::move(lock_directory)) {}
  [[nodiscard]] Result<UidLease> take();

 private:
  uid_t base_;
  uid_t count_;
  std::string lock_directory_;
  uid_t next_ = 0;
};

}  // namespace ublk_operator
