// How a VolumeWorker begins: with what a former agent left, which is a lease, a device of the
// volume's identity, and maybe a server that serves it.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <utility>

#include "common/base/limits.h"
#include "common/base/pidfd.h"
#include "node/agent/volume_worker.h"
#include "node/ublk/modes.h"

namespace ublk_operator {

using reconcile::Server;

namespace {
bool is_server(pid_t pid) {
  std::error_code unknown;
  const auto program =
      std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/exe", unknown);
  return !unknown && program.filename().string().starts_with("ublk-server");
}
}  // namespace

bool VolumeWorker::find_devices() {
  auto ids = control_->list();
  if (!ids) return false;
  found_devices_.clear();
  for (const DeviceId id : *ids) {
    auto info = control_->info(id, {limits::command_deadline, -1});
    if (info && info->identity == identity_)
      found_devices_.push_back(id);
    else if (!info && info.err() != ENODEV)
      return false;
  }
  return true;
}

// The lease's device, else one that has a disk. An ADD_DEV that outlived its deadline may have left
// others without one.
bool VolumeWorker::choose_device(const std::optional<Lease>& stored) {
  std::vector<DeviceInfo> diskless;
  for (const DeviceId id : found_devices_) {
    auto info = control_->info(id, {limits::command_deadline, -1});
    if (!info && info.err() != ENODEV) {
      // Only ENODEV means gone: anything else would make a second device of one volume.
      last_error_ = info.error();
      return false;
    }
    if (!info || info->identity != identity_) continue;
    const bool leased = stored && stored->device == id;
    if (info->state == DeviceState::dead && !leased) {
      diskless.push_back(*info);
    } else if (!device_ || leased) {
      if (device_)
        event(true, "OrphanDevice",
              object_name(device_->id) + " carries this volume's mark, but the lease names " +
                  object_name(id) + "; it is left alone");
      device_ = *info;
    } else {
      event(true, "OrphanDevice",
            object_name(id) + " carries this volume's mark too; it has a disk and is left alone");
    }
  }
  for (const DeviceInfo& info : diskless) {
    if (!device_) {
      device_ = info;
      continue;
    }
    (void)context_.disposable.run({"delete-async", std::to_string(info.id)},
                                  limits::command_deadline);
  }
  return true;
}

bool VolumeWorker::adopt() {
  if (!mount_table_.valid())
    mount_table_.reset(::open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC));
  const auto stored = context_.store.load_lease(name_);
  device_.reset();
  const bool driver_there = context_.driver.there();
  if (driver_there) {
    auto control = context_.open_control();
    if (!control) {
      last_error_ = control.error();
      return false;
    }
    control_ = std::move(*control);
    if (without_driver_ && !find_devices()) return false;
    if (!choose_device(stored)) return false;
  }
  without_driver_ = !driver_there;
  auto server = context_.pool.adopt(name_);
  if (stored) lease_ = *stored;
  lease_.generation = std::max(lease_.generation, record_.lease_generation);
  if (!record_.backend && lease_.backend) {
    record_.backend =
        lease_.backend;  // the record is lost; what the device has is known all the same
    save_record();
  }
  if (!device_) {
    if (server) (void)server->pidfd.kill(SIGKILL);  // its device is gone, so it serves nobody
    if (!lost_at_ && !lease_.lost.empty() && !record_.stopped && record_.volume.spec.running) {
      lost_at_ = Clock::now();
      lost_how_ = lease_.lost;
    }
    reset_device();
    return true;
  }
  const DeviceInfo info = *device_;
  auto params = control_->params(info.id, {limits::command_deadline, -1});
  const bool known = stored && stored->device == info.id;
  if (!known) {
    // The lease is lost; the kernel still says what the device is.
    lease_.device = info.id;
    lease_.step = info.state == DeviceState::dead ? LeaseStep::fencing : LeaseStep::serving;
    lease_.recovery_begun = false;
    lease_.stale_mapping = false;
    // The number alone may be another process's by now (6.12 says the one it was given).
    lease_.holder_pid = -1;
    lease_.holder_start_ticks = 0;
    if (is_server(info.server_pid)) {
      auto ticks = process_start_ticks(info.server_pid);
      lease_.holder_pid = info.server_pid;
      lease_.holder_start_ticks = ticks ? *ticks : 0;
    }
    lease_.device_spec = record_.volume.spec;
    spec_unknown_ = record_.volume.spec.size_bytes == 0;
    lease_.device_spec.recovery.mode = mode_of(info.flags);
    lease_.device_spec.queues = info.queues;
    lease_.device_spec.queue_depth = info.queue_depth;
    lease_.device_spec.max_io_bytes = info.max_io_bytes;
    if (params) {
      lease_.device_spec.size_bytes = params->size_bytes;
      lease_.device_spec.logical_block_bytes = params->logical_block_bytes;
      lease_.device_spec.read_only = params->read_only;
    }
  }
  if (params) {
    geometry_ = *params;
    context_.pool.note_geometry(*geometry_);
  }
  watch_device();
  if (server) {
    take_over(std::move(*server));
  } else {
    note_loss();
    // It may have been granted and have done I/O: where it can be asked, the kernel says when that
    // has ended.
    if (!recovery_needs_start_once()) lease_.recovery_begun = false;
    auto ticks = process_start_ticks(lease_.holder_pid);
    old_holder_alive_ = lease_.holder_pid > 0 && ticks && lease_.holder_start_ticks != 0 &&
                        *ticks == lease_.holder_start_ticks;
    if (lease_.step == LeaseStep::granted && recovery_needs_start_once() &&
        lease_.device_spec.queues > 1 && info.state == DeviceState::quiesced)
      recovery_impossible_ = true;  // see server_lost()
  }
  save_lease();
  if (info.state != DeviceState::dead) (void)link_device(context_.paths, name_, device_->id);
  return true;
}

// A server that a former agent granted the device to: it serves, or waits for its START_DEV or
// END_USER_RECOVERY.
void VolumeWorker::take_over(SpawnedServer server) {
  lease_.generation = std::max(lease_.generation, server.info.generation);
  server_ = std::move(server);
  const bool live = device_->state == DeviceState::live;
  server_state_ = live ? Server::serving : Server::granted;
  opened_ = true;  // the former agent may have been told
  if (live) {
    serving_since_ = Clock::now();
    ask_for_herald();
    lease_.step = LeaseStep::serving;
    lease_.recovery_begun = false;
    lease_.stale_mapping = false;
    if (!lease_.lost.empty()) {  // the former agent died before it counted it
      count_recovery(std::nullopt, std::exchange(lease_.lost, {}));
    }
    forget_loss();
  } else if (device_->state != DeviceState::dead || !lease_.lost.empty()) {
    note_loss();
  }
  save_lease();
  if (live) set_up_disk();
  event(false, "ServerAdopted",
        "process " + std::to_string(server_->pidfd.pid()) +
            (live ? " went on serving " : " is about to serve ") + object_name(device_->id));
}

}  // namespace ublk_operator
