#include "common/localapi/wait.h"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <mutex>

namespace ublk_operator {

bool may_pass(const Error& error) {
  return error.err == ENOTCONN || error.err == ETIMEDOUT || error.err == EAGAIN;
}

Result<void> wait_for(VolumeService& service, const std::string& name,
                      const std::function<bool(const std::optional<Volume>&)>& done,
                      std::chrono::steady_clock::time_point deadline) {
  std::mutex mutex;
  std::condition_variable changed;
  bool dirty = true;  // under mutex

  // The watch only wakes; what holds is asked for. So it does not matter whether the first list
  // comes before or after watch() returns, nor that steps are left out.
  const uint64_t watch = service.watch([&](const std::string& who, const std::optional<Volume>&) {
    if (who != name) return;
    const std::lock_guard lock(mutex);
    dirty = true;
    changed.notify_one();
  });
  if (const auto reached = service.reachable(); !reached) {
    if (watch != 0) service.unwatch(watch);
    return reached.error();
  }

  Result<void> outcome;
  std::optional<Error> lost;
  while (true) {
    {
      std::unique_lock lock(mutex);
      const auto now = std::chrono::steady_clock::now();
      // What was not answered is asked again: the watch may have nothing more to say.
      const auto until = lost ? std::min(deadline, now + ask_again) : deadline;
      if (!changed.wait_until(lock, until, [&] { return dirty; }) && until == deadline) {
        outcome = Error{ETIMEDOUT, "wait", "volume " + name, lost ? lost->detail : std::string()};
        break;
      }
      dirty = false;
    }
    auto volume = service.get(name);
    if (volume) {
      lost.reset();
      if (done(std::move(volume).value())) break;
    } else if (volume.err() == ENOENT) {
      lost.reset();
      if (done(std::nullopt)) break;
    } else if (may_pass(volume.error())) {
      lost = volume.error();
    } else {
      outcome = volume.error();
      break;
    }
  }
  service.unwatch(watch);
  return outcome;
}

}  // namespace ublk_operator
