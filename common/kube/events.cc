#include "common/kube/events.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>

#include "common/api/quantity.h"

namespace ublk_operator::kube {

namespace {

constexpr size_t name_bytes_max = 253;      // DNS-1123 subdomain
constexpr size_t message_bytes_max = 1024;  // what events.k8s.io allows
constexpr std::chrono::milliseconds retry_initial{1000};

std::string namespace_of(const EventTarget& target) {
  return target.namespace_name.empty() ? "default" : target.namespace_name;
}

std::string key_of(const Event& event) {
  std::string key = event.target.uid;
  for (const std::string* part :
       {&event.target.kind, &event.target.name, &event.reason, &event.message})
    key += '\0' + *part;
  return key + (event.warning ? "!" : "");
}

// "pgdata.17b3f0c2a9e4d511"
std::string name_of(const Event& event, uint64_t random) {
  std::array<char, 18> suffix{};
  std::snprintf(suffix.data(), suffix.size(), ".%016llx", static_cast<unsigned long long>(random));
  std::string name = event.target.name.substr(0, name_bytes_max - (suffix.size() - 1));
  while (!name.empty() && (name.back() == '.' || name.back() == '-')) name.pop_back();
  return name + suffix.data();
}

// At a boundary of UTF-8.
std::string bounded(const std::string& message) {
  if (message.size() <= message_bytes_max) return message;
  size_t end = message_bytes_max;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xc0U) == 0x80U) --end;
  return message.substr(0, end);
}

}  // namespace

bool EventCorrelator::within_budget(const std::string& uid, Time now) {
  auto& [items, by_key] = budgets_;
  const auto known = by_key.find(uid);
  if (known == by_key.end()) {
    items.push_front({uid, options_.burst, now});
    by_key[uid] = items.begin();
  } else {
    items.splice(items.begin(), items, known->second);
  }
  if (items.size() > options_.cached_max) {
    by_key.erase(items.back().uid);
    items.pop_back();
  }
  Budget& budget = items.front();
  const auto earned = (now - budget.refilled) / options_.refill;
  if (earned > 0) {
    budget.refilled += options_.refill * earned;
    budget.left = static_cast<unsigned>(
        std::min<int64_t>(options_.burst, static_cast<int64_t>(budget.left) + earned));
  }
  if (budget.left == 0) return false;
  --budget.left;
  return true;
}

EventCorrelator::Step EventCorrelator::next(const Event& event, Time now, WallTime wall,
                                            uint64_t random) {
  if (!within_budget(event.target.uid, now)) return Drop{};
  const std::string time = format_time(wall);
  auto& [items, by_key] = series_;
  const std::string key = key_of(event);
  if (const auto known = by_key.find(key); known != by_key.end()) {
    items.splice(items.begin(), items, known->second);
    Series& series = items.front();
    ++series.count;
    return Count{namespace_of(event.target),
                 series.name,
                 {{"count", series.count}, {"lastTimestamp", time}}};
  }
  items.push_front({key, name_of(event, random), 1});
  by_key[key] = items.begin();
  if (items.size() > options_.cached_max) {
    by_key.erase(items.back().key);
    items.pop_back();
  }
  nlohmann::json about{{"apiVersion", event.target.api_version},
                       {"kind", event.target.kind},
                       {"name", event.target.name},
                       {"uid", event.target.uid}};
  if (!event.target.namespace_name.empty()) about["namespace"] = event.target.namespace_name;
  return Create{
      {{"apiVersion", "v1"},
       {"kind", "Event"},
       {"metadata", {{"name", items.front().name}, {"namespace", namespace_of(event.target)}}},
       {"involvedObject", std::move(about)},
       {"type", event.warning ? "Warning" : "Normal"},
       {"reason", event.reason},
       {"message", bounded(event.message)},
       {"source", {{"component", options_.component}, {"host", options_.instance}}},
       {"reportingComponent", options_.component},
       {"reportingInstance", options_.instance},
       {"firstTimestamp", time},
       {"lastTimestamp", time},
       {"count", 1}}};
}

void EventCorrelator::forget(const Event& event) {
  auto& [items, by_key] = series_;
  const auto known = by_key.find(key_of(event));
  if (known == by_key.end()) return;
  items.erase(known->second);
  by_key.erase(known);
}

EventRecorder::EventRecorder(std::shared_ptr<Transport> transport, EventCorrelator::Options options,
                             Logger log)
    : client_(std::move(transport)), log_(std::move(log)), correlator_(std::move(options)) {
  thread_ = std::thread([this] { run(); });
}

EventRecorder::~EventRecorder() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  cancel_.cancel();
  thread_.join();
}

void EventRecorder::say(Event event) {
  {
    const std::scoped_lock lock(mutex_);
    if (waiting_.size() >= waiting_max) {
      ++counters_.dropped;
      return;
    }
    waiting_.push_back(std::move(event));
  }
  changed_.notify_all();
}

EventRecorder::Counters EventRecorder::counters() const {
  const std::scoped_lock lock(mutex_);
  return counters_;
}

bool EventRecorder::pause(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, time, [this] { return stopping_; });
}

Result<void> EventRecorder::send(const Event& event) {
  const auto step =
      correlator_.next(event, Clock::now(), std::chrono::system_clock::now(), random_());
  if (std::holds_alternative<EventCorrelator::Drop>(step))
    return Error{ENOBUFS, "event", event.target.name, "too many events of this object"};
  const auto events = [](const std::string& space) { return Resource{"", "v1", "events", space}; };
  auto answer = [&] {
    if (const auto* create = std::get_if<EventCorrelator::Create>(&step))
      return client_.create(events(namespace_of(event.target)).path(), create->event, cancel_);
    const auto& count = std::get<EventCorrelator::Count>(step);
    return client_.merge_patch(events(count.namespace_name).path(count.name), count.patch, "",
                               cancel_);
  }();
  if (answer) return {};
  correlator_.forget(event);
  return std::move(answer).error();
}

void EventRecorder::run() {
  bool failing = false;
  for (;;) {
    Event event;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (stopping_) return;
      event = std::move(waiting_.front());
      waiting_.pop_front();
    }
    auto sent = send(event);
    // The Event that was to be counted up is gone: this one begins a new series.
    if (sent.err() == ENOENT) sent = send(event);
    auto wait = retry_initial;
    for (unsigned tries = 1; tries < tries_max; ++tries, wait *= 2) {
      if (sent.err() != EAGAIN && sent.err() != ENOTCONN && sent.err() != ETIMEDOUT) break;
      if (!pause(wait)) return;
      sent = send(event);
    }
    if (!sent && sent.err() != ENOBUFS && !failing)
      log_->warn("operation=event object={} reason={} error=\"{}\"", event.target.name,
                 event.reason, sent.error().to_string());
    if (sent.err() != ENOBUFS) failing = !sent.ok();
    const std::scoped_lock lock(mutex_);
    ++(sent ? counters_.sent : counters_.dropped);
  }
}

}  // namespace ublk_operator::kube
