// Controller: watches volumes, nodes and leases, and does what plan() says while it leads.
// Shape    one worker: one volume at a time, so that each decision counts with the one before.
//          Nothing is asked of the server twice: changes come by watches, and time only matters
//          where a Lease ends. Who does not lead watches all the same, and takes over with what it
//          knows.
// Errors   none to the caller: a write that fails is tried again after a back-off and counted; one
//          that rested on an old version is decided anew. on_lost: the process is to exit.
// Threads  any; on_lost comes from a thread of the controller.
#pragma once
#include <array>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "common/base/log.h"
#include "common/kube/client.h"
#include "common/kube/elector.h"
#include "common/kube/events.h"
#include "common/kube/reflector.h"
#include "common/metrics/metrics.h"
#include "controller/operator/inventory.h"
#include "controller/operator/plan.h"
#include "controller/operator/startup_taints.h"
#include "controller/operator/work_queue.h"

namespace ublk_operator::controller {

class Controller {
 public:
  struct Options {
    std::string namespace_name;  // of the leases
    std::string identity;        // of this process; a pod's name
    std::string lease_name = "ublk-controller";
    std::string startup_taint;  // key of the taint to take off nodes that serve; empty: none
  };

  Controller(const std::shared_ptr<kube::Transport>& transport, Options options,
             metrics::Registry& registry, std::function<void(const std::string& why)> on_lost,
             Logger log);
  ~Controller();  // as stop()
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  void start();
  // Ends what is under way and gives the Lease up. on_lost does not come after it.
  void stop();
  // Every kind of objects has been listed once.
  [[nodiscard]] bool synced() const;
  // The worker is not stuck.
  [[nodiscard]] bool healthy() const;
  [[nodiscard]] bool leads() const { return elector_.leads(); }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kinds = 3;  // volumes, nodes, leases
  struct Metrics {
    Metrics(metrics::Registry& registry);  // NOLINT(google-explicit-constructor)
    metrics::Registry& registry;
    metrics::Counter reconciles;
    metrics::Counter errors;
    metrics::Counter conflicts;
    metrics::Counter status_writes;
    void bound(const std::string& reason) const;
  };
  enum class Outcome { done, again, conflict, failed };

  void volume_changed(const std::string& name, const nlohmann::json* object);
  void node_changed(const std::string& name, const nlohmann::json* object);
  void lease_changed(const std::string& name, const nlohmann::json* object);
  void kind_synced();
  void enqueue(const Inventory::Names& names);  // under mutex_
  void look();                                  // sets what is only known by looking

  void run();
  void settle(const std::string& name, Outcome outcome);  // under mutex_
  [[nodiscard]] Outcome execute(VolumeRecord volume, const Plan& plan);
  [[nodiscard]] Result<nlohmann::json> write(const VolumeRecord& volume, const Plan& plan);
  [[nodiscard]] Result<nlohmann::json> write_status(const VolumeRecord& volume, const Plan& plan);
  [[nodiscard]] Outcome outcome_of(const VolumeRecord& volume, const char* operation,
                                   const Error& error);
  void assume(const nlohmann::json& object);
  void say(const VolumeRecord& volume, const Said& said);

  const Options options_;
  const Logger log_;
  const kube::KubeClient client_;
  const Metrics metrics_;
  kube::Cancel cancel_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool stopping_ = false;
  size_t synced_kinds_ = 0;
  Inventory inventory_;
  WorkQueue queue_;
  std::optional<Clock::time_point> busy_since_;
  std::minstd_rand random_{std::random_device{}()};

  std::map<std::string, Said> refusals_;  // by the worker: what was said last, by volume
  kube::EventRecorder events_;
  kube::LeaderElector elector_;
  std::thread worker_;
  // The last: their threads use what is above. No start-up taint: nobody to take it off.
  std::unique_ptr<StartupTaints> taints_;
  std::array<std::unique_ptr<kube::Reflector>, kinds> reflectors_;
};

}  // namespace ublk_operator::controller
