#include "node/agent/grace_periods.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

namespace ublk_operator {

namespace {
// The first character of the file; 0: it is empty or cannot be read.
char first_of(const UniqueFd& fd) {
  char first = 0;
  return ::pread(fd.get(), &first, 1, 0) == 1 ? first : '\0';
}

bool put(const UniqueFd& fd, char first) { return ::pwrite(fd.get(), &first, 1, 0) == 1; }
}  // namespace

GracePeriods::GracePeriods(const std::string& switch_path, const std::string& record_path,
                           const Logger& log)
    : switch_(::open(switch_path.c_str(), O_RDWR | O_CLOEXEC)) {
  auto opened = switch_.valid() ? Result<void>() : errno_error("open", switch_path);
  if (opened) {
    record_.reset(::open(record_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!record_.valid()) opened = errno_error("open", record_path);
  }
  if (!opened) {
    switch_.reset();
    log->info("operation=expedite error=\"{}\" effect=\"recoveries wait for normal grace periods\"",
              opened.error().to_string());
    return;
  }
  if (first_of(record_) == '1') {
    log->info(
        "operation=expedite file={} value=0 reason=\"the last agent died before it did that\"",
        switch_path);
    turn_off();
  }
}

GracePeriods::Expedited GracePeriods::expedite() {
  const std::scoped_lock lock(mutex_);
  if (holders_++ == 0 && switch_.valid()) turn_on();
  return Expedited(this);
}

void GracePeriods::leave() {
  const std::scoped_lock lock(mutex_);
  if (--holders_ == 0 && ours_) turn_off();
}

void GracePeriods::turn_on() {
  if (first_of(switch_) != '0') return;  // on by somebody else's will
  if (!put(record_, '1')) return;        // first: who dies in between turned nothing on
  ours_ = put(switch_, '1');
  if (!ours_) (void)put(record_, '0');
}

void GracePeriods::turn_off() {
  ours_ = false;
  if (put(switch_, '0')) (void)put(record_, '0');
}

GracePeriods::Expedited::Expedited(Expedited&& other) noexcept
    : periods_(std::exchange(other.periods_, nullptr)) {}

GracePeriods::Expedited::~Expedited() {
  if (periods_ != nullptr) periods_->leave();
}

}  // namespace ublk_operator
