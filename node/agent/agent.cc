#include "node/agent/agent.h"

#include <poll.h>
#include <sys/inotify.h>

#include <cerrno>
#include <set>

#include "common/api/quantity.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/strings.h"
#include "node/agent/folder_source.h"
#include "node/agent/identity.h"

namespace ublk_operator {

using namespace std::chrono_literals;
using reconcile::Why;

namespace {

constexpr auto driver_retry = 1s;  // its node is there, and it did not answer
constexpr const char* control_name = "ublk-control";

std::string machine_id() {
  auto text = read_file("/etc/machine-id", 128);
  return text ? std::string(trim(*text)) : "";
}

}  // namespace

Result<std::unique_ptr<Agent>> Agent::create(AgentOptions options, Logger log) {
  std::unique_ptr<Agent> agent(new Agent(std::move(options), std::move(log)));
  if (auto opened = agent->open(); !opened) return std::move(opened).error();
  return agent;
}

Agent::Agent(AgentOptions options, Logger log)
    : options_(std::move(options)),
      log_(log),
      events_(format_now, std::move(log), options_.on_event),
      hooks_(options_.test_hooks_dir) {}

Agent::~Agent() {
  program_watch_.reset();
  driver_watch_.reset();
  std::map<std::string, std::shared_ptr<VolumeWorker>> workers;
  {
    const std::scoped_lock lock(workers_mutex_);
    workers.swap(workers_);
  }
  for (auto& [name, worker] : workers) worker->request_exit();
  workers.clear();
  pool_.reset();
}

Result<void> Agent::open() {
  auto store = StateStore::open(options_.state_dir, options_.run_dir, options_.wait_fd);
  if (!store) return std::move(store).error();
  store_ = std::move(*store);
  if (auto found = look_for_driver(); !found) {
    const std::string control = options_.paths.dev_dir + "/" + control_name;
    const std::string sysfs = options_.paths.sys_dir + "/class/misc/" + control_name;
    if (!options_.await_driver || !driver_missing(control, sysfs)) return found;
    events_.record("", true, "DriverMissing",
                   found.error().to_string() + "; waiting for the driver to be loaded");
  }
  auto hub = WatchHub::create();
  if (!hub) return std::move(hub).error();
  watches_ = std::move(*hub);
  auto id = store_->node_id(machine_id());
  if (!id) return std::move(id).error();
  for (const auto& dir : {options_.paths.by_name_dir, options_.paths.udev_dir})
    if (auto made = make_directories(dir); !made) return made;

  backends_ = std::make_unique<BackendStore>(options_.pools);
  disposable_ = make_disposable("/proc/self/exe");
  pool_ = std::make_unique<ServerPool>(
      ServerPoolOptions{options_.spawner_socket, options_.server_program, options_.standby_count,
                        options_.run_first, options_.start_spawner},
      log_, [this] { wake_all(false); });
  grace_periods_ = std::make_unique<GracePeriods>(
      GracePeriodsOptions{options_.paths.sys_dir + "/kernel/rcu_expedited",
                          options_.run_dir + "/rcu-expedited", options_.expedite_grace_periods,
                          limits::hurry_max},
      log_);
  context_ = std::make_unique<WorkerContext>(WorkerContext{
      options_.paths, *store_, *backends_, *pool_, *watches_, *grace_periods_, options_.run_first,
      events_, *disposable_, hooks_, log_, *id, driver_, options_.open_control, options_.on_failure,
      [this](const std::string& name, std::optional<Volume> volume) {
        publish(name, std::move(volume));
      }});
  return {};
}

Result<void> Agent::look_for_driver() {
  auto control = options_.open_control();
  if (!control) return std::move(control).error();
  auto features = (*control)->features({limits::command_deadline, -1});
  // Not knowing them would make every volume one of the oldest kernel's. ENOTSUP: before Linux 6.5.
  if (!features && features.err() != EOPNOTSUPP && features.err() != EINVAL)
    return std::move(features).error();
  driver_.found(features ? *features : 0);
  return {};
}

Result<void> Agent::watch_for_driver() {
  auto watch = watches_->watch(options_.paths.dev_dir, IN_CREATE | IN_MOVED_TO | IN_ATTRIB,
                               [this](uint32_t, const std::string& name) {
                                 if (name == control_name) driver_event_.signal();
                               });
  if (!watch) return std::move(watch).error();
  driver_watch_ = std::move(*watch);
  driver_event_.signal();  // it may have come before the watch
  return {};
}

// False: its node is there, but it is not to be had yet.
bool Agent::driver_came() {
  driver_event_.drain();
  if (driver_.there()) return true;
  if (auto found = look_for_driver(); !found) {
    if (found.err() == ENOENT) return true;
    log_->warn("operation=look_for_driver error=\"{}\" retry=true", found.error().to_string());
    return false;
  }
  driver_watch_.reset();
  events_.record("", false, "DriverFound", "the ublk driver is there: volumes are made now");
  if (options_.on_driver) options_.on_driver();
  wake_all(true);
  return true;
}

Result<void> Agent::adopt_last_life() {
  if (driver_.there())
    if (auto found = find_devices(); !found) return found;
  auto loaded = store_->load();
  if (!loaded) return std::move(loaded).error();
  for (const auto& broken : loaded->broken)
    events_.record("", true, "StateBroken",
                   broken.path + " was moved aside: " + broken.error.to_string());
  // Before any worker opens anything: what a volume had is its own, whoever asks first.
  for (const auto& [name, backend] : store_->leased_backends()) backends_->reserve(name, backend);
  for (const auto& record : loaded->volumes)
    if (record.backend) backends_->reserve(record.volume.metadata.name, *record.backend);
  for (auto& record : loaded->volumes) {
    await_if_served(record);
    add_worker(std::move(record));
  }
  return {};
}

// A volume that had no server before cannot tell whether servers start in this life.
void Agent::await_if_served(const VolumeRecord& record) {
  if (record.removing || record.stopped || !record.volume.spec.running) return;
  const std::string& name = record.volume.metadata.name;
  const auto lease = store_->load_lease(name);
  if (!lease || (lease->step != LeaseStep::serving && lease->lost.empty())) return;
  const std::scoped_lock lock(board_mutex_);
  awaited_.emplace(name, std::nullopt);
}

namespace {
// Served, or without a server for a reason that lies elsewhere.
bool has_verdict(const Volume& volume,
                 std::optional<std::chrono::steady_clock::time_point>& releasing_since) {
  using reconcile::to_string;
  const auto* ready = find_condition(volume.status.conditions, "Ready");
  if (ready == nullptr) return false;
  if (ready->status == ConditionStatus::yes) return true;
  if (ready->reason == to_string(Why::device_releasing)) {
    // For a moment in every recovery; for longer it is the old server's I/O that does not end.
    const auto now = std::chrono::steady_clock::now();
    if (!releasing_since) releasing_since = now;
    return now - *releasing_since >= limits::release_warn_after;
  }
  releasing_since.reset();
  static const std::set<std::string> of_servers{to_string(Why::starting),
                                                to_string(Why::server_starting),
                                                to_string(Why::recovering),
                                                to_string(Why::back_off),
                                                to_string(Why::server_dying),
                                                to_string(Why::replacing_server),
                                                to_string(Why::deadline_exceeded),
                                                to_string(Why::recovery_impossible),
                                                "CrashLoop"};
  return !of_servers.contains(ready->reason);
}
}  // namespace

bool Agent::has_settled() {
  const std::scoped_lock lock(board_mutex_);
  for (auto awaited = awaited_.begin(); awaited != awaited_.end();) {
    const auto volume = board_.find(awaited->first);
    const bool settled = volume != board_.end() && has_verdict(volume->second, awaited->second);
    awaited = settled ? awaited_.erase(awaited) : std::next(awaited);
  }
  return known_ && awaited_.empty();
}

Result<void> Agent::find_devices() {
  auto control = options_.open_control();
  if (!control) return std::move(control).error();
  auto ids = (*control)->list();
  if (!ids) return std::move(ids).error();
  for (const DeviceId id : *ids) {
    auto info = (*control)->info(id, {limits::command_deadline, -1});
    // A device without our mark is another program's and none of our business.
    if (info && is_volume_identity(info->identity))
      devices_by_identity_[info->identity].push_back(id);
    // Not knowing a device that exists would make a second one of its volume.
    if (!info && info.err() != ENODEV) return std::move(info).error();
  }
  return {};
}

void Agent::add_worker(VolumeRecord record) {
  const std::string name = record.volume.metadata.name;
  const uint64_t identity = volume_identity(context_->node_id, record.volume.metadata.uid);
  std::vector<DeviceId> devices;
  if (auto found = devices_by_identity_.extract(identity); !found.empty())
    devices = std::move(found.mapped());
  const std::scoped_lock lock(workers_mutex_);
  accepted_[name] = {record.source, record.volume.metadata.uid};
  auto worker = std::make_shared<VolumeWorker>(*context_, std::move(record), std::move(devices));
  worker->start();
  workers_[name] = std::move(worker);
}

Result<void> Agent::run(int stop_fd) {
  pool_->start();
  // Servers of the last life are known only through their spawner. Without one the volumes wait,
  // they are not torn down.
  if (auto connected = pool_->wait_connected(options_.spawner_patience); !connected)
    log_->warn("operation=start error=\"{}\"", connected.error().to_string());
  if (auto adopted = adopt_last_life(); !adopted) return adopted;
  auto source = options_.open_source ? options_.open_source()
                                     : open_folder_source(options_.volumes_dir, machine_name());
  if (!source) return std::move(source).error();
  {
    const std::scoped_lock lock(source_mutex_);
    source_ = std::move(*source);
  }
  scan_source();
  for (const auto& [identity, ids] : devices_by_identity_)
    events_.record(
        "", true, "OrphanDevice",
        object_name(ids.front()) +
            " carries the mark of a volume that this node has no manifest for; it is left alone");

  const size_t slash = options_.server_program.rfind('/');
  auto program = watches_->watch(
      options_.server_program.substr(0, slash), IN_CLOSE_WRITE | IN_MOVED_TO,
      [this, file = options_.server_program.substr(slash + 1)](uint32_t, const std::string& name) {
        if (name != file) return;
        pool_->drop_standbys();
        wake_all(true);
      });
  if (program) program_watch_ = std::move(*program);
  if (!driver_.there())
    if (auto watched = watch_for_driver(); !watched) return watched;
  {
    const std::scoped_lock lock(board_mutex_);
    known_ = true;
  }
  if (options_.on_ready) options_.on_ready();

  bool retry_driver = false;
  while (true) {
    pollfd fds[4] = {{stop_fd, POLLIN, 0},
                     {source_->fd(), POLLIN, 0},
                     {wake_.fd(), POLLIN, 0},
                     {driver_event_.fd(), POLLIN, 0}};
    const auto limit = std::chrono::milliseconds(driver_retry).count();
    const int ready = ::poll(fds, 4, retry_driver ? static_cast<int>(limit) : -1);
    if (ready < 0) {
      if (errno == EINTR) continue;
      return errno_error("poll", "agent");
    }
    if (fds[0].revents != 0) return {};
    if (fds[3].revents != 0 || (ready == 0 && retry_driver)) retry_driver = !driver_came();
    if (fds[2].revents != 0) {
      wake_.drain();
      reap_finished();
    }
    bool scan = false;
    if (fds[1].revents != 0) {
      const std::scoped_lock lock(source_mutex_);
      scan = source_->process_events();
    }
    if (scan) scan_source();
  }
}

void Agent::scan_source() {
  std::map<std::string, AcceptedVolume> accepted;
  {
    const std::scoped_lock lock(workers_mutex_);
    accepted = accepted_;
  }
  SourceView view;
  {
    const std::scoped_lock lock(source_mutex_);
    view = source_->scan(accepted);
  }
  apply_view(view);
}

VolumeRecord Agent::new_record(const std::string& name, const std::string& uid) const {
  VolumeRecord record;
  record.volume.metadata.name = name;
  record.volume.metadata.uid = uid.empty() ? local_volume_uid(context_->node_id, name) : uid;
  return record;
}

void Agent::apply_view(const SourceView& view) {
  std::vector<Problem> problems = view.problems;
  for (const auto& [name, wanted] : view.volumes) {
    auto worker = find(name);
    const bool known = worker != nullptr;
    if (!known) {
      if (workers_.size() >= limits::volumes_max) {
        problems.push_back({wanted.source.file, 0, 0, "",
                            "volume " + name + " is one more than a node may have (" +
                                std::to_string(limits::volumes_max) + ")"});
        continue;
      }
      VolumeRecord record = new_record(name, wanted.uid);
      record.source = wanted.source;
      add_worker(std::move(record));
      worker = find(name);
    }
    {
      const std::scoped_lock lock(workers_mutex_);
      if (wanted.volume) accepted_[name].source = wanted.source;
      const auto [told, first] = told_.try_emplace(name);
      if (known && !first && told->second == wanted) continue;
      told->second = wanted;
    }
    if (wanted.volume)
      worker->set_wanted(*wanted.volume, wanted.source, wanted.problems);
    else
      worker->set_broken(wanted.problems);
  }
  {
    const std::scoped_lock lock(workers_mutex_);
    std::erase_if(told_, [&](const auto& told) { return !view.volumes.contains(told.first); });
  }
  report(problems);
  for (const auto& [name, removed] : view.removed) {
    if (auto worker = find(name)) {
      worker->set_removed(removed.reclaim_policy);
      continue;
    }
    // Not known here, but somebody waits to hear that nothing is left of it: whether that is so is
    // for its device's mark to say.
    VolumeRecord record = new_record(name, removed.uid);
    record.removing = true;
    add_worker(std::move(record));
  }
}

void Agent::report(const std::vector<Problem>& problems) {
  std::set<std::string> now;
  for (const auto& problem : problems) {
    const std::string text = problem.to_string();
    if (!reported_.contains(text)) events_.record("", true, "ManifestProblem", text);
    now.insert(text);
  }
  reported_ = std::move(now);
}

void Agent::wake_all(bool reset) {
  std::vector<std::shared_ptr<VolumeWorker>> workers;
  {
    const std::scoped_lock lock(workers_mutex_);
    for (const auto& [name, worker] : workers_) workers.push_back(worker);
  }
  for (const auto& worker : workers) worker->wake(reset);
}

void Agent::reap_finished() {
  std::vector<std::shared_ptr<VolumeWorker>> finished;
  {
    const std::scoped_lock lock(workers_mutex_);
    for (auto it = workers_.begin(); it != workers_.end();) {
      if (!it->second->finished()) {
        ++it;
        continue;
      }
      finished.push_back(it->second);
      accepted_.erase(it->first);
      it = workers_.erase(it);
    }
  }
  for (const auto& worker : finished) worker->join();
  // The manifest may have come back while its volume went.
  if (!finished.empty()) scan_source();
}

std::shared_ptr<VolumeWorker> Agent::find(const std::string& name) {
  const std::scoped_lock lock(workers_mutex_);
  const auto it = workers_.find(name);
  return it == workers_.end() ? nullptr : it->second;
}

void Agent::publish(const std::string& name, std::optional<Volume> volume) {
  const std::scoped_lock lock(board_mutex_);
  if (volume)
    board_[name] = *volume;
  else
    board_.erase(name);
  // A volume that serves for a moment at a time has served.
  if (const auto awaited = awaited_.find(name);
      awaited != awaited_.end() && (!volume || has_verdict(*volume, awaited->second)))
    awaited_.erase(awaited);
  for (const auto& [id, on_change] : watchers_) on_change(name, volume);
  if (!volume) wake_.signal();
}

}  // namespace ublk_operator
