#include "node/telemetry/node_metrics.h"

#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "common/base/pidfd.h"

namespace ublk_operator {

namespace {

using metrics::Labels;

// Of the pauses that were measured: tens of milliseconds on metal, up to the kernel's request
// timeout where it decides, and what an operator calls an outage.
const std::vector<double> duration_bounds{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};

const std::vector<double> latency_bounds = [] {
  std::vector<double> bounds;
  for (size_t i = 0; i < IoLatency::bounds; ++i)
    bounds.push_back(static_cast<double>(IoLatency::bound_ns(i)) / 1e9);
  return bounds;
}();

// A label may have few values only: of "was killed by SIGKILL (9)" the signal.
std::string how_it_ended(const std::string& text) {
  if (text.find("out of memory") != std::string::npos) return "OutOfMemory";
  if (const size_t at = text.find("SIG"); at != std::string::npos)
    return text.substr(at, text.find(' ', at) - at);
  if (text.find("exited") != std::string::npos) return "Exited";
  if (text.find("replaced") != std::string::npos) return "Replaced";
  return "Unknown";  // while no agent was there to be told
}

uint64_t grown(uint64_t before, uint64_t now) { return now >= before ? now - before : now; }

bool older_than_this_process(const std::optional<int64_t>& pid) {
  if (!pid) return false;
  const auto theirs = process_start_ticks(static_cast<pid_t>(*pid));
  const auto ours = process_start_ticks(::getpid());
  return theirs && ours && *theirs < *ours;
}

}  // namespace

NodeMetrics::NodeMetrics(metrics::Registry& registry, VolumeService& service,
                         std::function<std::chrono::milliseconds()> heard_before)
    : registry_(registry), service_(service), heard_before_(std::move(heard_before)) {
  watch_ = service_.watch([this](const std::string& name, const std::optional<Volume>& volume) {
    changed(name, volume);
  });
}

void NodeMetrics::count_failure(metrics::Registry& registry, const std::string& reason) {
  registry
      .counter("ublk_node_reconcile_errors_total",
               "Attempts of the agent that failed and are made again, by the event's reason.",
               {{"reason", reason}})
      .add();
}

NodeMetrics::~NodeMetrics() { service_.unwatch(watch_); }

metrics::Counter NodeMetrics::io_errors(const std::string& volume, const std::string& error) {
  return registry_.counter("ublk_volume_io_errors_total",
                           "Requests that failed, by the errno they got.",
                           {{"volume", volume}, {"errno", error}});
}

metrics::Counter NodeMetrics::recoveries(const std::string& volume, const std::string& reason) {
  return registry_.counter("ublk_volume_recoveries_total",
                           "Servers that were replaced after they ended, by how.",
                           {{"volume", volume}, {"reason", reason}});
}

void NodeMetrics::changed(const std::string& name, const std::optional<Volume>& volume) {
  const std::scoped_lock lock(mutex_);
  if (!volume) {
    seen_.erase(name);
    registry_.remove({{"volume", name}});
    return;
  }
  const auto [entry, is_new] = seen_.try_emplace(name);
  Seen& seen = entry->second;
  const VolumeStatus& status = volume->status;
  if (is_new) {
    // From 0 on, or an increase would not see the first ones: what a disk that fails gives, and a
    // pool that is full.
    for (const char* error : {"EIO", "ENOSPC"}) io_errors(name, error).add(0);
    for (const char* reason : {"SIGKILL", "OutOfMemory", "Exited", "Unknown"})
      recoveries(name, reason).add(0);
  }
  const auto* ready = find_condition(status.conditions, "Ready");
  registry_.gauge("ublk_volume_ready", "1 while the volume is served.", {{"volume", name}})
      .set(ready != nullptr && ready->status == ConditionStatus::yes ? 1 : 0);
  registry_.gauge("ublk_volume_size_bytes", "Size of the device as it is.", {{"volume", name}})
      .set(static_cast<double>(status.size_bytes));
  const auto state = [&](const std::string& value) {
    return registry_.gauge("ublk_volume_device_state", "1 for the state the kernel reports.",
                           {{"volume", name}, {"state", value}});
  };
  if (!seen.state.empty() && seen.state != status.state) state(seen.state).set(0);
  if (!status.state.empty()) state(status.state).set(1);
  seen.state = status.state;

  const std::string mode = to_string(volume->spec.recovery.mode);
  // What an agent before this one counted is no news.
  if (!is_new && status.recovery_count > seen.recoveries) {
    recoveries(name, how_it_ended(status.last_recovery_reason))
        .add(static_cast<double>(status.recovery_count - seen.recoveries));
    const auto observe = [&](const char* metric, const char* help,
                             const std::optional<std::chrono::microseconds>& time) {
      if (time)
        registry_.histogram(metric, help, duration_bounds, {{"mode", mode}})
            .observe(std::chrono::duration<double>(*time).count());
    };
    observe("ublk_volume_pause_duration_seconds",
            "From the server's death until the device was served again.",
            status.last_recovery_duration);
    observe("ublk_volume_recovery_duration_seconds",
            "From when the kernel had let go of the device until it was served again.",
            status.last_recovery_work);
  }
  seen.recoveries = status.recovery_count;
}

void NodeMetrics::count_latency(const metrics::Labels& labels, const IoLatency& before,
                                const IoLatency& now) {
  std::vector<double> counts;
  double all = 0;
  for (size_t i = 0; i < IoLatency::buckets; ++i) {
    counts.push_back(static_cast<double>(grown(before.counts[i], now.counts[i])));
    all += counts.back();
  }
  if (all == 0) return;  // an operation that nobody uses is 15 series less
  registry_
      .histogram("ublk_volume_io_latency_seconds",
                 "From when a server saw a request until it committed the result.", latency_bounds,
                 labels)
      .observe_many(counts, static_cast<double>(grown(before.sum_ns, now.sum_ns)) / 1e9);
}

void NodeMetrics::count_io(const Volume& volume, Seen& seen) {
  const std::string& name = volume.metadata.name;
  if (!seen.counted && older_than_this_process(volume.status.server_pid)) {
    seen.io = volume.status.io;
    seen.io_errors = volume.status.io_errors;
  }
  seen.counted = seen.counted || volume.status.server_pid;
  for (const auto& [operation, now] : volume.status.io) {
    IoCounters& before = seen.io[operation];
    const Labels labels{{"volume", name}, {"operation", operation}};
    registry_.counter("ublk_volume_io_total", "Requests that the servers completed.", labels)
        .add(static_cast<double>(grown(before.operations, now.operations)));
    registry_.counter("ublk_volume_io_bytes_total", "Bytes of those requests.", labels)
        .add(static_cast<double>(grown(before.bytes, now.bytes)));
    count_latency(labels, before.latency, now.latency);
    before = now;
  }
  for (const auto& [error, now] : volume.status.io_errors) {
    io_errors(name, error).add(static_cast<double>(grown(seen.io_errors[error], now)));
    seen.io_errors[error] = now;
  }
}

void NodeMetrics::refresh() {
  const std::scoped_lock one(refreshing_);
  std::vector<std::string> names;
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& [name, seen] : seen_) names.push_back(name);
  }
  registry_.gauge("ublk_node_volumes", "Volumes that this node has.")
      .set(static_cast<double>(names.size()));
  if (heard_before_)
    registry_.gauge("ublk_node_api_age_seconds", "Since the API server's last word on the volumes.")
        .set(std::chrono::duration<double>(heard_before_()).count());
  const auto end = std::chrono::steady_clock::now() + refresh_max;
  for (const auto& name : names) {
    if (std::chrono::steady_clock::now() >= end) return;  // the rest keeps what it had
    const auto volume = service_.get(name);
    if (!volume) continue;
    const std::scoped_lock lock(mutex_);
    const auto seen = seen_.find(name);
    if (seen != seen_.end()) count_io(*volume, seen->second);
  }
}

}  // namespace ublk_operator
