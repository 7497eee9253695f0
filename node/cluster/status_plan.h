// StatusPlan: when which volume's status is written to the API server. No I/O, no clock of its own.
// Shape    many changes of a volume within a moment are one write; a recovery costs at most two:
//          one that says it is not ready, when it takes longer than `settle`, and one when it is
//          ready again. One that takes longer than `gap` adds a write each `gap` in which what it
//          waits for changes, for whoever watches it.
// Bounds   an entry a volume that changed; forget() drops it.
// Threads  one.
#pragma once
#include <chrono>
#include <map>
#include <optional>
#include <string>

namespace ublk_operator {

class StatusPlan {
 public:
  using Clock = std::chrono::steady_clock;
  using Time = Clock::time_point;
  struct Options {
    std::chrono::milliseconds settle{300};
    std::chrono::milliseconds gap{10'000};
    std::chrono::milliseconds urgent_gap{1000};
    std::chrono::milliseconds back_off_initial{500};
    std::chrono::milliseconds back_off_max{30'000};
  };

  StatusPlan() : StatusPlan(Options{}) {}
  explicit StatusPlan(Options options) : options_(options) {}

  // `urgent`: somebody waits for just this (Ready, gone).
  void changed(const std::string& name, Time now, bool urgent);
  // The volume whose status is to be written now, if there is one; written() or failed() must
  // follow before it is due again.
  [[nodiscard]] std::optional<std::string> take(Time now);
  void written(const std::string& name, Time now);
  // `random`: 0 to 1, for jitter.
  void failed(const std::string& name, Time now, double random);
  void forget(const std::string& name);
  // When the next is due.
  [[nodiscard]] std::optional<Time> next() const;

 private:
  struct Entry {
    bool dirty = false;
    bool urgent = false;
    Time due{};
    std::optional<Time> written;
    std::optional<Time> not_before;  // after a failure
    unsigned failures = 0;
  };
  [[nodiscard]] Time due(const Entry& entry, Time now) const;

  const Options options_;
  std::map<std::string, Entry> entries_;
};

}  // namespace ublk_operator
