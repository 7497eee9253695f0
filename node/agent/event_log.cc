#include "node/agent/event_log.h"

#include <algorithm>
#include <utility>

#include "common/base/limits.h"

namespace ublk_operator {

namespace {

constexpr size_t kept_when_forgotten = 8;
// Besides the volumes that are: the ones that were, most recent ones first.
constexpr size_t volumes_remembered_max = limits::volumes_max + 64;
constexpr size_t message_bytes_max = 1024;

// Cut between characters of UTF-8, not within one.
std::string bounded(const std::string& text) {
  if (text.size() <= message_bytes_max) return text;
  size_t end = message_bytes_max - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

// One line whatever the message holds, and a quote ends only where the value does.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  }
  return out + '"';
}

}  // namespace

EventLog::EventLog(Now now, Logger log, Listener listener)
    : now_(std::move(now)), log_(std::move(log)), listener_(std::move(listener)) {}

void EventLog::record(const std::string& volume, bool warning, const std::string& reason,
                      const std::string& message) {
  const std::string text = bounded(message);
  constexpr auto* line = "volume={} event={} message={}";
  if (warning)
    log_->warn(line, volume, reason, quoted(text));
  else
    log_->info(line, volume, reason, quoted(text));

  const std::string now = now_();
  if (listener_) listener_({volume, warning, reason, text, now, now, 1});
  const std::lock_guard lock(mutex_);
  if (!by_volume_.contains(volume) && by_volume_.size() >= volumes_remembered_max) make_room();
  Events& events = by_volume_[volume];
  events.forgotten = false;
  auto& entries = events.entries;
  const auto same = std::find_if(entries.begin(), entries.end(), [&](const Entry& entry) {
    return entry.event.warning == warning && entry.event.reason == reason &&
           entry.event.message == text;
  });
  Entry entry;
  if (same != entries.end()) {
    entry = std::move(*same);
    entries.erase(same);
    ++entry.event.count;
  } else {
    if (entries.size() >= limits::events_per_volume_max) entries.pop_front();
    entry.event = VolumeEvent{volume, warning, reason, text, now, now, 1};
  }
  entry.event.last_time = now;
  entry.sequence = ++sequence_;
  entries.push_back(std::move(entry));
}

// Drops one volume's events: one that is gone, if there is any, and of those the longest silent.
void EventLog::make_room() {
  const auto rank = [](const auto& item) {
    return std::pair(!item.second.forgotten, item.second.entries.back().sequence);
  };
  const auto victim =
      std::min_element(by_volume_.begin(), by_volume_.end(),
                       [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  if (victim != by_volume_.end()) by_volume_.erase(victim);
}

std::vector<VolumeEvent> EventLog::list(const std::string& volume) const {
  std::vector<Entry> found;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, events] : by_volume_)
      if (volume.empty() || name == volume)
        found.insert(found.end(), events.entries.begin(), events.entries.end());
  }
  std::sort(found.begin(), found.end(),
            [](const Entry& a, const Entry& b) { return a.sequence < b.sequence; });
  std::vector<VolumeEvent> events;
  events.reserve(found.size());
  for (Entry& entry : found) events.push_back(std::move(entry.event));
  return events;
}

void EventLog::forget(const std::string& volume) {
  const std::lock_guard lock(mutex_);
  const auto found = by_volume_.find(volume);
  if (found == by_volume_.end()) return;
  found->second.forgotten = true;
  auto& entries = found->second.entries;
  while (entries.size() > kept_when_forgotten) entries.pop_front();
}

}  // namespace ublk_operator
