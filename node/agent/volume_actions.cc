// What a VolumeWorker does: one function for each reconcile::Act.
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/run_first.h"
#include "node/agent/volume_worker.h"
#include "node/spawner/wire.h"
#include "node/ublk/modes.h"

namespace ublk_operator {

using namespace std::chrono_literals;
using reconcile::Server;
using reconcile::Usage;
using reconcile::Why;

namespace {

constexpr auto kill_timeout = 5s;  // a process in an uninterruptible wait dies when the wait ends
constexpr auto helper_timeout = 30s;  // STOP_DEV of a device without a server: 45 ms seen
constexpr auto poke_pause = 250ms;
constexpr auto hook_timeout = 60s;  // a test that hooked a point and went away

}  // namespace

// --- actions
// -------------------------------------------------------------------------------------------------

Geometry VolumeWorker::wanted_geometry(const OpenBackend& backend) const {
  const VolumeSpec& spec = record_.volume.spec;
  Geometry geometry;
  geometry.queues = static_cast<uint16_t>(spec.queues);
  geometry.queue_depth = static_cast<uint16_t>(spec.queue_depth);
  geometry.max_io_bytes = spec.max_io_bytes;
  geometry.logical_block_bytes = spec.logical_block_bytes;
  geometry.physical_block_bytes = std::max<uint32_t>(4096, spec.logical_block_bytes);
  geometry.size_bytes = spec.size_bytes;
  geometry.read_only = spec.read_only;
  geometry.volatile_cache = backend.durable;
  geometry.fua = backend.durable;
  if (!spec.read_only && backend.discard_granularity_bytes != 0) {
    constexpr uint32_t discard_bytes_max = 1 << 30;
    geometry.discard_granularity_bytes = backend.discard_granularity_bytes;
    geometry.discard_max_bytes = discard_bytes_max;
    geometry.write_zeroes_max_bytes = discard_bytes_max;
  }
  return geometry;
}

void VolumeWorker::add_device() {
  const auto flags = flags_for(record_.volume.spec.recovery.mode, context_.driver.features());
  if (!flags || !backend_) return;
  AddRequest request;
  request.flags = *flags;
  request.identity = identity_;
  request.geometry = wanted_geometry(*backend_);
  auto added = control_->add(request, {limits::command_deadline, -1});
  if (!added) {
    failed("AddFailed", added.error());
    // It may still come into being, and must then be known before another one is made.
    if (added.err() == ETIMEDOUT || added.err() == ECANCELED) {
      adopted_ = false;
      if (!find_devices())
        context_.log->warn("volume={} operation=list_devices failed=true", name_);
    }
    return;
  }

  device_ = *added;
  if (lost_at_ && !let_in_at_) let_in_at_ = Clock::now();
  lease_.device = added->id;
  lease_.step = LeaseStep::none;
  lease_.recovery_begun = false;
  lease_.holder_pid = -1;
  lease_.device_spec = record_.volume.spec;
  lease_.backend = backend_->identity;
  save_lease();
  Geometry geometry = request.geometry;
  geometry.queues = added->queues;
  geometry.queue_depth = added->queue_depth;
  geometry.max_io_bytes = added->max_io_bytes;
  // Unknown bits are cleared silently: a FailIO that became a Queue must not pass.
  const bool granted = mode_of(added->flags) == record_.volume.spec.recovery.mode;
  const Error cleared{EOPNOTSUPP, "add_dev", object_name(added->id),
                      "the kernel cleared the flags of recovery.mode " +
                          std::string(to_string(record_.volume.spec.recovery.mode)) + " silently"};
  auto set = granted ? control_->set_params(added->id, geometry, {limits::command_deadline, -1})
                     : Result<void>(cleared);
  if (!set) {
    failed("AddFailed", set.error());
    delete_device();
    return;
  }
  geometry_ = geometry;
  if (server_ && !(prepared_for_ == geometry)) {  // warmed for the device before this one
    (void)server_->pidfd.kill(SIGKILL);
    drop_server();
  }
  context_.pool.note_geometry(geometry);
  watch_device();
}

void VolumeWorker::prepare_server() {
  if (!geometry_) {
    auto params = control_->params(device_->id, {limits::command_deadline, -1});
    if (!params) return failed("ParamsFailed", params.error());
    geometry_ = *params;
  }
  auto acquired = context_.pool.acquire(*geometry_);
  if (!acquired) {
    if (acquired.err() == ENOTCONN || acquired.err() == ECONNRESET || acquired.err() == EPIPE) {
      // Not this volume's failure; the pool wakes everybody when a spawner answers again.
      last_error_ = acquired.error();
      pool_blocked_ = true;
      return wait_for_events(1000ms);
    }
    return failed("SpawnFailed", acquired.error());
  }
  pool_blocked_ = false;
  server_ = std::move(acquired->server);
  server_state_ = Server::warming;
  prepared_for_ = *geometry_;
  server_deadline_ = Clock::now() + limits::server_ready_deadline;
  auto told =
      acquired->told
          ? Result<void>()
          : server_->channel.send(to_json(PrepareMessage{*geometry_, first_until_.has_value()}));
  if (!told)
    context_.log->warn("volume={} operation=prepare error=\"{}\"", name_, told.error().to_string());
  // Now, while the server prepares, rather than at the grant that all wait for.
  const auto ticks = process_start_ticks(server_->pidfd.pid());
  server_start_ticks_ = ticks ? *ticks : 0;
  read_affinity();
  process_channel();  // a standby has prepared before
}

// The driver decides it when the device is added.
void VolumeWorker::read_affinity() {
  if (queue_cpus_.size() == geometry_->queues) return;
  std::vector<std::vector<unsigned>> all;
  for (uint16_t queue = 0; queue < geometry_->queues; ++queue) {
    auto cpus = control_->queue_affinity(device_->id, queue, {limits::command_deadline, -1});
    if (!cpus) return;  // without it the server runs where it likes; asked again for the next
    all.push_back(std::move(*cpus));
  }
  queue_cpus_ = std::move(all);
}

void VolumeWorker::process_channel() {
  // One that talks without end keeps its own volume busy, and this thread ordinary.
  constexpr int messages_max = 64;
  for (int count = 0; server_ && count < messages_max; ++count) {
    auto message = server_->channel.try_receive();
    if (!message) {
      if (message.err() == EAGAIN) return;
      server_->channel.close();  // it is dying; the pidfd tells the rest, a moment later
      return;
    }
    const std::string type = wire::type_of(message->body);
    if (type == "prepared" && server_state_ == Server::warming) {
      server_state_ = Server::prepared;
    } else if (type == "opening") {
      opened_ = true;
    } else if (type == "fetching") {
      fetched_ = true;
    } else if (type == "failed") {
      const Error error = failed_from_json(message->body);
      last_error_ = error;
      event(true, "ServerFailed", error.to_string());
      if (recovery_needs_start_once() && lease_.recovery_begun) note_half_way(error);
    } else if (type == "described") {
      if (herald_asked_ && !message->fds.empty()) herald_ = std::move(message->fds.front());
      herald_asked_ = false;
    } else if (type == "stats") {
      if (auto stats = stats_from_json(message->body)) {
        {
          const std::scoped_lock lock(published_mutex_);
          published_.status.io = stats->io;
          published_.status.io_errors = stats->io_errors;
        }
        const std::scoped_lock lock(mail_mutex_);
        for (auto& waiter : stats_waiters_) waiter.set_value();
        stats_waiters_.clear();
      }
    }
  }
}

// Linux 6.12: what a server's failure tells about the one before it, which died between
// START_USER_RECOVERY and its end.
void VolumeWorker::note_half_way(const Error& error) {
  if (error.operation == "mmap" && error.err == EINVAL) {
    // The device is bound to the process that mapped it first, until START_USER_RECOVERY resets it.
    // With one queue that is safe to ask for again; with more, see server_lost().
    if (lease_.device_spec.queues > 1)
      recovery_impossible_ = true;
    else
      lease_.stale_mapping = true;
  } else if (error.operation == "open" && error.err == EBUSY) {
    opened_ = false;
    note_half_way_held();
  }
}

// The dead server's ring is about to end; or never will, because the kernel does not cancel the
// fetches of a queue of which only a part was fetched.
void VolumeWorker::note_half_way_held() {
  const auto now = Clock::now();
  if (!half_way_held_since_) half_way_held_since_ = now;
  if (now - *half_way_held_since_ >= limits::release_warn_after) recovery_impossible_ = true;
}

void VolumeWorker::grant() {
  auto backend = backend_->duplicate();
  if (!backend) return failed("GrantFailed", backend.error());
  GrantMessage message;
  message.volume = name_;
  message.generation = lease_.generation + 1;
  message.device = device_->id;
  message.geometry = *geometry_;
  message.backend = backend->config;
  message.latency_ns = static_cast<uint64_t>(
      std::chrono::nanoseconds(lease_.device_spec.fault_injection.latency).count());
  read_affinity();
  message.queue_cpus = queue_cpus_;
  std::vector<int> fds;
  for (const auto& fd : backend->fds) fds.push_back(fd.get());
  UniqueFd hook;
  for (const char* point : {"before_open", "after_mmap", "half_fetched"}) {
    hook = context_.hooks.find(name_, point);
    if (!hook.valid()) continue;
    message.halt_at = point;
    fds.push_back(hook.get());
    break;
  }

  // Written before it is done: from here on this server may reach the backend.
  const pid_t pid = server_->pidfd.pid();
  lease_.generation = message.generation;
  lease_.step = LeaseStep::granted;
  lease_.holder_pid = pid;
  lease_.holder_start_ticks = server_start_ticks_;
  // Whatever becomes of this one: the next agent knows that the volume was served, and how that
  // ended.
  if (lost_at_ && lease_.lost.empty()) lease_.lost = lost_how_.empty() ? "ended" : lost_how_;
  save_lease();
  close_seen_ = false;
  opened_ = false;
  fetched_ = false;
  auto given = give_char_device(context_.paths, device_->id, server_->info.uid);
  auto sent = given ? server_->channel.send(to_json(message), fds) : given;
  server_state_ = Server::granted;
  if (!sent) return replace_server_process("GrantFailed", sent.error());
  // Only now: the spawner may be busy with other servers, and who dies before it is told leaves a
  // server that itself says what it was granted.
  context_.pool.bind(server_->info.id, name_, lease_.generation);
}

// A server that does not do its part: the next try gets another one.
void VolumeWorker::replace_server_process(const std::string& reason, const Error& error) {
  failed(reason, error);
  (void)server_->pidfd.kill(SIGKILL);
  if (wait_server_exit(kill_timeout)) server_lost(true);
}

// Readable when the server dies or the worker is to exit: what ends a START_DEV or
// END_USER_RECOVERY early.
Result<UniqueFd> VolumeWorker::cancel_descriptor() const {
  UniqueFd set(::epoll_create1(EPOLL_CLOEXEC));
  if (!set.valid()) return errno_error("epoll_create", "");
  epoll_event interest{};
  interest.events = EPOLLIN;
  for (const int fd : {server_->pidfd.fd(), exit_event_.fd()})
    if (::epoll_ctl(set.get(), EPOLL_CTL_ADD, fd, &interest) < 0)
      return errno_error("epoll_ctl", "");
  return set;
}

void VolumeWorker::start_device() {
  if (auto announced =
          announce_device(context_.paths, name_, device_->id, record_.volume.spec.device);
      !announced)
    event(true, "DeviceAccess", announced.error().to_string());
  auto cancel = cancel_descriptor();
  if (!cancel) return failed("StartFailed", cancel.error());
  auto started =
      control_->start(device_->id, server_->pidfd.pid(), {limits::serve_deadline, cancel->get()});
  if (started) {
    set_up_disk();
    return serving(false);
  }
  if (exiting_) return;  // the next agent goes on from here
  if (started.err() == EEXIST) {
    set_up_disk();  // it is LIVE after all: observe again
    return;
  }
  process_channel();
  if (!server_->pidfd.exited()) replace_server_process("StartFailed", started.error());
}

// What a disk needs once it is there. An agent may die before it is done, so the next one that
// finds the disk does it again.
void VolumeWorker::set_up_disk() {
  // 6.12 notices a server that died with every tag in its hands only when a request times out
  // (ublk_timeout).
  if (recovery_needs_start_once()) {
    const std::string path = "/sys/block/ublkb" + std::to_string(device_->id) + "/queue/io_timeout";
    const UniqueFd timeout(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (timeout.valid())
      (void)write_all(timeout.get(), std::to_string(limits::legacy_request_timeout.count()), path);
  }
  if (spec_unknown_) return;
  const auto access = apply_access(context_.paths, device_->id, record_.volume.spec.device);
  if (!access) event(true, "DeviceAccess", access.error().to_string());
}

void VolumeWorker::begin_recovery() {
  auto begun = control_->begin_recovery(device_->id, {limits::command_deadline, -1});
  if (begun) {
    if (!let_in_at_) let_in_at_ = Clock::now();
    lease_.stale_mapping = false;
    half_way_held_since_.reset();
    lease_.step = LeaseStep::released;
    lease_.recovery_begun = true;
    // Where it may be repeated nobody has to know that it was sent, and applications wait.
    if (recovery_needs_start_once()) save_lease();
    return;
  }
  if (begun.err() == EBUSY) {
    still_held_ = true;
    if (lease_.stale_mapping) note_half_way_held();
    return;
  }
  if (begun.err() == EINVAL && recovery_needs_start_once() && recoverable()) {
    // It succeeded before, for a server that then died. If that one never mapped the device, the
    // reset still holds and the next server finds out; if it did, the next one's mmap was refused
    // and nothing but a new device helps.
    if (lease_.stale_mapping) {
      recovery_impossible_ = true;
      return;
    }
    lease_.step = LeaseStep::released;
    lease_.recovery_begun = true;
    save_lease();
    return;
  }
  failed("RecoveryFailed", begun.error());
}

void VolumeWorker::end_recovery() {
  if (UniqueFd hook = context_.hooks.find(name_, "before_end"); hook.valid()) {
    // Every tag is fetched then, as it is when END_USER_RECOVERY returns.
    while (!fetched_ && server_->channel.valid()) wait_for_events(hook_timeout);
    if (!fetched_) return;
    (void)write_all(hook.get(), std::to_string(server_->pidfd.pid()) + "\n", "test hook");
    (void)wait_server_exit(hook_timeout);
    return;
  }
  auto cancel = cancel_descriptor();
  if (!cancel) return failed("RecoveryFailed", cancel.error());
  // It comes back when the server has every tag, and must not take the CPU from it then.
  if (first_until_) run_as_others();
  auto ended = control_->end_recovery(device_->id, server_->pidfd.pid(),
                                      {limits::serve_deadline, cancel->get()});
  if (ended) return serving(true);
  if (ended.err() == EBUSY) {
    auto info = control_->info(device_->id, {limits::command_deadline, -1});
    if (info && info->state == DeviceState::live) return serving(true);
  }
  if (exiting_) return;  // the next agent goes on from here
  if (first_until_) (void)run_first(pthread_self());
  process_channel();
  if (!server_->pidfd.exited()) replace_server_process("RecoveryFailed", ended.error());
}

void VolumeWorker::serving(bool recovered) {
  const auto now = Clock::now();
  server_state_ = Server::serving;
  serving_since_ = now;
  calm();
  give_way_to_server();
  lease_.step = LeaseStep::serving;
  lease_.recovery_begun = false;
  lease_.stale_mapping = false;
  // What that kernel cannot be asked again the next agent must know, whatever else is still to be
  // written.
  if (recovery_needs_start_once()) save_lease();
  history_.serving();
  last_error_.reset();
  replace_server_ = false;
  record_.lease_generation = lease_.generation;
  const auto linked = link_device(context_.paths, name_, device_->id);
  if (!linked) event(true, "LinkFailed", linked.error().to_string());
  if (!recovered) {
    watch_device();
    event(
        false, "Started",
        block_path(device_->id) + " is served by process " + std::to_string(server_->pidfd.pid()));
  }
  if (lost_at_) {
    const auto pause = std::chrono::duration_cast<std::chrono::microseconds>(now - *lost_at_);
    last_recovery_work_ =
        let_in_at_ ? std::chrono::duration_cast<std::chrono::microseconds>(now - *let_in_at_)
                   : pause;
    served_again(pause);
  } else {
    lease_.lost.clear();
  }
  half_way_held_since_.reset();
  forget_loss();
  (void)settle_recovery(false);
  save_lease();
  ask_for_herald();
  context_.pool.refill();
}

// Kernels before UBLK_F_QUIESCE (6.16) may reset the device in START_USER_RECOVERY itself, so it
// cannot be repeated. FAIL_IO is older (6.13) than the reset in ublk_ch_release (6.15), for which
// there is no bit.
bool VolumeWorker::recovery_needs_start_once() const {
  return (context_.driver.features() & flags::quiesce) == 0;
}

// What its pidfd tells some grace periods after the kill, its herald tells at once.
void VolumeWorker::ask_for_herald() {
  herald_asked_ = true;
  // One that cannot answer is known to end a little later.
  (void)server_->channel.send({{"type", "describe"}});
}

void VolumeWorker::drop_server() {
  server_.reset();
  herald_.reset();
  server_state_ = Server::none;
}

bool VolumeWorker::wait_server_exit(std::chrono::milliseconds timeout) const {
  pollfd fd{server_->pidfd.fd(), POLLIN, 0};
  return ::poll(&fd, 1, static_cast<int>(timeout.count())) == 1;
}

void VolumeWorker::poke_release() {
  // Linux 6.12 has no such race: there it is the request timer that has not run yet, and opening
  // and closing the char device would only wake this worker to do it again at once.
  if (recovery_needs_start_once()) return wait_for_events(poke_pause);
  // It is the close that makes the driver look. EBUSY: the old server's I/O has not ended, which is
  // what the fence waits for.
  if (UniqueFd(::open(char_path(device_->id).c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK)).valid())
    event(true, "DevicePoked",
          object_name(device_->id) +
              " was LIVE without a server; its char device was opened and closed once");
  wait_for_events(poke_pause);
}

void VolumeWorker::check_usage() {
  if ((context_.driver.features() & flags::safe_stop_dev) != 0) {
    usage_ = Usage::unused;  // TRY_STOP_DEV asks and acts in one
    return;
  }
  auto users = context_.disposable.run({"users", std::to_string(device_->id)}, helper_timeout);
  if (users)
    usage_ = Usage::unused;
  else if (users.err() == EBUSY) {
    usage_ = Usage::in_use;
    users_ = users.error().detail;
  } else {
    failed("UsageUnknown", users.error());
    usage_ = Usage::in_use;
    users_ = "unknown: " + users.error().to_string();
  }
}

void VolumeWorker::try_stop() {
  if ((context_.driver.features() & flags::safe_stop_dev) == 0) {
    usage_ = Usage::unknown;  // for the next try
    // Looked at a moment ago, which is the best this kernel allows; see check_usage(). Both in one
    // action: a device without a server and still with a disk would be recovered.
    if (server_) kill_server(Why::stopped);
    if (server_) return;  // in an uninterruptible wait, which passes
    return stop_device(Why::stopped);
  }
  disk_closed_ = false;
  auto stopped = context_.disposable.run({"try-stop", std::to_string(device_->id)}, helper_timeout);
  if (!stopped) {
    if (stopped.err() == EBUSY) {
      usage_ = Usage::in_use;
      users_ = "the disk is open or mounted";
      return;
    }
    return failed("StopFailed", stopped.error());
  }
  disk_gone();
  forget_loss();
  event(false, "Stopped", object_name(device_->id) + " was not in use and is stopped");
}

void VolumeWorker::kill_server(Why why) {
  const bool dying = why == Why::server_dying;  // killing it only makes sure: it is a loss
  if (!server_->pidfd.exited()) {
    if (!dying && (server_state_ == Server::serving || server_state_ == Server::granted))
      event(false, "ServerKilled",
            "process " + std::to_string(server_->pidfd.pid()) +
                " was killed: " + reconcile::to_string(why));
    if (dying || why == Why::replacing_server) hurry();
    (void)server_->pidfd.kill(SIGKILL);
  }
  if (!wait_server_exit(kill_timeout)) return;
  server_lost(!dying);
  if (why == Why::replacing_server) {
    lost_how_ = "was replaced";
    replace_server_ = false;
  }
}

void VolumeWorker::stop_device(Why why) {
  auto stopped = context_.disposable.run({"stop", std::to_string(device_->id)}, helper_timeout);
  if (!stopped) {
    // One that is still stuck in the kernel is not joined by another at once.
    stop_not_before_ = Clock::now() + helper_timeout;
    return failed("StopFailed", stopped.error());
  }
  disk_gone();
  if (why != Why::deadline_exceeded) forget_loss();
  event(why == Why::deadline_exceeded, "Stopped",
        object_name(device_->id) + " was stopped: " + reconcile::to_string(why));
}

// The kernel took the disk away.
void VolumeWorker::disk_gone() {
  (void)settle_recovery(true);
  usage_ = Usage::unknown;
  lease_.step = LeaseStep::fencing;
  save_lease();
  device_->state = DeviceState::dead;
  (void)unlink_device(context_.paths, name_, device_->id);
}

void VolumeWorker::delete_device() {
  // Linux 6.12 says DEAD while the dead server's ring still holds I/O; 7.2 only after its end. Its
  // char device can be opened when that has ended: the fence before another device of this volume
  // reaches the backend.
  if (recovery_needs_start_once() && lease_.step != LeaseStep::none) {
    const UniqueFd fd(::open(char_path(device_->id).c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!fd.valid() && errno == EBUSY)
      return wait_for_events(close_seen_ ? std::chrono::milliseconds(reconcile::release_recheck)
                                         : std::chrono::milliseconds(poke_pause));
  }
  const std::string id = std::to_string(device_->id);
  // Without waiting: the old disk may be open for as long as its users please, and the id is not
  // needed again. A DEAD device has neither disk nor server that could hold the device's mutex, so
  // this is asked here and not in a process of its own, which would cost mode None its start
  // (ublk_ctrl_del_dev; decisions/003).
  auto deleted = control_->remove_async(device_->id, {limits::command_deadline, -1});
  if (!deleted && deleted.err() != ENODEV) {
    auto by_helper = context_.disposable.run({"delete", id}, helper_timeout);
    if (!by_helper && by_helper.err() != ENODEV) return failed("DeleteFailed", by_helper.error());
  }
  reset_device();
}

void VolumeWorker::delete_backend() {
  backend_.reset();
  backend_watch_.reset();
  if (record_.volume.spec.size_bytes == 0) {
    // The spec is lost, only what its device had is known: no path to remove.
    event(true, "BackendKept",
          "the volume's record is lost, and with it where its file lies; remove it by hand");
    record_.backend.reset();
    return save_record();
  }
  auto removed = context_.backends.remove(name_, record_.volume.spec, *record_.backend);
  // Another volume's by now, or another file than the one it had: neither is this volume's to take,
  // and trying again would not make it so.
  if (removed.err() == EBUSY || removed.err() == EEXIST) {
    event(true, "BackendKept", removed.error().to_string());
    record_.backend.reset();
    return save_record();
  }
  if (!removed) return failed("BackendRemoveFailed", removed.error());
  event(false, "BackendDeleted", "reclaimPolicy is Delete and the volume is gone");
  record_.backend.reset();
  save_record();
}

void VolumeWorker::forget() {
  backend_.reset();
  backend_watch_.reset();
  context_.backends.release(name_);
  if (auto erased = context_.store.erase(name_); !erased)
    return failed("ForgetFailed", erased.error());
  event(false, "Gone", "nothing of the volume is left on this node");
  finished_ = true;
  context_.publish(name_, std::nullopt);
}

// --- small helpers
// -------------------------------------------------------------------------------------------------

void VolumeWorker::failed(const std::string& reason, const Error& error) {
  last_error_ = error;
  history_.failed(Clock::now(), record_.volume.spec.recovery.back_off, jitter());
  event(true, reason, error.to_string());
  if (context_.on_failure) context_.on_failure(reason);
}

void VolumeWorker::save_record() {
  if (record_.volume.spec.size_bytes == 0) return;  // nothing was accepted yet
  note_saved(record_unsaved_, context_.store.save(record_));
}

void VolumeWorker::save_lease() {
  note_saved(lease_unsaved_, context_.store.save_lease(name_, lease_));
}

// What could not be written is tried again until it is: a full state folder costs what came after
// it was full only as long as it is.
void VolumeWorker::note_saved(bool& unsaved, const Result<void>& how) {
  if (!how && !unsaved) event(true, "StateNotSaved", how.error().to_string());
  if (how && unsaved)
    event(false, "StateSaved", "what the agent knows of the volume is written again");
  unsaved = !how;
}

void VolumeWorker::save_what_is_unsaved() {
  if (record_unsaved_) save_record();
  if (lease_unsaved_) save_lease();
}

void VolumeWorker::event(bool warning, const std::string& reason, const std::string& message) {
  context_.events.record(name_, warning, reason, message);
}

namespace {
// What only a new device can change. Size is among them: the server and the backend are sized at
// grant.
bool same_shape(const VolumeSpec& a, const VolumeSpec& b) {
  return a.size_bytes == b.size_bytes && a.recovery.mode == b.recovery.mode &&
         a.backend == b.backend && a.fault_injection == b.fault_injection && a.queues == b.queues &&
         a.queue_depth == b.queue_depth && a.max_io_bytes == b.max_io_bytes &&
         a.logical_block_bytes == b.logical_block_bytes && a.read_only == b.read_only;
}
}  // namespace

bool VolumeWorker::recreate_wanted() const {
  return device_ && !record_.removing && !same_shape(lease_.device_spec, record_.volume.spec);
}

RecoveryMode VolumeWorker::device_mode() const {
  return device_ ? mode_of(device_->flags) : record_.volume.spec.recovery.mode;
}

std::chrono::milliseconds VolumeWorker::without_server() const {
  if (!lost_at_ || server_state_ == Server::serving) return 0ms;
  return std::max(1ms,
                  std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - *lost_at_));
}

double VolumeWorker::jitter() { return std::uniform_real_distribution<double>(0, 1)(random_); }
}  // namespace ublk_operator
