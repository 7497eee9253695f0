// Restarts: how long to wait before the next attempt, and when failures in a row are a crash loop.
// Pure: time comes in.
#pragma once
#include <chrono>
#include <cstdint>

#include "common/api/volume.h"

namespace ublk_operator::reconcile {

class RestartHistory {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // An attempt ended without service (the server died before it served, a command failed). The
  // first failure in a row is tried again at once: one half-finished recovery costs no back-off.
  void failed(Time now, const BackOff& back_off, double jitter);
  // A server that had served for `served` died. After short service it counts as a failure when it
  // was the server's own fault (a request that crashes whoever serves it). Who was killed from
  // outside is replaced at once, unless that happens kills_forgiven times in a row, each after
  // short service: then something kills whatever is started.
  void died(Time now, std::chrono::milliseconds served, bool own_fault, const BackOff& back_off,
            double jitter);
  // A server serves: whatever failed on the way is forgiven, crashes after short service are not
  // yet.
  void serving() { attempts_ = 0; }
  // A new spec, a new program or a person: start over.
  void reset();

  [[nodiscard]] std::chrono::milliseconds retry_in(Time now) const;
  [[nodiscard]] uint32_t failures_in_row() const { return attempts_ + crashes_; }
  [[nodiscard]] bool crash_loop(uint32_t max_restarts) const {
    return failures_in_row() > max_restarts;
  }

  static constexpr std::chrono::milliseconds short_service{250};
  static constexpr std::chrono::milliseconds stable_service{60'000};
  static constexpr uint32_t kills_forgiven = 32;

 private:
  void hold_off(Time now, const BackOff& back_off, double jitter);

  uint32_t attempts_ = 0;  // in a row, without service
  uint32_t crashes_ = 0;   // own fault, before a minute of service
  uint32_t kills_ = 0;     // in a row, after short service
  Time not_before_{};
};

}  // namespace ublk_operator::reconcile
