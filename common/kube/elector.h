// LeaderElector: runs a LeaderElection against an API server, in a thread of its own.
// Shape    on_leading once, when this process leads; on_lost once, when it does no more (or never
//          will): the process is then to exit, because what it began may still be under way.
// Errors   none to the caller; failures are logged, the first in a row.
// Bounds   one call at a time, given up after 5 s of silence.
// Threads  any; the callbacks come from the elector's thread.
#pragma once
#include <condition_variable>
#include <functional>
#include <mutex>
#include <random>
#include <thread>

#include "common/base/log.h"
#include "common/kube/lease.h"

namespace ublk_operator::kube {

class LeaderElector {
 public:
  struct Callbacks {
    std::function<void()> on_leading;
    std::function<void(const std::string& why)> on_lost;
  };
  LeaderElector(std::shared_ptr<Transport> transport, LeaderElection::Options options,
                Callbacks callbacks, Logger log);
  ~LeaderElector();  // as release()
  LeaderElector(const LeaderElector&) = delete;
  LeaderElector& operator=(const LeaderElector&) = delete;

  void start();
  // Whoever watches the namespace's leases tells of this one; nullptr: it is gone.
  void observed(const nlohmann::json* lease);
  // To be asked before each act of a leader: true only while no other process can lead.
  [[nodiscard]] bool leads() const;
  // Ends the thread; if this process leads, the next one need not wait. No callback comes after it.
  void release();

 private:
  using Clock = std::chrono::steady_clock;
  void run();
  void execute(const LeaderElection::Step& step);
  void say(const Result<nlohmann::json>& how);

  const KubeClient client_;
  const std::string path_;   // of the lease
  const std::string paths_;  // of all leases
  const std::string identity_;
  const Callbacks callbacks_;
  const Logger log_;
  Cancel cancel_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool stopping_ = false;
  bool poked_ = false;
  bool told_leading_ = false;
  bool failing_ = false;
  LeaderElection election_;
  std::minstd_rand random_{std::random_device{}()};
  std::thread thread_;
};

}  // namespace ublk_operator::kube
