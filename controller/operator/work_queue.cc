#include "controller/operator/work_queue.h"

#include <algorithm>

namespace ublk_operator::controller {

namespace {
constexpr unsigned doublings_max = 16;
}  // namespace

void WorkQueue::put(const std::string& name, Time at) {
  const auto known = due_.find(name);
  if (known != due_.end()) {
    if (known->second.first <= at) return;
    order_.erase({known->second.first, known->second.second, name});
  }
  due_[name] = {at, ++turn_};
  order_.emplace(at, turn_, name);
}

void WorkQueue::add(const std::string& name, Time now) {
  const auto failed = failures_.find(name);
  put(name, failed == failures_.end() ? now : std::max(now, failed->second.not_before));
}

std::optional<std::string> WorkQueue::take(Time now) {
  if (order_.empty() || std::get<0>(*order_.begin()) > now) return std::nullopt;
  std::string name = std::get<2>(*order_.begin());
  order_.erase(order_.begin());
  due_.erase(name);
  return name;
}

void WorkQueue::done(const std::string& name) { failures_.erase(name); }

void WorkQueue::again(const std::string& name, Time now) {
  failures_.erase(name);
  put(name, now);
}

void WorkQueue::failed(const std::string& name, Time now, double random) {
  Failures& failures = failures_[name];
  const auto full = std::min<milliseconds>(
      options_.back_off_initial * (1U << std::min(failures.in_row, doublings_max)),
      options_.back_off_max);
  ++failures.in_row;
  // At most a quarter longer: what failed together does not come back together.
  failures.not_before = now + full + std::chrono::duration_cast<milliseconds>(full * (random / 4));
  // Whatever was added while it was worked on waits as long.
  const auto known = due_.find(name);
  if (known != due_.end()) {
    order_.erase({known->second.first, known->second.second, name});
    due_.erase(known);
  }
  put(name, failures.not_before);
}

std::optional<WorkQueue::Time> WorkQueue::next() const {
  if (order_.empty()) return std::nullopt;
  return std::get<0>(*order_.begin());
}

}  // namespace ublk_operator::controller
