// A VolumeWorker's losses: a server that dies, how it ended, and the recovery that is counted with
// that as its reason.
#include <algorithm>
#include <csignal>
#include <utility>

#include "common/api/quantity.h"
#include "node/agent/volume_worker.h"

namespace ublk_operator {

using namespace std::chrono_literals;
using reconcile::Server;

namespace {

constexpr size_t unexplained_max = 16;  // deaths while the spawner says nothing
constexpr auto explained_within = 5s;   // by a spawner that lives; it may have been stopped

}  // namespace

void VolumeWorker::server_lost(bool intended) {
  const auto now = Clock::now();
  const Server was = server_state_;
  const pid_t pid = server_->pidfd.pid();
  const uint64_t id = server_->info.id;
  const bool counted = settle_recovery(true);
  // After a stop of the device its server leaves by itself.
  intended = intended || (was == Server::serving && lease_.step != LeaseStep::serving);
  process_channel();  // its last words
  drop_server();
  if (was == Server::granted || was == Server::serving) {
    if (!intended) hurry();
    // When every tag was fetched START_USER_RECOVERY can be repeated on every kernel.
    const bool half_way = was == Server::granted && recovery_needs_start_once() && !fetched_;
    // Nor may another server be let to such a device: it would end the recovery with the queues
    // that are left, or with all, if its mm_struct happens to lie where the dead one's lay.
    const bool left_traces = half_way && opened_;
    if (left_traces) {
      // 6.12 cannot tell whether some but not all queues were fetched; START_USER_RECOVERY then
      // would dereference a null pointer in the kernel (ublk_queue_reinit). It is never sent. With
      // one queue it answers EINVAL, or, if all of that was fetched, succeeds.
      if (lease_.device_spec.queues > 1)
        recovery_impossible_ = true;
      else
        lease_.stale_mapping = true;
    }
    // 6.12: START_USER_RECOVERY succeeded once and must not be repeated when the server never
    // opened the device.
    const bool keeps = half_way && !left_traces && !lease_.stale_mapping;
    if (!keeps) lease_.recovery_begun = false;
    // What the next agent must know too, see adopt().
    lease_.step =
        left_traces && lease_.device_spec.queues > 1 ? LeaseStep::granted : LeaseStep::fencing;
    // That one served, and is dead, its pid tells the next agent, which is written; and
    // applications wait.
    if (was == Server::granted || intended || counted) save_lease();
    const bool stopped = device_ && device_->state == DeviceState::dead && intended;
    if (!lost_at_ && !stopped) {
      lost_at_ = now;
      if (!intended && was == Server::serving) lost_server_ = pid;
    }
  }
  if (intended) return;
  const auto served =
      was == Server::serving
          ? std::chrono::duration_cast<std::chrono::milliseconds>(now - *serving_since_)
          : 0ms;
  unexplained_.push_back({id, pid, was, now, served});
  // Who died before it served has failed, however it died.
  if (was != Server::serving) history_.failed(now, record_.volume.spec.recovery.back_off, jitter());
}

// An agent that begins finds a volume without a server.
void VolumeWorker::note_loss() {
  if (lost_at_) return;
  hurry();
  lost_at_ = Clock::now();
  lost_how_ = lease_.lost.empty() ? "ended while no agent was running" : lease_.lost;
}

// The pidfd says that a server died; how it died comes from its parent, the spawner, a moment
// later. Recovery does not wait for that: only the next attempt's back-off depends on it, and what
// is said of the recovery.
void VolumeWorker::explain_deaths() {
  while (!unexplained_.empty()) {
    const Death death = unexplained_.front();
    const auto [notice, to_be_said] = context_.pool.end_of(death.id, death.pid);
    if (to_be_said && unexplained_.size() <= unexplained_max) return;
    unexplained_.pop_front();
    explain(death, notice);
  }
}

void VolumeWorker::explain(const Death& death, const std::optional<ExitNotice>& notice) {
  const std::string how = notice ? "was " + notice->to_string() : "ended";
  const std::string who = "process " + std::to_string(death.pid);
  if (death.was != Server::serving) {
    event(true, "ServerDied", who + " " + how + " before it served");
    return;
  }
  if (death.pid == lost_server_) lost_how_ = how;
  const bool own_fault = notice && notice->signal != SIGKILL;
  history_.died(death.when, death.served, own_fault, record_.volume.spec.recovery.back_off,
                jitter());
  event(true, "ServerDied", who + " " + how + " while it served");
}

bool VolumeWorker::loss_is_unexplained() const {
  return std::any_of(unexplained_.begin(), unexplained_.end(),
                     [this](const Death& death) { return death.pid == lost_server_; });
}

void VolumeWorker::served_again(std::chrono::microseconds pause) {
  uncounted_ = Recovery{pause, server_->pidfd.pid(), Clock::now() + explained_within};
}

// Counted with its reason, which may be known a moment later only: the spawner need not have run
// since the server's death. Nothing waits for that but what is published of the volume. True: it
// was counted now, which the lease is still to be told.
bool VolumeWorker::settle_recovery(bool last_chance) {
  if (!uncounted_) return false;
  explain_deaths();
  if (loss_is_unexplained() && !last_chance && Clock::now() < uncounted_->settle_by) return false;
  const Recovery recovery = *std::exchange(uncounted_, std::nullopt);
  const std::string how = lost_how_.empty() ? "ended" : lost_how_;
  lost_how_.clear();
  lost_server_ = -1;
  event(false, "Recovered",
        object_name(device_->id) + " is served again after " +
            std::to_string(std::chrono::round<std::chrono::milliseconds>(recovery.pause).count()) +
            " ms by process " + std::to_string(recovery.server) + "; the last server " + how);
  count_recovery(recovery.pause, how);
  // Only now: who dies before the loss was counted leaves it to the next agent.
  lease_.lost.clear();
  return true;
}

// `pause`: how long there was no server, where that is known.
void VolumeWorker::count_recovery(std::optional<std::chrono::microseconds> pause,
                                  std::string reason) {
  ++record_.recovery_count;
  record_.last_recovery_us = pause ? std::optional<int64_t>(pause->count()) : std::nullopt;
  record_.last_recovery_reason = std::move(reason);
  record_.last_recovery_time = format_now();
  save_record();
}

void VolumeWorker::forget_loss() {
  calm();
  lost_at_.reset();
  let_in_at_.reset();
  if (uncounted_) return;
  lost_how_.clear();
  lost_server_ = -1;
}

}  // namespace ublk_operator
