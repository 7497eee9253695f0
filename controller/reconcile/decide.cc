#include "controller/reconcile/decide.h"

#include <algorithm>

namespace ublk_operator::reconcile {

namespace {

constexpr Decision act(Act what, Why why) { return {what, why, std::nullopt}; }
constexpr Decision wait_for_event(Why why) { return {Act::wait, why, std::nullopt}; }
constexpr Decision wait_at_most(Why why, milliseconds time) { return {Act::wait, why, time}; }

bool has_disk(Device device) {
  return device == Device::live || device == Device::quiesced || device == Device::fail_io;
}

bool has_process(Server server) { return server != Server::none; }

// What may fail, and is then not tried again before the back-off.
Decision attempt(const Observed& seen, Act what, Why why) {
  if (seen.retry_in.count() > 0) return wait_at_most(Why::back_off, seen.retry_in);
  return act(what, why);
}

bool deadline_exceeded(const Desired& want, const Observed& seen) {
  return want.deadline && want.fail_on_deadline && seen.without_server >= *want.deadline;
}

Decision fail_device(const Observed& seen) {
  if (has_process(seen.server)) return act(Act::kill_server, Why::deadline_exceeded);
  if (seen.stop_retry_in.count() > 0)
    return wait_at_most(Why::deadline_exceeded, seen.stop_retry_in);
  return act(Act::stop_device, Why::deadline_exceeded);
}

// The kernel has not let go of ublkcN. Its close is an event; what follows the close is not, but is
// short.
Decision wait_for_release(const Observed& seen, milliseconds otherwise) {
  return wait_at_most(Why::device_releasing, seen.close_seen ? release_recheck : otherwise);
}

// The old server is gone and the disk is there: bring it back.
Decision recover(const Desired& want, const Observed& seen) {
  if (deadline_exceeded(want, seen)) return fail_device(seen);
  if (seen.recovery_impossible) return wait_for_event(Why::recovery_impossible);
  if (seen.old_holder_alive) return wait_at_most(Why::old_holder_alive, usage_recheck);
  if (!seen.backend_ready) return wait_at_most(Why::backend_unavailable, usage_recheck);

  switch (seen.server) {
    case Server::none:
      return attempt(seen, Act::prepare_server, Why::recovering);
    case Server::warming:
      return wait_for_event(Why::server_starting);
    case Server::prepared:
      if (seen.retry_in.count() > 0) return wait_at_most(Why::back_off, seen.retry_in);
      if (seen.recovery_begun) return act(Act::grant, Why::recovering);
      if (seen.still_held) return wait_for_release(seen, poke_release_after);
      return act(Act::begin_recovery, Why::recovering);
    case Server::granted:
      return attempt(seen, Act::end_recovery, Why::recovering);
    // The kernel released the char device, so whoever we believe to serve has lost its queues.
    case Server::serving:
      return act(Act::kill_server, Why::server_dying);
  }
  return wait_for_event(Why::recovering);
}

// LIVE with nobody behind it: the kernel has not noticed yet, or the backend still holds the old
// server's I/O. The next server gets warm meanwhile.
Decision await_release(const Desired& want, const Observed& seen) {
  if (seen.old_holder_alive)
    return wait_at_most(Why::old_holder_alive, usage_recheck);  // it serves
  if (deadline_exceeded(want, seen)) return fail_device(seen);
  if (seen.server == Server::none && seen.retry_in.count() == 0 && seen.backend_ready)
    return act(Act::prepare_server, Why::device_releasing);
  if (seen.without_server >= poke_release_after)
    return act(Act::poke_release, Why::device_releasing);
  return wait_for_release(seen, poke_release_after - seen.without_server);
}

Decision start(const Observed& seen) {
  if (!seen.backend_ready) return wait_at_most(Why::backend_unavailable, usage_recheck);
  switch (seen.server) {
    case Server::none:
      return attempt(seen, Act::prepare_server, Why::starting);
    case Server::warming:
      return wait_for_event(Why::server_starting);
    case Server::prepared:
      return attempt(seen, Act::grant, Why::starting);
    case Server::granted:
    case Server::serving:
      return attempt(seen, Act::start_device, Why::starting);
  }
  return wait_for_event(Why::starting);
}

// The disk is there and unwanted. Users are never cut off unless forced: then what is served goes
// on being served.
Decision take_down(const Desired& want, const Observed& seen, Why why) {
  if (want.forced) {
    if (seen.retry_in.count() > 0) return wait_at_most(Why::back_off, seen.retry_in);
    if (has_process(seen.server)) return act(Act::kill_server, why);
    if (seen.stop_retry_in.count() > 0) return wait_at_most(why, seen.stop_retry_in);
    return act(Act::stop_device, why);
  }
  if (seen.usage != Usage::in_use && seen.retry_in.count() > 0)
    return wait_at_most(Why::back_off, seen.retry_in);
  switch (seen.usage) {
    case Usage::unknown:
      return act(Act::check_usage, why);
    case Usage::unused:
      return act(Act::try_stop, why);
    case Usage::in_use:
      break;
  }
  // In use: a server that dies meanwhile is recovered as ever.
  if (seen.device == Device::live) {
    if (seen.server == Server::serving)
      return wait_at_most(why == Why::needs_recreate ? why : Why::in_use, usage_recheck);
    return await_release(want, seen);
  }
  return recover(want, seen);
}

// DEL_DEV waits for the char device to be closed, so its holder goes first.
Decision remove_diskless(const Observed& seen, Why why) {
  if (has_process(seen.server)) return act(Act::kill_server, why);
  return attempt(seen, Act::delete_device, why);
}

Decision tear_down(const Desired& want, const Observed& seen, Why why) {
  if (has_disk(seen.device)) return take_down(want, seen, why);
  if (seen.device != Device::absent) return remove_diskless(seen, why);
  if (has_process(seen.server)) return act(Act::kill_server, why);
  if (want.present) return {Act::nothing, why, std::nullopt};
  if (seen.retry_in.count() > 0) return wait_at_most(Why::back_off, seen.retry_in);
  if (want.delete_backend) return act(Act::delete_backend, why);
  return act(Act::forget, why);
}

Decision decide_now(const Desired& want, const Observed& seen) {
  if (want.paused) {
    // A device without a server changes its state without an event: looked at, so that it is said.
    const bool changing = has_disk(seen.device) && seen.server != Server::serving;
    return {Act::nothing, Why::paused, changing ? std::optional(usage_recheck) : std::nullopt};
  }
  // Also of a disk that is to go: who has it open can only close it when its I/O ends.
  if (want.replace_server && has_disk(seen.device) && seen.server == Server::serving &&
      want.recoverable)
    return act(Act::kill_server, Why::replacing_server);
  if (!want.present) return tear_down(want, seen, Why::removed);
  if (!want.running) return tear_down(want, seen, Why::stopped);

  switch (seen.device) {
    case Device::absent:
      if (!seen.driver_there) return wait_for_event(Why::driver_missing);
      if (!seen.mode_supported) return wait_for_event(Why::unsupported_by_kernel);
      if (!seen.backend_ready) return wait_at_most(Why::backend_unavailable, usage_recheck);
      if (seen.retry_in.count() > 0) return wait_at_most(Why::back_off, seen.retry_in);
      if (seen.server == Server::granted || seen.server == Server::serving)
        return act(Act::kill_server, Why::starting);  // it holds a device that no longer exists
      return act(Act::add_device, Why::starting);
    case Device::fresh:
      if (seen.recreate_wanted && seen.server != Server::granted && seen.server != Server::serving)
        return remove_diskless(seen, Why::needs_recreate);
      return start(seen);
    case Device::dead:
      // The next server, warm already, is kept for the next device.
      if (seen.server != Server::granted && seen.server != Server::serving) {
        return attempt(seen, Act::delete_device, Why::starting);
      }
      if (seen.server == Server::serving && !seen.taken_down)
        return act(Act::kill_server, Why::server_dying);
      return remove_diskless(seen, Why::starting);
    case Device::live:
      if (seen.server == Server::granted) return attempt(seen, Act::end_recovery, Why::recovering);
      if (seen.server != Server::serving) return await_release(want, seen);
      if (!seen.recreate_wanted) return {Act::nothing, Why::converged, std::nullopt};
      if (!seen.mode_supported) return wait_for_event(Why::unsupported_by_kernel);
      // A disk that serves is not given up for one that could not.
      if (!seen.recreate_ready) return wait_at_most(Why::needs_recreate, usage_recheck);
      return take_down(want, seen, Why::needs_recreate);
    case Device::quiesced:
    case Device::fail_io:
      return recover(want, seen);
  }
  return wait_for_event(Why::starting);
}

}  // namespace

Decision decide(const Desired& want, const Observed& seen) {
  Decision decision = decide_now(want, seen);
  // A deadline is a wake-up of its own.
  if (decision.act == Act::wait && want.deadline && want.fail_on_deadline &&
      has_disk(seen.device) && seen.without_server.count() > 0 &&
      seen.without_server < *want.deadline) {
    const milliseconds left = *want.deadline - seen.without_server;
    decision.recheck = std::min(decision.recheck.value_or(left), left);
  }
  return decision;
}

const char* to_string(Act value) {
  switch (value) {
    case Act::nothing:
      return "nothing";
    case Act::wait:
      return "wait";
    case Act::add_device:
      return "add_device";
    case Act::prepare_server:
      return "prepare_server";
    case Act::grant:
      return "grant";
    case Act::start_device:
      return "start_device";
    case Act::begin_recovery:
      return "begin_recovery";
    case Act::end_recovery:
      return "end_recovery";
    case Act::poke_release:
      return "poke_release";
    case Act::check_usage:
      return "check_usage";
    case Act::try_stop:
      return "try_stop";
    case Act::kill_server:
      return "kill_server";
    case Act::stop_device:
      return "stop_device";
    case Act::delete_device:
      return "delete_device";
    case Act::delete_backend:
      return "delete_backend";
    case Act::forget:
      return "forget";
  }
  return "unknown";
}

const char* to_string(Why why) {
  switch (why) {
    case Why::converged:
      return "Serving";
    case Why::paused:
      return "Paused";
    case Why::stopped:
      return "Stopped";
    case Why::removed:
      return "Removing";
    case Why::driver_missing:
      return "DriverMissing";
    case Why::unsupported_by_kernel:
      return "UnsupportedByKernel";
    case Why::backend_unavailable:
      return "BackendUnavailable";
    case Why::back_off:
      return "BackOff";
    case Why::starting:
      return "Starting";
    case Why::server_starting:
      return "ServerStarting";
    case Why::device_releasing:
      return "DeviceReleasing";
    case Why::recovering:
      return "Recovering";
    case Why::recovery_impossible:
      return "RecoveryImpossible";
    case Why::old_holder_alive:
      return "OldHolderAlive";
    case Why::deadline_exceeded:
      return "DeadlineExceeded";
    case Why::in_use:
      return "InUse";
    case Why::needs_recreate:
      return "NeedsRecreate";
    case Why::replacing_server:
      return "ReplacingServer";
    case Why::server_dying:
      return "ServerDying";
  }
  return "Unknown";
}

const char* to_string(Device device) {
  switch (device) {
    case Device::absent:
      return "absent";
    case Device::fresh:
      return "fresh";
    case Device::dead:
      return "dead";
    case Device::live:
      return "live";
    case Device::quiesced:
      return "quiesced";
    case Device::fail_io:
      return "fail_io";
  }
  return "unknown";
}

const char* to_string(Server server) {
  switch (server) {
    case Server::none:
      return "none";
    case Server::warming:
      return "warming";
    case Server::prepared:
      return "prepared";
    case Server::granted:
      return "granted";
    case Server::serving:
      return "serving";
  }
  return "unknown";
}

}  // namespace ublk_operator::reconcile
