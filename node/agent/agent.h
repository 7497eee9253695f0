// Agent: everything of one node but the data path: makes what is equal to what the manifests want,
// offers it to people on the machine (VolumeService), and leaves no trace in the I/O path: servers
// survive it, and the next agent adopts them.
// Threads  run() in one thread; the VolumeService methods from any.
#pragma once
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/base/log.h"
#include "common/localapi/service.h"
#include "node/agent/volume_source.h"
#include "node/agent/volume_worker.h"

namespace ublk_operator {

struct AgentOptions {
  std::string volumes_dir = "/etc/ublk/volumes";
  // Instead of that folder; called once, when the volumes of the last life are known again.
  std::function<Result<std::unique_ptr<VolumeSource>>()> open_source;
  std::string state_dir = "/var/lib/ublk-operator";
  std::string run_dir = "/run/ublk-operator";
  std::string spawner_socket = "/run/ublk-operator/spawner.sock";
  std::string server_program;  // absolute path of ublk-server
  Pools pools{{"default", Pool("/var/lib/ublk-operator/pool")}};
  unsigned standby_count = 1;
  // Another agent of this state folder is waited for, until this is readable, instead of an error.
  std::optional<int> wait_fd;
  std::string test_hooks_dir;
  NodePaths paths;
  std::function<Result<void>()> start_spawner;  // `ublk-node run`
  EventLog::Listener on_event;
  std::function<void(const std::string& reason)> on_failure;  // any thread; quick
  std::function<void()> on_ready;  // all volumes of the last life are known again
  // A kernel without the driver is no error: the volumes wait, and say so, until it is loaded.
  bool await_driver = false;
  bool expedite_grace_periods = false;  // while a device waits for its next server: grace_periods.h
  bool run_first = false;           // the worker of such a device, and its next server: run_first.h
  std::function<void()> on_driver;  // it came
  // Each worker opens its own. A fake here is one that passes tests/contract.
  std::function<Result<std::unique_ptr<ControlDevice>>()> open_control = open_control_device;
  // How long the start waits for the spawner, which alone knows the servers of the last life.
  std::chrono::milliseconds spawner_patience{10'000};
};

class Agent : public VolumeService {
 public:
  // EWOULDBLOCK: another agent runs on this state folder; ECANCELED: see wait_fd; ENOENT and
  // others: the control device cannot be opened (see await_driver).
  [[nodiscard]] static Result<std::unique_ptr<Agent>> create(AgentOptions options, Logger log);
  ~Agent() override;

  // The volumes of the last life are known, and those that were served in it are served again, or
  // wait for something else than their server: the backend, the kernel, somebody's wish. From then
  // on it stays so. False where servers cannot start.
  [[nodiscard]] bool has_settled();
  // Until `stop_fd` is readable. Servers and devices stay as they are.
  [[nodiscard]] Result<void> run(int stop_fd);

  std::vector<Volume> list() override;
  Result<Volume> get(const std::string& name) override;
  std::vector<VolumeEvent> events(const std::string& volume) override;
  Result<std::vector<std::string>> apply(const std::string& manifest) override;
  Result<void> remove(const std::string& name) override;
  Result<void> stop(const std::string& name, bool stopped, bool force) override;
  Result<void> recover(const std::string& name, bool replace_server) override;
  Result<void> pause(const std::string& name, bool paused) override;
  nlohmann::json support_bundle() override;
  uint64_t watch(OnChange on_change) override;
  void unwatch(uint64_t id) override;

 private:
  Agent(AgentOptions options, Logger log);
  [[nodiscard]] Result<void> open();
  [[nodiscard]] Result<void> look_for_driver();
  [[nodiscard]] Result<void> watch_for_driver();
  [[nodiscard]] bool driver_came();
  [[nodiscard]] Result<void> adopt_last_life();
  [[nodiscard]] Result<void> find_devices();
  void scan_source();
  [[nodiscard]] VolumeRecord new_record(const std::string& name, const std::string& uid) const;
  void apply_view(const SourceView& view);
  void report(const std::vector<Problem>& problems);
  void await_if_served(const VolumeRecord& record);
  void add_worker(VolumeRecord record);
  void wake_all(bool reset);
  void reap_finished();
  void publish(const std::string& name, std::optional<Volume> volume);
  [[nodiscard]] std::shared_ptr<VolumeWorker> find(const std::string& name);

  const AgentOptions options_;
  const Logger log_;
  EventLog events_;
  TestHooks hooks_;
  std::unique_ptr<StateStore> store_;
  std::unique_ptr<BackendStore> backends_;
  std::unique_ptr<WatchHub> watches_;
  std::unique_ptr<Disposable> disposable_;
  std::unique_ptr<ServerPool> pool_;
  std::unique_ptr<GracePeriods> grace_periods_;
  std::unique_ptr<WorkerContext> context_;
  WatchHub::Watch program_watch_;
  KnownDriver driver_;
  EventFd driver_event_ = EventFd::must_create();  // something happened to its node
  WatchHub::Watch driver_watch_;
  std::map<uint64_t, std::vector<DeviceId>> devices_by_identity_;  // as found at start
  std::set<std::string> reported_;  // problems of the last scan, said once

  EventFd wake_ = EventFd::must_create();  // a volume is gone: its worker is to be joined
  std::mutex source_mutex_;
  std::unique_ptr<VolumeSource> source_;

  std::mutex workers_mutex_;
  std::map<std::string, std::shared_ptr<VolumeWorker>> workers_;
  std::map<std::string, AcceptedVolume> accepted_;  // a worker each
  // What the source says of a volume and its worker knows already: it is told what is new, or each
  // change of one volume would wake all of them.
  std::map<std::string, WantedVolume> told_;

  std::mutex board_mutex_;  // held while watchers are called: that is how unwatch() waits for them
  std::map<std::string, Volume> board_;
  std::map<uint64_t, OnChange> watchers_;
  uint64_t next_watcher_ = 1;
  bool known_ = false;  // the volumes of the last life
  // Those of them that were served and are not seen to have settled; since when the kernel has been
  // releasing their device.
  std::map<std::string, std::optional<std::chrono::steady_clock::time_point>> awaited_;
};

}  // namespace ublk_operator
