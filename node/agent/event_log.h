// EventLog: what happened to the volumes of this node, bounded, repeated events counted instead of
// listed again (as Kubernetes does: same volume, reason and message).
// Bounds   limits::events_per_volume_max a volume, limits::volumes_max volumes and some that are
//          gone; what is oldest is dropped. Messages are cut at 1024 bytes, as Kubernetes does.
// Threads  any.
#pragma once
#include <cstdint>
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
  // Also told of each event, by the thread that records it: must be quick.
  using Listener = std::function<void(const VolumeEvent& event)>;
  EventLog(Now now, Logger log, Listener listener = {});
  // Also logged: one key=value line.
  void record(const std::string& volume, bool warning, const std::string& reason,
              const std::string& message);
  // "" : of all volumes. Oldest first, by when each happened last.
  [[nodiscard]] std::vector<VolumeEvent> list(const std::string& volume) const;
  void forget(const std::string& volume);  // keeps the last few under the name for `ublkctl events`

 private:
  struct Entry {
    uint64_t sequence = 0;  // of its last time: orders events of the same second
    VolumeEvent event;
  };
  struct Events {
    std::deque<Entry> entries;  // by sequence
    bool forgotten = false;
  };
  void make_room();

  const Now now_;
  const Logger log_;
  const Listener listener_;
  mutable std::mutex mutex_;
  uint64_t sequence_ = 0;
  std::map<std::string, Events> by_volume_;
};

}  // namespace ublk_operator
