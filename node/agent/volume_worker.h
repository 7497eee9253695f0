// VolumeWorker: one volume, one thread: observe, decide(), execute one action, publish what is,
// wait for an event. A slow or stuck volume is nobody else's business.
// Threads  the public methods from any thread: they leave a message and wake the worker. join()
//          from the owner.
// Time     every wait inside has a bound. Waiting for a server ends early when it dies or the
//          worker is asked to exit; waiting for the kernel to stop a disk (30 s), a process to die
//          (5 s) or the spawner to answer (10 s) does not.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/api/decode.h"
#include "common/api/volume.h"
#include "common/base/log.h"
#include "controller/reconcile/backoff.h"
#include "controller/reconcile/decide.h"
#include "node/agent/backend_store.h"
#include "node/agent/device_node.h"
#include "node/agent/disposable.h"
#include "node/agent/event_log.h"
#include "node/agent/grace_periods.h"
#include "node/agent/server_pool.h"
#include "node/agent/state_store.h"
#include "node/agent/test_hooks.h"
#include "node/agent/watch_hub.h"
#include "node/server/protocol.h"
#include "node/ublk/control_device.h"
#include "node/ublk/driver.h"
#include "node/ublk/modes.h"

namespace ublk_operator {

// What all workers of an agent share. Everything in it outlives the workers.
struct WorkerContext {
  NodePaths paths;
  StateStore& store;
  BackendStore& backends;
  ServerPool& pool;
  WatchHub& watches;
  GracePeriods& grace_periods;
  bool run_first;  // threads that bring a device back (common/base/run_first.h)
  EventLog& events;
  Disposable& disposable;
  const TestHooks& hooks;
  Logger log;
  std::string node_id;
  const KnownDriver& driver;  // when it is found, workers are woken
  std::function<Result<std::unique_ptr<ControlDevice>>()> open_control;
  // An attempt failed and is made again; `reason`: of the event.
  std::function<void(const std::string& reason)> on_failure;
  // The volume's status changed; nullopt: nothing is left of it.
  std::function<void(const std::string& name, std::optional<Volume>)> publish;
};

class VolumeWorker {
 public:
  // `device`: the id of a device with this volume's identity, if there is one.
  VolumeWorker(WorkerContext& context, VolumeRecord record, std::vector<DeviceId> devices);
  ~VolumeWorker();
  VolumeWorker(const VolumeWorker&) = delete;
  VolumeWorker& operator=(const VolumeWorker&) = delete;

  void start();
  void request_exit();  // leaves device and server as they are
  void join();
  [[nodiscard]] bool finished() const { return finished_; }  // forgotten: nothing is left to do

  // A manifest that decoded well. Not accepted (shrinking, another backend): the condition
  // SpecValid says why. `remarks`: what is wrong although it is taken (a namesake in another file).
  void set_wanted(Volume wanted, SourceIdentity source, std::vector<Problem> remarks = {});
  // The manifest is broken: what was accepted before stays.
  void set_broken(std::vector<Problem> problems);
  // `policy`: what becomes of the data, whatever the spec said that was accepted last.
  void set_removed(std::optional<ReclaimPolicy> policy = std::nullopt);
  void set_stopped(bool stopped, bool forced);
  void set_paused(bool paused);
  void recover(bool replace_server);
  // Something outside may have changed (spawner came back, server program replaced): look again;
  // `reset` forgets back-off.
  void wake(bool reset);
  // As published, with the server's I/O counters asked for now (at most `timeout` old news
  // otherwise).
  [[nodiscard]] Volume describe(std::chrono::milliseconds timeout);

 private:
  using Clock = std::chrono::steady_clock;
  // A server that ended, which its spawner explains a moment later.
  struct Death {
    uint64_t id = 0;
    pid_t pid = -1;
    reconcile::Server was = reconcile::Server::none;
    Clock::time_point when;
    std::chrono::milliseconds served{0};
  };

