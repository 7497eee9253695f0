// EventLog: what happened to the volumes of this node, bounded, repeated events counted instead of
// listed again (as Kubernetes does: same volume, reason and message). Threads  any.
#pragma once
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "common/api/volume.h"
#include "common/base/log.h"

namespace ublk_operator {

class EventLog {
 public:
  using Now = std::function<std::string()>;  // RFC 3339
  EventLog(Now now, Logger log);
  // Also logged: one key=value line.
  void record(const std::string& volume, bool warning, const std::string& reason,
              const std::string& message);
  [[nodiscard]] std::vector<VolumeEvent> list(
      const std::string& volume) const;    // "" : all, oldest first
  void forget(const std::string& volume);  // keeps the last few under the name for `ublkctl events`

 private:
  Now now_;
  Logger log_;
  mutable std::mutex mutex_;
  std::map<std::string, std::deque<VolumeEvent>> by_volume_;
};

}  // namespace ublk_operator
