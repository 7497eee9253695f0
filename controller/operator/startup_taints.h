// StartupTaints: takes the start-up taint off nodes that have become able to serve volumes.
// Clusters put it on new nodes, so that no application gets there before its volumes can.
// Shape    watches the cluster's nodes and keeps those that have the taint. One of them is freed
//          when its Lease was renewed since the node was seen with the taint (who renewed it before
//          may have been an earlier machine of that name) and `may_free` says yes. Nothing is
//          polled: the owner tells of every renewal and of whatever may change that answer.
// Safety   a write takes off the taints of this key and touches nothing else: it is a JSON patch
//          that tests each entry before it removes it, so that another's change in between fails
//          it.
// Errors   none to the caller: what fails is tried again after a back-off, and with each news.
// Bounds   an entry a node that has the taint; one write at a time.
// Threads  any, also with a lock held that `may_free` takes.
#pragma once
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "common/base/log.h"
#include "common/kube/client.h"
#include "common/kube/reflector.h"
#include "common/metrics/metrics.h"
#include "controller/operator/work_queue.h"

namespace ublk_operator::controller {

// RFC 6902, of a node. Nothing: no taint has that key.
[[nodiscard]] std::optional<nlohmann::json> untaint_patch(const nlohmann::json& node,
                                                          const std::string& key);

class StartupTaints {
 public:
  // From a thread of StartupTaints, which holds no lock.
  using MayFree = std::function<bool(const std::string& node)>;

  StartupTaints(const std::shared_ptr<kube::Transport>& transport, std::string key,
                MayFree may_free, metrics::Registry& registry, Logger log);
  ~StartupTaints();  // as stop()
  StartupTaints(const StartupTaints&) = delete;
  StartupTaints& operator=(const StartupTaints&) = delete;

  void start();
  // Ends what is under way; `may_free` is not asked after it.
  void stop();
  void renewed(const std::string& node);  // its Lease
  // The answer may be another.
  void look(const std::string& node);
  void look_all();
  [[nodiscard]] size_t tainted() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Tainted {
    std::string uid;
    nlohmann::json patch;
    bool renewed = false;
  };
  void node_changed(const std::string& name, const nlohmann::json* object);
  void run();
  [[nodiscard]] bool free(const std::string& name, const nlohmann::json& patch);

  const std::string key_;
  const MayFree may_free_;
  const Logger log_;
  const kube::KubeClient client_;
  const metrics::Counter freed_;
  kube::Cancel cancel_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool stopping_ = false;
  std::map<std::string, Tainted> tainted_;
  WorkQueue queue_;
  std::minstd_rand random_{std::random_device{}()};

  std::thread worker_;
  kube::Reflector nodes_;  // the last: its thread uses what is above
};

}  // namespace ublk_operator::controller