  struct Mail {
    std::optional<Volume> wanted;
    std::optional<SourceIdentity> source;
    std::vector<Problem> remarks;
    std::optional<std::vector<Problem>> problems;
    bool removed = false;
    std::optional<ReclaimPolicy> reclaim_policy;  // with removed
    std::optional<bool> stopped;
    bool forced = false;
    std::optional<bool> paused;
    bool recover = false;
    bool replace_server = false;
    bool reset = false;
    bool stats = false;
  };

  // --- the loop
  void run();
  void take_mail();
  [[nodiscard]] bool ends_within_a_moment(const reconcile::Decision& decision) const;
  [[nodiscard]] bool adopt();  // false: not possible at the moment, nothing may be decided yet
  [[nodiscard]] bool choose_device(const std::optional<Lease>& stored);
  [[nodiscard]] bool find_devices();
  void observe();
  void observe_device();
  void observe_server();
  void observe_backend();
  void observe_next_backend();
  [[nodiscard]] reconcile::Desired desired() const;
  [[nodiscard]] reconcile::Observed observed();
  void execute(const reconcile::Decision& decision);
  void wait_for_events(std::optional<std::chrono::milliseconds> at_most);
  void hurry();
  void calm();
  void stop_running_first();
  void give_way_to_server();

  // --- actions
  void add_device();
  void prepare_server();
  void grant();
  void start_device();
  void begin_recovery();
  void end_recovery();
  void poke_release();
  void check_usage();
  void try_stop();
  void kill_server(reconcile::Why why);
  void stop_device(reconcile::Why why);
  void delete_device();
  void delete_backend();
  void forget();

  // --- losses (volume_losses.cc)
  void server_lost(bool intended);
  void note_loss();
  void served_again(std::chrono::microseconds pause);  // after that long without a server
  void count_recovery(std::optional<std::chrono::microseconds> pause, std::string reason);
  void forget_loss();
  void explain_deaths();
  void explain(const Death& death, const std::optional<ExitNotice>& notice);
  [[nodiscard]] bool loss_is_unexplained() const;
  [[nodiscard]] bool settle_recovery(bool last_chance);

  // --- helpers
  void accept(Volume wanted, SourceIdentity source);
  void take_over(SpawnedServer server);
  void ask_for_herald();
  void drop_server();
  void serving(bool recovered);
  void process_channel();
  void note_half_way(const Error& error);
  void note_half_way_held();
  void replace_server_process(const std::string& reason, const Error& error);
  void disk_gone();
  void failed(const std::string& reason, const Error& error);
  void read_affinity();
  void set_up_disk();
  void save_record();
  void save_lease();
  void note_saved(bool& unsaved, const Result<void>& how);
  void save_what_is_unsaved();
  void watch_device();
  void watch_backend();
  void reset_device();
  void apply_live_changes(const VolumeSpec& before);
  [[nodiscard]] bool wait_server_exit(std::chrono::milliseconds timeout) const;
  [[nodiscard]] Result<UniqueFd> cancel_descriptor() const;
  [[nodiscard]] bool recovery_needs_start_once() const;
  [[nodiscard]] Geometry wanted_geometry(const OpenBackend& backend) const;
  [[nodiscard]] const VolumeSpec& effective_spec() const;
  [[nodiscard]] bool recreate_wanted() const;
  [[nodiscard]] uint64_t present_size() const;
  [[nodiscard]] RecoveryMode device_mode() const;
  [[nodiscard]] bool recoverable() const { return device_mode() != RecoveryMode::none; }
  [[nodiscard]] std::chrono::milliseconds without_server() const;
  [[nodiscard]] double jitter();
  void event(bool warning, const std::string& reason, const std::string& message);
  void publish_status(const reconcile::Decision& decision);
  [[nodiscard]] Condition ready_condition(const reconcile::Decision& decision);
  [[nodiscard]] std::string wait_message(reconcile::Why why) const;

