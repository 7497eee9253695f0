#include "controller/reconcile/backoff.h"

#include <algorithm>

namespace ublk_operator::reconcile {

void RestartHistory::failed(Time now, const BackOff& back_off, double jitter) {
  ++attempts_;
  hold_off(now, back_off, jitter);
}

void RestartHistory::hold_off(Time now, const BackOff& back_off, double jitter) {
  const uint32_t failures = failures_in_row();
  if (failures == 1) {
    not_before_ = now;
    return;
  }
  // initial x 2^(n-2), at most maximum; 2^20 x 1 ms is past every maximum, so the shift is bounded.
  const auto doublings = std::min<uint32_t>(failures - 2, 20);
  const auto delay = std::min<std::chrono::milliseconds>(
      back_off.initial * (int64_t{1} << doublings), back_off.maximum);
  // Up to a quarter longer, so that volumes that failed together do not come back together.
  not_before_ = now + delay +
                std::chrono::milliseconds(
                    static_cast<int64_t>(static_cast<double>(delay.count()) * jitter / 4));
}

void RestartHistory::died(Time now, std::chrono::milliseconds served, bool own_fault,
                          const BackOff& back_off, double jitter) {
  if (served >= stable_service) reset();
  if (own_fault) {
    if (served < stable_service) {
      ++crashes_;
      hold_off(now, back_off, jitter);
    }
    return;
  }
  if (served >= short_service) {
    kills_ = 0;
    return;
  }
  if (++kills_ <= kills_forgiven) return;
  ++crashes_;
  hold_off(now, back_off, jitter);
}

void RestartHistory::reset() { *this = RestartHistory{}; }

std::chrono::milliseconds RestartHistory::retry_in(Time now) const {
  if (failures_in_row() == 0 || now >= not_before_) return std::chrono::milliseconds(0);
  return std::chrono::ceil<std::chrono::milliseconds>(not_before_ - now);
}

}  // namespace ublk_operator::reconcile
