// NodeMetrics: what an agent's volumes did, for Prometheus.
// Shape    follows the volumes by a watch; refresh(), before each scrape, asks the servers for
//          their I/O counters. Those begin at 0 with every server: what is shown goes on where the
//          last one ended, but for what a server counted after its last scrape and took with it. A
//          server that is older than this process counted for the agent before: what it had then is
//          not counted again. A counter that alerts look at is there, at 0, before the first thing
//          that it counts.
// Bounds   series of a volume that is gone are removed. refresh() takes at most refresh_max.
// Threads  any; one refresh at a time, others wait for it.
#pragma once
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include "common/localapi/service.h"
#include "common/metrics/metrics.h"

namespace ublk_operator {

class NodeMetrics {
 public:
  static constexpr std::chrono::seconds refresh_max{3};

  // An attempt that failed and is made again; `reason`: of the event that says so. Any thread.
  static void count_failure(metrics::Registry& registry, const std::string& reason);

  // `heard_before`: the API server's last word is this old; empty: there is none.
  NodeMetrics(metrics::Registry& registry, VolumeService& service,
              std::function<std::chrono::milliseconds()> heard_before);
  ~NodeMetrics();
  NodeMetrics(const NodeMetrics&) = delete;
  NodeMetrics& operator=(const NodeMetrics&) = delete;

  void refresh();

 private:
  struct Seen {
    uint64_t recoveries = 0;
    std::string state;
    bool counted = false;  // its I/O, once at least
    std::map<std::string, IoCounters> io;
    std::map<std::string, uint64_t> io_errors;
  };
  void changed(const std::string& name, const std::optional<Volume>& volume);
  [[nodiscard]] metrics::Counter io_errors(const std::string& volume, const std::string& error);
  [[nodiscard]] metrics::Counter recoveries(const std::string& volume, const std::string& reason);
  void count_io(const Volume& volume, Seen& seen);
  void count_latency(const metrics::Labels& labels, const IoLatency& before, const IoLatency& now);

  metrics::Registry& registry_;
  VolumeService& service_;
  const std::function<std::chrono::milliseconds()> heard_before_;
  std::mutex refreshing_;
  std::mutex mutex_;
  std::map<std::string, Seen> seen_;
  uint64_t watch_ = 0;
};

}  // namespace ublk_operator