  WorkerContext& context_;
  const std::string name_;
  const uint64_t identity_;
  EventFd wake_event_;
  EventFd exit_event_;
  std::mutex mail_mutex_;
  Mail mail_;
  std::vector<std::promise<void>> stats_waiters_;  // under mail_mutex_
  std::atomic<bool> exiting_ = false;
  std::atomic<bool> finished_ = false;
  std::atomic<bool> close_seen_ = false;       // set by the watch on ublkcN
  std::atomic<bool> disk_closed_ = false;      // set by the watch on ublkbN
  std::atomic<bool> backend_changed_ = false;  // set by the watch on the backend's folder
  std::thread thread_;

  // --- only the worker's thread
  std::unique_ptr<ControlDevice> control_;
  VolumeRecord record_;
  std::vector<Problem> problems_;  // why the newest manifest was not accepted
  int64_t seen_generation_ = 0;    // of the API server's newest, accepted or not
  bool forced_ = false;
  bool replace_server_ = false;

  std::vector<DeviceId> found_devices_;  // with this volume's mark
  bool adopted_ = false;
  bool record_unsaved_ = false;
  bool lease_unsaved_ = false;
  bool without_driver_ = false;  // adopted as a volume without a device
  bool spec_unknown_ = false;    // a device was found, but neither its lease nor its record
  std::optional<DeviceInfo> device_;
  std::optional<Geometry> geometry_;               // of the device
  std::vector<std::vector<unsigned>> queue_cpus_;  // of the device, by queue; empty: not asked yet
  Lease lease_;
  bool still_held_ = false;
  bool recovery_impossible_ = false;
  std::optional<Clock::time_point> half_way_held_since_;  // 6.12, see note_half_way()
  bool old_holder_alive_ = false;
  reconcile::Usage usage_ = reconcile::Usage::unknown;
  std::string users_;

  std::optional<SpawnedServer> server_;
  UniqueFd herald_;  // of a server that serves: the first to tell of its death
  bool herald_asked_ = false;
  reconcile::Server server_state_ = reconcile::Server::none;
  Geometry prepared_for_;  // what the server was told
  uint64_t server_start_ticks_ = 0;
  bool opened_ = false;   // the granted server said that it opens ublkcN
  bool fetched_ = false;  // the granted server said that it fetched every tag
  Clock::time_point server_deadline_{};
  std::optional<Clock::time_point> serving_since_;
  std::optional<GracePeriods::Expedited> expedited_;  // from a loss to its end
  std::optional<Clock::time_point> first_until_;      // this thread runs first
  bool gives_way_ = false;                            // or after the server, to say what was done
  std::optional<Clock::time_point> lost_at_;
  std::optional<Clock::time_point> let_in_at_;  // the next server, after that
  std::optional<std::chrono::microseconds> last_recovery_work_;
  std::string lost_how_;
  pid_t lost_server_ = -1;         // whose end is the loss
  std::deque<Death> unexplained_;  // in their order
  // One that is over, and waits a moment for what its reason is.
  struct Recovery {
    std::chrono::microseconds pause{0};
    pid_t server = -1;  // the new one
    Clock::time_point settle_by;
  };
  std::optional<Recovery> uncounted_;
  Clock::time_point stop_not_before_{};
  bool pool_blocked_ = false;

  std::optional<OpenBackend> backend_;
  VolumeSpec backend_spec_;  // what backend_ was opened for
  std::optional<Error> backend_error_;
  std::optional<Error> backend_moved_;       // removed or replaced while it is served
  std::optional<Error> next_backend_error_;  // of the device that the spec asks for
  std::optional<Error> unsupported_;
  std::optional<Error> last_error_;

  reconcile::RestartHistory history_;
  std::minstd_rand random_;
  WatchHub::Watch char_watch_;
  WatchHub::Watch disk_watch_;
  WatchHub::Watch backend_watch_;
  UniqueFd mount_table_;

  std::mutex published_mutex_;
  Volume published_;
};

}  // namespace ublk_operator
