#include "node/agent/volume_worker.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "common/api/quantity.h"
#include "common/base/limits.h"
#include "common/base/run_first.h"
#include "node/agent/identity.h"
#include "node/ublk/modes.h"

namespace ublk_operator {

using namespace std::chrono_literals;
namespace {
constexpr auto adopt_retry = 1000ms;
constexpr std::chrono::milliseconds save_retry = 1000ms;
}  // namespace
using reconcile::Act;
using reconcile::Decision;
using reconcile::Device;
using reconcile::Observed;
using reconcile::Server;
using reconcile::Usage;

VolumeWorker::VolumeWorker(WorkerContext& context, VolumeRecord record,
                           std::vector<DeviceId> devices)
    : context_(context),
      name_(record.volume.metadata.name),
      identity_(volume_identity(context.node_id, record.volume.metadata.uid)),
      wake_event_(EventFd::must_create()),
      exit_event_(EventFd::must_create()),
      record_(std::move(record)),
      found_devices_(std::move(devices)),
      random_(static_cast<unsigned>(identity_)),
      published_(record_.volume) {}

VolumeWorker::~VolumeWorker() {
  request_exit();
  join();
}

void VolumeWorker::start() {
  thread_ = std::thread([this] { run(); });
}

void VolumeWorker::request_exit() {
  exiting_ = true;
  exit_event_.signal();
  wake_event_.signal();
}

void VolumeWorker::join() {
  if (thread_.joinable()) thread_.join();
}

// --- messages
// -------------------------------------------------------------------------------------------------

void VolumeWorker::set_wanted(Volume wanted, SourceIdentity source, std::vector<Problem> remarks) {
  const std::scoped_lock lock(mail_mutex_);
  mail_.wanted = std::move(wanted);
  mail_.remarks = std::move(remarks);
  mail_.source = std::move(source);
  mail_.problems.reset();
  mail_.removed = false;
  wake_event_.signal();
}

void VolumeWorker::set_broken(std::vector<Problem> problems) {
  const std::scoped_lock lock(mail_mutex_);
  mail_.wanted.reset();
  mail_.problems = std::move(problems);
  mail_.removed = false;
  wake_event_.signal();
}

void VolumeWorker::set_removed(std::optional<ReclaimPolicy> policy) {
  const std::scoped_lock lock(mail_mutex_);
  mail_.wanted.reset();
  mail_.removed = true;
  mail_.reclaim_policy = policy;
  wake_event_.signal();
}

void VolumeWorker::set_stopped(bool stopped, bool forced) {
  const std::scoped_lock lock(mail_mutex_);
  mail_.stopped = stopped;
  mail_.forced = forced;
  mail_.reset = true;
  wake_event_.signal();
}

void VolumeWorker::set_paused(bool paused) {
  const std::scoped_lock lock(mail_mutex_);
  mail_.paused = paused;
  wake_event_.signal();
}

void VolumeWorker::recover(bool replace_server) {
  const std::scoped_lock lock(mail_mutex_);
  mail_.recover = true;
  mail_.replace_server = replace_server;
  wake_event_.signal();
}

void VolumeWorker::wake(bool reset) {
  const std::scoped_lock lock(mail_mutex_);
  mail_.reset = mail_.reset || reset;
  wake_event_.signal();
}

Volume VolumeWorker::describe(std::chrono::milliseconds timeout) {
  std::future<void> answered;
  {
    const std::scoped_lock lock(mail_mutex_);
    if (!exiting_ && !finished_) {
      std::promise<void> promise;
      answered = promise.get_future();
      stats_waiters_.push_back(std::move(promise));
      mail_.stats = true;
      wake_event_.signal();
    }
  }
  if (answered.valid()) (void)answered.wait_for(timeout);
  const std::scoped_lock lock(published_mutex_);
  return published_;
}

// --- the loop
// -------------------------------------------------------------------------------------------------

void VolumeWorker::run() {
  while (!exiting_ && !finished_) {
    if (!adopted_ || (without_driver_ && context_.driver.there())) adopted_ = adopt();
    if (!adopted_) {
      wait_for_events(adopt_retry);
      continue;
    }
    if (first_until_ && Clock::now() >= *first_until_) stop_running_first();
    take_mail();
    observe();
    save_what_is_unsaved();
    if (spec_unknown_ && record_.volume.spec.size_bytes == 0 && !record_.removing) {
      // A device without a known spec goes on as it is until a manifest can be read.
      publish_status({Act::wait, reconcile::Why::starting, std::nullopt});
      wait_for_events(std::nullopt);
      continue;
    }
    const Decision decision = reconcile::decide(desired(), observed());
    if (!ends_within_a_moment(decision)) publish_status(decision);
    if (decision.act == Act::nothing || decision.act == Act::wait) {
      if (!uncounted_ && std::exchange(gives_way_, false)) run_as_others();
      wait_for_events(decision.recheck);
    } else
      execute(decision);
  }
  calm();
  if (settle_recovery(true)) save_lease();
  const std::scoped_lock lock(mail_mutex_);
  stats_waiters_.clear();
}

// Applications wait for these, and what is published after them says them too.
bool VolumeWorker::ends_within_a_moment(const Decision& decision) const {
  if (last_error_) return false;
  if (uncounted_) return true;
  if (decision.act == Act::begin_recovery || decision.act == Act::grant) return true;
  // Between the close of ublkcN and the end of the kernel's work after it.
  return decision.act == Act::wait && decision.why == reconcile::Why::device_releasing &&
         close_seen_ && without_server() < limits::hurry_max;
}

void VolumeWorker::take_mail() {
  Mail mail;
  {
    const std::scoped_lock lock(mail_mutex_);
    mail = std::exchange(mail_, Mail{});
  }
  if ((mail.wanted || mail.problems) && record_.removing) {
    record_.removing = false;  // its manifest is back, be it broken or not
    save_record();
    event(false, "Kept", "the manifest is there again; the volume stays");
  }
  if (mail.wanted) {
    const std::vector<Problem> before = problems_;
    accept(std::move(*mail.wanted), std::move(*mail.source));
    if (problems_.empty() && !mail.remarks.empty()) {
      problems_ = std::move(mail.remarks);
      if (before.empty() || before.front().to_string() != problems_.front().to_string())
        event(true, "DuplicateName", problems_.front().to_string());
    }
  }
  if (mail.problems && !mail.problems->empty()) {
    if (problems_.empty() || problems_.front().to_string() != mail.problems->front().to_string())
      event(true, "ManifestBroken", mail.problems->front().to_string());
    problems_ = std::move(*mail.problems);
  }
  // Also while it waits for its last user.
  if (mail.removed && mail.reclaim_policy &&
      record_.volume.spec.reclaim_policy != *mail.reclaim_policy) {
    record_.volume.spec.reclaim_policy = *mail.reclaim_policy;
    save_record();
  }
  if (mail.removed && !record_.removing) {
    record_.removing = true;
    save_record();
    event(false, "Removed",
          "deleted, or its manifest removed; the volume goes as soon as it is not in use");
    history_.reset();
  }
  if (mail.stopped) {
    record_.stopped = *mail.stopped;
    forced_ = mail.forced;
    save_record();
    event(false, record_.stopped ? "StopRequested" : "StartRequested",
          record_.stopped ? forced_ ? "stop by hand, forced" : "stop by hand" : "start by hand");
  }
  if (mail.paused && *mail.paused != record_.paused) {
    record_.paused = *mail.paused;
    save_record();
    event(false, record_.paused ? "Paused" : "Resumed",
          record_.paused ? "nothing is started, stopped or recovered until it is resumed"
                         : "reconciling again");
  }
  if (mail.recover) {
    replace_server_ = mail.replace_server;
    // Not even on request where it would break the kernel, see server_lost().
    if (!recovery_needs_start_once() || lease_.device_spec.queues <= 1)
      recovery_impossible_ = false;
  }
  if (mail.reset || mail.recover) {
    history_.reset();
    pool_blocked_ = false;
  }
  if (mail.stats) {
    const bool asked = server_ && server_->channel.valid() && server_state_ == Server::serving &&
                       server_->channel.send({{"type", "stats"}, {"id", 1}}).ok();
    if (!asked) {
      const std::scoped_lock lock(mail_mutex_);
      for (auto& waiter : stats_waiters_) waiter.set_value();
      stats_waiters_.clear();
    }
  }
}

void VolumeWorker::accept(Volume wanted, SourceIdentity source) {
  const bool is_new = record_.volume.spec.size_bytes == 0;
  const bool numbered = !wanted.metadata.uid.empty();  // by the API server
  if (numbered) seen_generation_ = wanted.metadata.generation;
  if (!is_new) {
    Volume present = record_.volume;
    present.spec.size_bytes = present_size();
    auto problems = validate_update(present, wanted, source.file);
    if (!problems.empty()) {
      if (problems_.empty() || problems.front().to_string() != problems_.front().to_string())
        event(true, "SpecRefused", problems.front().to_string());
      problems_ = std::move(problems);
      return;
    }
  }
  problems_.clear();
  const bool changed = is_new || record_.removing || !(record_.volume.spec == wanted.spec);
  const bool moved =
      !(record_.source == source) ||
      (numbered && wanted.metadata.generation != record_.volume.metadata.generation) ||
      record_.volume.metadata.labels != wanted.metadata.labels ||
      record_.volume.metadata.annotations != wanted.metadata.annotations;
  if (!changed && !moved) return;
  const VolumeSpec before = record_.volume.spec;
  const int64_t generation = record_.volume.metadata.generation;
  wanted.metadata.uid = record_.volume.metadata.uid;
  if (!numbered)
    wanted.metadata.generation =
        changed && !is_new ? generation + 1 : std::max<int64_t>(generation, 1);
  wanted.status = {};
  record_.volume = std::move(wanted);
  record_.source = std::move(source);
  record_.removing = false;
  save_record();
  if (!changed) return;
  history_.reset();
  last_error_.reset();
  backend_error_.reset();
  event(false, is_new ? "Accepted" : "SpecChanged",
        "generation " + std::to_string(record_.volume.metadata.generation) + " from " +
            record_.source.file);
  if (spec_unknown_ && device_) {
    // What the kernel does not tell of a device comes from its first manifest.
    lease_.device_spec.backend = record_.volume.spec.backend;
    lease_.device_spec.fault_injection = record_.volume.spec.fault_injection;
    spec_unknown_ = false;
    save_lease();
  }
  if (!is_new) apply_live_changes(before);
}

// What there is of the volume; a size that was only asked for may be taken back.
uint64_t VolumeWorker::present_size() const {
  return std::max(device_ ? lease_.device_spec.size_bytes : 0,
                  record_.backend ? record_.backend->size_bytes : 0);
}

void VolumeWorker::apply_live_changes(const VolumeSpec& before) {
  const VolumeSpec& spec = record_.volume.spec;
  if (device_ && device_->state != DeviceState::dead && !(before.device == spec.device)) {
    auto announced = announce_device(context_.paths, name_, device_->id, spec.device);
    auto applied = announced ? apply_access(context_.paths, device_->id, spec.device) : announced;
    if (!applied) event(true, "DeviceAccess", applied.error().to_string());
  }
}

reconcile::Desired VolumeWorker::desired() const {
  const auto& spec = record_.volume.spec;
  reconcile::Desired want;
  want.present = !record_.removing;
  // Size 0: no valid manifest was seen yet.
  want.running = spec.size_bytes != 0 && spec.running && !record_.stopped;
  want.forced = forced_;
  want.paused = record_.paused;
  want.replace_server = replace_server_;
  want.delete_backend = spec.reclaim_policy == ReclaimPolicy::remove && record_.backend.has_value();
  want.recoverable = recoverable();
  want.fail_on_deadline = spec.recovery.on_deadline == OnDeadline::fail_device;
  want.deadline = spec.recovery.deadline;
  return want;
}

reconcile::Observed VolumeWorker::observed() {
  Observed seen;
  if (device_) {
    switch (device_->state) {
      case DeviceState::dead:
        seen.device = lease_.step == LeaseStep::none || server_state_ == Server::granted
                          ? Device::fresh
                          : Device::dead;
        break;
      case DeviceState::live:
        seen.device = Device::live;
        break;
      case DeviceState::quiesced:
        seen.device = Device::quiesced;
        break;
      case DeviceState::fail_io:
        seen.device = Device::fail_io;
        break;
    }
  }
  seen.server = server_state_;
  seen.usage = usage_;
  seen.driver_there = !without_driver_;
  seen.mode_supported = !unsupported_;
  seen.backend_ready = backend_.has_value();
  seen.recreate_wanted = recreate_wanted();
  seen.recreate_ready = !next_backend_error_;
  seen.recovery_begun = lease_.recovery_begun;
  seen.still_held = still_held_;
  seen.close_seen = close_seen_;
  seen.recovery_impossible = recovery_impossible_;
  seen.old_holder_alive = old_holder_alive_;
  seen.taken_down = lease_.step != LeaseStep::serving;
  seen.without_server = without_server();
  seen.retry_in = history_.retry_in(Clock::now());
  if (Clock::now() < stop_not_before_)
    seen.stop_retry_in =
        std::chrono::ceil<std::chrono::milliseconds>(stop_not_before_ - Clock::now());
  return seen;
}

void VolumeWorker::execute(const Decision& decision) {
  context_.log->debug("volume={} action={} why={} server={}", name_,
                      reconcile::to_string(decision.act), reconcile::to_string(decision.why),
                      reconcile::to_string(server_state_));
  switch (decision.act) {
    case Act::nothing:
    case Act::wait:
      return;
    case Act::add_device:
      return add_device();
    case Act::prepare_server:
      return prepare_server();
    case Act::grant:
      return grant();
    case Act::start_device:
      return start_device();
    case Act::begin_recovery:
      return begin_recovery();
    case Act::end_recovery:
      return end_recovery();
    case Act::poke_release:
      return poke_release();
    case Act::check_usage:
      return check_usage();
    case Act::try_stop:
      return try_stop();
    case Act::kill_server:
      return kill_server(decision.why);
    case Act::stop_device:
      return stop_device(decision.why);
    case Act::delete_device:
      return delete_device();
    case Act::delete_backend:
      return delete_backend();
    case Act::forget:
      return forget();
  }
}

void VolumeWorker::wait_for_events(std::optional<std::chrono::milliseconds> at_most) {
  pollfd fds[5] = {{wake_event_.fd(), POLLIN, 0},
                   {server_ ? server_->pidfd.fd() : -1, POLLIN, 0},
                   {server_ && server_->channel.valid() ? server_->channel.fd() : -1, POLLIN, 0},
                   {usage_ == Usage::in_use ? mount_table_.get() : -1, POLLPRI, 0},
                   {herald_.get(), POLLIN, 0}};
  std::optional<std::chrono::milliseconds> limit = at_most;
  if (record_unsaved_ || lease_unsaved_) limit = std::min(limit.value_or(save_retry), save_retry);
  const auto wake_by = [&limit](Clock::time_point when) {
    const auto left =
        std::max(0ms, std::chrono::ceil<std::chrono::milliseconds>(when - Clock::now()));
    limit = std::min(limit.value_or(left), left);
  };
  if (server_state_ == Server::warming) wake_by(server_deadline_);
  if (uncounted_) wake_by(uncounted_->settle_by);
  const int timeout = limit ? static_cast<int>(std::max<int64_t>(limit->count(), 0)) : -1;
  int ready = ::poll(fds, 5, timeout);
  if (ready > 0 && fds[4].revents != 0) {
    if (server_state_ == Server::serving && lease_.step == LeaseStep::serving) hurry();
    herald_.reset();
    // Nothing can be done for the volume before its server is dead; what that said last is read
    // then.
    fds[4].fd = fds[2].fd = -1;
    if (ready == 1) ready = ::poll(fds, 5, timeout);
  }
  wake_event_.drain();
  // Whatever ended the wait is a reason to ask the kernel again.
  still_held_ = false;
  if (usage_ == Usage::unused) usage_ = Usage::unknown;  // that was a moment ago
  if (usage_ == Usage::in_use &&
      (ready == 0 || disk_closed_.exchange(false) || fds[3].revents != 0))
    usage_ = Usage::unknown;
  if (ready > 0 && fds[2].revents != 0) process_channel();
  if (server_state_ == Server::warming && Clock::now() >= server_deadline_ &&
      !server_->pidfd.exited()) {
    replace_server_process("ServerNotReady",
                           {ETIMEDOUT, "prepare", "server " + std::to_string(server_->pidfd.pid()),
                            "it did not get ready in time and is replaced"});
  }
}

// Applications wait for a device whose server is dead, or about to be. Once a loss: what a crash
// loop costs is bounded too.
void VolumeWorker::hurry() {
  if (expedited_) return;
  expedited_.emplace(context_.grace_periods.expedite());
  if (!context_.run_first || !run_first(pthread_self())) return;
  first_until_ = Clock::now() + limits::hurry_max;
  gives_way_ = false;
}

void VolumeWorker::calm() {
  expedited_.reset();
  stop_running_first();
}

void VolumeWorker::stop_running_first() {
  if (first_until_) run_as_others();
  first_until_.reset();
}

// From here on the server works for applications, and this thread for the record, on the same CPUs.
void VolumeWorker::give_way_to_server() {
  if (!lost_at_ || !context_.run_first) return;
  give_way();
  gives_way_ = true;
}

// --- observing
// -------------------------------------------------------------------------------------------------

void VolumeWorker::observe() {
  if (!control_ && !without_driver_) {
    auto control = context_.open_control();
    if (!control) {
      last_error_ = control.error();
      return;
    }
    control_ = std::move(*control);
  }
  observe_server();
  observe_device();
  observe_backend();
  observe_next_backend();
  if (without_driver_) return;
  auto flags = flags_for(record_.volume.spec.recovery.mode, context_.driver.features());
  if (!flags && !unsupported_) event(true, "UnsupportedByKernel", flags.error().detail);
  unsupported_ = flags ? std::nullopt : std::optional<Error>(flags.error());
}

void VolumeWorker::observe_device() {
  if (!device_) return;
  auto info = control_->info(device_->id, {limits::command_deadline, -1});
  if (!info) {
    if (info.err() == ENODEV) {
      event(true, "DeviceGone",
            "device " + object_name(device_->id) + " was deleted by somebody else");
      reset_device();
    } else {
      last_error_ = info.error();
    }
    return;
  }
  if (info->identity != identity_) {
    event(true, "DeviceGone", object_name(device_->id) + " is another program's device now");
    reset_device();
    return;
  }
  device_ = *info;
}

void VolumeWorker::observe_server() {
  if (server_ && server_->pidfd.exited()) server_lost(false);
  explain_deaths();
  if (settle_recovery(false)) save_lease();
  if (old_holder_alive_) {
    // Its spawner may have answered only now.
    if (auto server = context_.pool.adopt(name_)) {
      old_holder_alive_ = false;
      take_over(std::move(*server));
      return;
    }
    auto ticks = process_start_ticks(lease_.holder_pid);
    old_holder_alive_ = ticks && *ticks == lease_.holder_start_ticks;
    if (!old_holder_alive_ && lost_at_) lost_at_ = Clock::now();  // it served until now
    if (old_holder_alive_ && replace_server_) {
      // People asked for it, and this is verifiably the process that we granted the device to.
      auto holder = Pidfd::open(lease_.holder_pid);
      auto again = process_start_ticks(lease_.holder_pid);
      if (holder && again && *again == lease_.holder_start_ticks) (void)holder->kill(SIGKILL);
      replace_server_ = false;
    }
  }
}

const VolumeSpec& VolumeWorker::effective_spec() const {
  return device_ ? lease_.device_spec : record_.volume.spec;
}

namespace {
// Descriptors carry how they were opened: another size, access or way of I/O needs others.
bool opened_alike(const VolumeSpec& a, const VolumeSpec& b) {
  return a.size_bytes == b.size_bytes && a.read_only == b.read_only && a.backend == b.backend;
}
}  // namespace

void VolumeWorker::observe_backend() {
  const VolumeSpec& spec = effective_spec();
  const bool wanted =
      (!record_.removing && record_.volume.spec.running && !record_.stopped && !without_driver_) ||
      device_;
  if (backend_ && !opened_alike(backend_spec_, spec)) backend_.reset();
  if (!wanted && !device_) {
    backend_.reset();
    return;
  }
  if (!backend_) {
    // A disk that somebody may use was made of a file: never of a new one.
    const bool blind = !record_.backend && device_ && device_->state != DeviceState::dead;
    auto opened = blind ? context_.backends.open_existing(name_, spec)
                        : context_.backends.open(name_, spec, record_.backend);
    if (!opened) {
      if (!backend_error_ || backend_error_->to_string() != opened.error().to_string())
        event(true, "BackendUnavailable", opened.error().to_string());
      backend_error_ = opened.error();
      return;
    }
    if (backend_error_) event(false, "BackendAvailable", "the backend is there again");
    backend_error_.reset();
    backend_moved_.reset();
    backend_ = std::move(opened).value();
    backend_spec_ = spec;
    if (backend_->identity && record_.backend != backend_->identity) {
      record_.backend = backend_->identity;  // known before any server can reach it
      save_record();
    }
    if (device_ && lease_.backend != backend_->identity) {
      lease_.backend = backend_->identity;
      save_lease();
    }
    watch_backend();
    return;
  }
  if (backend_->identity && backend_changed_.exchange(false)) {
    auto there = context_.backends.check(spec, *backend_->identity);
    if (!there && !backend_moved_) event(true, "BackendReplaced", there.error().to_string());
    if (there && backend_moved_) event(false, "BackendAvailable", "the file is in its place again");
    backend_moved_ = there ? std::nullopt : std::optional<Error>(there.error());
  }
}

// Whether a new device could be served as the spec asks, before the old one is given up for it.
void VolumeWorker::observe_next_backend() {
  if (!recreate_wanted()) return next_backend_error_.reset();
  VolumeSpec next = record_.volume.spec;
  Result<void> possible;
  if (record_.backend) possible = context_.backends.check_growth(next, *record_.backend);
  next.size_bytes = effective_spec().size_bytes;  // it is grown when its device is made
  if (possible && !opened_alike(next, effective_spec()))
    if (auto opened = context_.backends.open(name_, next, record_.backend); !opened)
      possible = opened.error();
  if (possible) return next_backend_error_.reset();
  if (!next_backend_error_ || next_backend_error_->to_string() != possible.error().to_string())
    event(true, "BackendUnavailable",
          "the spec asks for a new device, which could not be served; the old one goes on: " +
              possible.error().to_string());
  next_backend_error_ = possible.error();
}

void VolumeWorker::watch_backend() {
  backend_watch_.reset();
  if (!backend_ || backend_->watch_directory.empty()) return;
  auto watch = context_.watches.watch(
      backend_->watch_directory,
      IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF,
      [this, file = backend_->watch_name](uint32_t, const std::string& entry) {
        if (!entry.empty() && entry != file) return;
        backend_changed_ = true;
        wake_event_.signal();
      });
  if (watch) backend_watch_ = std::move(*watch);
  backend_changed_ = true;  // something may have happened before the watch
}

void VolumeWorker::watch_device() {
  char_watch_.reset();
  disk_watch_.reset();
  if (!device_) return;
  auto watch = context_.watches.watch(char_path(device_->id), IN_CLOSE_WRITE | IN_CLOSE_NOWRITE,
                                      [this](uint32_t, const std::string&) {
                                        close_seen_ = true;
                                        wake_event_.signal();
                                      });
  if (watch)
    char_watch_ = std::move(*watch);
  else
    context_.log->warn("volume={} operation=watch error=\"{}\"", name_, watch.error().to_string());
  // Where check_usage() has to open the disk itself to look, only for reading, its own close must
  // not wake this worker to look again.
  const bool looks = (context_.driver.features() & flags::safe_stop_dev) == 0;
  auto disk = context_.watches.watch(block_path(device_->id),
                                     looks ? IN_CLOSE_WRITE : IN_CLOSE_WRITE | IN_CLOSE_NOWRITE,
                                     [this](uint32_t, const std::string&) {
                                       disk_closed_ = true;
                                       wake_event_.signal();
                                     });
  if (disk) disk_watch_ = std::move(*disk);  // there is none before START_DEV
}

void VolumeWorker::reset_device() {
  (void)settle_recovery(true);
  if (device_) (void)unlink_device(context_.paths, name_, device_->id);
  char_watch_.reset();
  disk_watch_.reset();
  device_.reset();
  geometry_.reset();
  queue_cpus_.clear();
  usage_ = Usage::unknown;
  recovery_impossible_ = false;
  half_way_held_since_.reset();
  still_held_ = false;
  old_holder_alive_ = false;
  Lease left;
  left.generation = lease_.generation;
  left.device_spec = lease_.device_spec;
  if (lost_at_) left.lost = lost_how_.empty() ? "ended" : lost_how_;
  lease_ = std::move(left);
  // In a recovery no disk is waited for: the next agent has it from the lease.
  if (lost_at_) return save_lease();
  if (record_.lease_generation < lease_.generation) {
    record_.lease_generation = lease_.generation;
    save_record();
  }
  (void)context_.store.erase_lease(name_);
  lease_unsaved_ = false;
}
}  // namespace ublk_operator
