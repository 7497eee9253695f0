#include "node/cluster/status_plan.h"

#include <algorithm>

namespace ublk_operator {

StatusPlan::Time StatusPlan::due(const Entry& entry, Time now) const {
  Time at = now + options_.settle;
  if (entry.written)
    at = std::max(at, *entry.written + (entry.urgent ? options_.urgent_gap : options_.gap));
  if (entry.not_before) at = std::max(at, *entry.not_before);
  return at;
}

void StatusPlan::changed(const std::string& name, Time now, bool urgent) {
  Entry& entry = entries_[name];
  const bool sooner = !entry.dirty || (urgent && !entry.urgent);
  entry.urgent = (entry.dirty && entry.urgent) || urgent;
  if (!sooner) return;  // what is due is due, however much changes until then
  const Time at = due(entry, now);
  entry.due = entry.dirty ? std::min(entry.due, at) : at;
  entry.dirty = true;
}

std::optional<std::string> StatusPlan::take(Time now) {
  auto first = entries_.end();
  for (auto it = entries_.begin(); it != entries_.end(); ++it)
    if (it->second.dirty && it->second.due <= now &&
        (first == entries_.end() || it->second.due < first->second.due))
      first = it;
  if (first == entries_.end()) return std::nullopt;
  first->second.dirty = false;
  return first->first;
}

void StatusPlan::written(const std::string& name, Time now) {
  Entry& entry = entries_[name];
  entry.written = now;
  entry.not_before.reset();
  entry.failures = 0;
  if (!entry.dirty)
    entry.urgent = false;
  else
    entry.due = std::max(entry.due, due(entry, now));  // changed while it was being written
}

void StatusPlan::failed(const std::string& name, Time now, double random) {
  Entry& entry = entries_[name];
  const unsigned doublings = std::min(entry.failures, 16U);
  ++entry.failures;
  const auto pause =
      std::min(options_.back_off_max, options_.back_off_initial * (int64_t{1} << doublings));
  entry.not_before =
      now + std::chrono::duration_cast<Clock::duration>(pause * (0.5 + 0.5 * random));
  entry.dirty = true;
  entry.due = *entry.not_before;
}

void StatusPlan::forget(const std::string& name) { entries_.erase(name); }

std::optional<StatusPlan::Time> StatusPlan::next() const {
  std::optional<Time> first;
  for (const auto& [name, entry] : entries_)
    if (entry.dirty && (!first || entry.due < *first)) first = entry.due;
  return first;
}

}  // namespace ublk_operator
