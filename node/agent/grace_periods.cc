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

GracePeriods::GracePeriods(GracePeriodsOptions options, const Logger& log)
    : options_(std::move(options)),
      switch_(::open(options_.switch_path.c_str(), O_RDWR | O_CLOEXEC)) {
  auto opened = switch_.valid() ? Result<void>() : errno_error("open", options_.switch_path);
  if (opened) {
    record_.reset(
        ::open(options_.record_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!record_.valid()) opened = errno_error("open", options_.record_path);
  }
  if (!opened) {
    if (options_.expedite)
      log->info(
          "operation=expedite error=\"{}\" effect=\"recoveries wait for normal grace periods\"",
          opened.error().to_string());
    return;
  }
  if (first_of(record_) == '1') {
    log->info(
        "operation=expedite file={} value=0 reason=\"the last agent died before it did that\"",
        options_.switch_path);
    turn_off();
  }
  if (options_.expedite) thread_ = std::thread([this] { watch_time(); });
}

GracePeriods::~GracePeriods() {
  if (!thread_.joinable()) return;
  {
    const std::scoped_lock lock(mutex_);
    ending_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

GracePeriods::Expedited GracePeriods::expedite() {
  const std::scoped_lock lock(mutex_);
  const uint64_t id = next_id_++;
  if (!thread_.joinable()) return {this, id};
  holders_.emplace(id, Clock::now() + options_.at_most);
  if (!on_) turn_on();
  if (holders_.size() == 1) changed_.notify_one();
  return {this, id};
}

void GracePeriods::leave(uint64_t id) {
  const std::scoped_lock lock(mutex_);
  holders_.erase(id);
  if (holders_.empty() && on_) turn_off();
}

void GracePeriods::watch_time() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    if (holders_.empty()) {
      changed_.wait(lock);
    } else {
      const Clock::time_point first =
          holders_.begin()->second;  // wait_until() looks at it again, and it may be gone then
      changed_.wait_until(lock, first);
    }
    while (!holders_.empty() && holders_.begin()->second <= Clock::now())
      holders_.erase(holders_.begin());
    if (holders_.empty() && on_) turn_off();
  }
  if (on_) turn_off();
}

void GracePeriods::turn_on() {
  if (first_of(switch_) != '0') return;  // on by somebody else's will
  if (!put(record_, '1')) return;        // first: who dies in between turned nothing on
  on_ = put(switch_, '1');
  if (!on_) (void)put(record_, '0');
}

void GracePeriods::turn_off() {
  on_ = false;
  if (put(switch_, '0')) (void)put(record_, '0');
}

GracePeriods::Expedited::Expedited(Expedited&& other) noexcept
    : periods_(std::exchange(other.periods_, nullptr)), id_(other.id_) {}

GracePeriods::Expedited::~Expedited() {
  if (periods_ != nullptr) periods_->leave(id_);
}

}  // namespace ublk_operator
