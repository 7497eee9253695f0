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
  // A server that had served for `served` died. Short service counts as a failure (a request that
  // kills whoever serves it); longer service does not, so that a person or an out-of-memory killer
  // that ends ten servers in a row waits for no back-off.
  void died(Time now, std::chrono::milliseconds served, const BackOff& back_off, double jitter);
  // A new spec, a new program or a person: start over.
  void reset();

  [[nodiscard]] std::chrono::milliseconds retry_in(Time now) const;
  [[nodiscard]] uint32_t failures_in_row() const { return failures_; }
  [[nodiscard]] bool crash_loop(uint32_t max_restarts) const { return failures_ > max_restarts; }

  static constexpr std::chrono::milliseconds short_service{250};
  static constexpr std::chrono::milliseconds stable_service{60'000};

 private:
  uint32_t failures_ = 0;
  Time not_before_{};
};

}  // namespace ublk_operator::reconcile
