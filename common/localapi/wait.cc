#include "common/localapi/wait.h"

#include <cerrno>
#include <condition_variable>
#include <mutex>

namespace ublk_operator {

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
      if (!changed.wait_until(lock, deadline, [&] { return dirty; })) {
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
    } else if (volume.err() == ENOTCONN || volume.err() == ETIMEDOUT) {
      lost = volume.error();  // the watch tells when the agent is back
    } else {
      outcome = volume.error();
      break;
    }
  }
  service.unwatch(watch);
  return outcome;
}

}  // namespace ublk_operator
