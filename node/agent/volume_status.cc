// How a VolumeWorker says what is: conditions with a reason for programs and a sentence for people.
#include <cerrno>

#include "common/api/quantity.h"
#include "node/agent/volume_worker.h"
#include "node/ublk/modes.h"

namespace ublk_operator {

using namespace std::chrono_literals;
using reconcile::Act;
using reconcile::Decision;
using reconcile::Server;
using reconcile::Usage;
using reconcile::Why;

// --- status
// -------------------------------------------------------------------------------------------------

std::string VolumeWorker::wait_message(Why why) const {
  const std::string error = last_error_ ? "; last error: " + last_error_->to_string() : "";
  switch (why) {
    case Why::converged:
      return block_path(device_->id) + " is served";
    case Why::paused:
      return "reconciling is paused; `ublkctl resume " + name_ + "` ends that";
    case Why::stopped:
      return record_.stopped ? "stopped by hand; `ublkctl start " + name_ + "` starts it"
                             : "spec.running is false";
    case Why::removed:
      return "the volume was deleted, or its manifest removed; waiting for what is left of it to "
             "go";
    case Why::driver_missing:
      return "the kernel of this node has no ublk driver loaded: modprobe ublk_drv there, or bind "
             "volumes to nodes that have it; the volume is made as soon as the driver is there";
    case Why::unsupported_by_kernel:
      return unsupported_ ? unsupported_->detail : "";
    case Why::backend_unavailable:
      return backend_error_ ? backend_error_->to_string() : "";
    case Why::back_off:
      return "waiting before the next attempt" + error;
    case Why::starting:
      return "the device is being started" + error;
    case Why::server_starting:
      return pool_blocked_ ? no_spawner_answers + error
                           : "waiting for a server to get ready" + error;
    case Why::device_releasing:
      return "waiting for the kernel to release " +
             (device_ ? char_path(device_->id) : "the device") +
             ": I/O of the last server is still on its way to the backend";
    case Why::recovering:
      return "the device is being recovered" + error;
    case Why::recovery_impossible:
      return "this kernel cannot finish a recovery whose server died half way (Linux 6.12 and "
             "older); stop the "
             "users of the device, then `ublkctl stop --force " +
             name_ + "` and `ublkctl start " + name_ + "` make a new device with the same data";
    case Why::old_holder_alive:
      return "process " + std::to_string(lease_.holder_pid) +
             " still serves the device and belongs to no spawner that answers; `ublkctl recover "
             "--replace-server " +
             name_ + "` kills it";
    case Why::deadline_exceeded:
      return "not recovered within recovery.deadline; the device was failed as onDeadline says" +
             error;
    case Why::in_use:
      return "waiting until the disk is not in use: " + users_;
    case Why::needs_recreate:
      if (next_backend_error_)
        return "the spec asks for a new device, which could not be served; the old one goes on: " +
               next_backend_error_->to_string();
      return "the spec asks for what needs a new device; waiting until the disk is not in use";
    case Why::replacing_server:
      return "the server is being replaced";
    case Why::server_dying:
      return "the kernel took the device from its server, which is dying";
  }
  return {};
}

Condition VolumeWorker::ready_condition(const Decision& decision) {
  Condition ready{"Ready",
                  ConditionStatus::no,
                  reconcile::to_string(decision.why),
                  wait_message(decision.why),
                  std::max(record_.volume.metadata.generation, seen_generation_),
                  ""};
  const bool serves =
      device_ && device_->state == DeviceState::live && server_state_ == Server::serving;
  if (serves) {
    ready.status = ConditionStatus::yes;
    ready.reason = "Serving";
    ready.message =
        block_path(device_->id) + " is served by process " + std::to_string(server_->pidfd.pid());
  } else if (record_.volume.spec.size_bytes == 0) {
    ready.reason = "InvalidSpec";
    ready.message =
        problems_.empty() ? "no valid manifest was seen yet" : problems_.front().to_string();
  } else if (history_.crash_loop(record_.volume.spec.recovery.max_restarts) &&
             (decision.why == Why::back_off || decision.why == Why::starting ||
              decision.why == Why::recovering || decision.why == Why::server_starting)) {
    ready.reason = "CrashLoop";
    ready.message = std::to_string(history_.failures_in_row()) +
                    " attempts in a row failed; trying again every " +
                    format_duration(record_.volume.spec.recovery.back_off.maximum) +
                    " until the spec or the server program changes" +
                    (last_error_ ? "; last error: " + last_error_->to_string() : "");
  }
  return ready;
}

void VolumeWorker::publish_status(const Decision& decision) {
  const std::string now = format_now();
  const int64_t generation = std::max(record_.volume.metadata.generation, seen_generation_);
  Volume volume = record_.volume;
  {
    const std::scoped_lock lock(published_mutex_);
    volume.status = published_.status;
  }
  VolumeStatus& status = volume.status;
  const auto set = [&](const char* type, bool yes, const std::string& reason,
                       const std::string& message) {
    set_condition(
        status.conditions,
        {type, yes ? ConditionStatus::yes : ConditionStatus::no, reason, message, generation, ""},
        now);
  };
  status.observed_generation = generation;
  set_condition(status.conditions, ready_condition(decision), now);
  set("SpecValid", problems_.empty(), problems_.empty() ? "Accepted" : "Refused",
      problems_.empty() ? "the newest manifest holds"
                        : problems_.front().to_string() + "; what was accepted before goes on");
  const auto& trouble = backend_error_ ? backend_error_ : backend_moved_;
  set("BackendHealthy", !trouble,
      !trouble                    ? "Available"
      : !backend_error_           ? "Replaced"
      : trouble->err == ENOMEDIUM ? "PoolNotMounted"
                                  : "Unavailable",
      trouble ? trouble->to_string() : "");
  const bool can_recover = recoverable() && !recovery_impossible_;
  set("Recoverable", can_recover,
      can_recover            ? "ByMode"
      : recovery_impossible_ ? "HalfFinishedRecovery"
                             : "ModeNone",
      recovery_impossible_ ? wait_message(Why::recovery_impossible)
                           : "recovery.mode " + std::string(to_string(device_mode())));
  const bool waits_for_users = decision.act == Act::wait && usage_ == Usage::in_use;
  // While it looks again, what it saw last holds.
  const bool looks = decision.act == Act::check_usage || decision.act == Act::try_stop;
  if (!looks || find_condition(status.conditions, "InUse") == nullptr)
    set("InUse", waits_for_users, waits_for_users ? "DiskOpen" : "NotWaiting",
        waits_for_users ? wait_message(Why::in_use) : "nothing waits for the disk to be unused");
  set("NeedsRecreate", recreate_wanted(),
      !recreate_wanted()    ? "AsWanted"
      : next_backend_error_ ? "BackendUnavailable"
                            : "ShapeChanged",
      recreate_wanted() ? wait_message(Why::needs_recreate) : "");
  set("Paused", record_.paused, record_.paused ? "ByHand" : "Reconciling", "");

  status.device_id = device_ ? std::optional<uint32_t>(device_->id) : std::nullopt;
  status.state = device_ ? to_string(device_->state) : "";
  const bool disk = device_ && device_->state != DeviceState::dead;
  status.device_path = disk ? block_path(device_->id) : "";
  status.link_path = disk ? context_.paths.by_name_dir + "/" + name_ : "";
  status.server_pid =
      server_ && (server_state_ == Server::serving || server_state_ == Server::granted)
          ? std::optional<int64_t>(server_->pidfd.pid())
          : std::nullopt;
  status.lease_generation = lease_.generation;
  status.recovery_count = record_.recovery_count;
  status.last_recovery_reason = record_.last_recovery_reason;
  status.last_recovery_time = record_.last_recovery_time;
  if (record_.last_recovery_us)
    status.last_recovery_duration = std::chrono::microseconds(*record_.last_recovery_us);
  status.last_recovery_work = last_recovery_work_;
  status.size_bytes = geometry_ ? geometry_->size_bytes : 0;
  {
    const std::scoped_lock lock(published_mutex_);
    if (published_ == volume) return;
    published_ = volume;
  }
  context_.publish(name_, volume);
}

}  // namespace ublk_operator
