// ClusterLink: what ties an agent to the API server: the volumes it is to have come in
// (ClusterVolumes), their status, the node's own (UblkNode) and its heartbeat (a Lease) go out.
// Shape    everything is written by server-side apply with one field manager, and only when it
//          differs from what was written last; when that is, StatusPlan says.
// Errors   none to the caller. Without the API server everything waits, and is brought up to date
//          when it is back; the first failure in a row is logged.
// Bounds   one write at a time; a status a volume waits at most.
// Threads  three of its own (watch, status, heartbeat). The destructor ends calls under way.
#pragma once
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "common/base/log.h"
#include "common/kube/client.h"
#include "common/kube/events.h"
#include "common/localapi/service.h"
#include "node/cluster/cluster_volumes.h"
#include "node/cluster/status_plan.h"

namespace ublk_operator {

struct ClusterLinkOptions {
  std::string node_name;
  std::string namespace_name;                  // where the heartbeat's Lease is
  std::string holder;                          // who beats: the pod's name
  std::function<nlohmann::json()> node_facts;  // node_status() of what is now
  StatusPlan::Options plan;
};

// What is written as the status of a volume: of an object that is there, and of one that is being
// deleted and of which nothing is left on the node; and of one that is passed over until it has its
// finalizer. Pure.
[[nodiscard]] nlohmann::json status_object(const Volume& volume);
[[nodiscard]] nlohmann::json removed_object(const std::string& name, const ClusterObject& object,
                                            const std::string& now);
[[nodiscard]] nlohmann::json awaited_object(const std::string& name, const ClusterObject& object,
                                            const std::string& now);

class ClusterLink {
 public:
  ClusterLink(const std::shared_ptr<kube::Transport>& transport, ClusterLinkOptions options,
              Logger log);
  ~ClusterLink();
  ClusterLink(const ClusterLink&) = delete;
  ClusterLink& operator=(const ClusterLink&) = delete;

  // The agent outlives the link, or stop() comes first.
  void start(VolumeService& agent);
  void stop();
  [[nodiscard]] std::unique_ptr<VolumeSource> source() { return volumes_.source(); }
  // An Event of the volume's object, or of the UblkNode when it is no volume's. Any thread; quick.
  void say_event(const VolumeEvent& event);
  // The node's own status may be another than a moment ago: it is looked at now. Any thread.
  void node_changed();
  // The API server's last word on the volumes is this old.
  [[nodiscard]] std::chrono::milliseconds heard_before() const { return volumes_.heard_before(); }

 private:
  using Clock = std::chrono::steady_clock;
  void run_writer();
  void run_heartbeat();
  void learn_cluster();
  void write_volume(const std::string& name);
  void write_node();
  [[nodiscard]] bool pause(std::chrono::milliseconds time);  // false: stopping
  [[nodiscard]] bool stopping();
  [[nodiscard]] std::chrono::milliseconds jittered(std::chrono::milliseconds time);
  void say(const std::string& what, const Result<void>& how);

  const ClusterLinkOptions options_;
  const Logger log_;
  const kube::KubeClient client_;
  kube::Cancel cancel_;
  VolumeService* agent_ = nullptr;
  uint64_t watch_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;                  // under mutex_
  StatusPlan plan_{options_.plan};         // under mutex_
  bool node_stale_ = true;                 // under mutex_
  std::set<std::string> stale_;            // under mutex_: to be written whatever was written last
  std::optional<Clock::time_point> beat_;  // under mutex_: the last heartbeat
  std::map<std::string, std::optional<Volume>> latest_;  // under mutex_; empty: gone
  std::map<std::string, std::string> failing_;           // under mutex_: what was said last
  std::minstd_rand random_{std::random_device{}()};      // under mutex_

  // Only the writer's thread.
  std::map<std::string, nlohmann::json> written_;
  nlohmann::json node_written_;
  std::map<std::string, std::pair<std::string, std::string>>
      node_conditions_;  // by type: status, since when
  Clock::time_point node_due_{};
  Clock::time_point node_again_{};

  ClusterVolumes volumes_;
  kube::EventRecorder events_;
  std::thread writer_;
  std::thread heartbeat_;
};

}  // namespace ublk_operator
