// decide(): what to do next for one volume. The pure core of the reconciler: no clock, no I/O, no
// log. The caller observes, decides, executes the one action, and observes again; every action is
// small and safe to repeat.
// Shape    Desired comes from the spec and from what people asked for; Observed from the kernel,
//          the server process and the lease. Ages, attempts and deadlines arrive as data.
// Safety   never answers a failed recovery by deleting the device; never stops a device that may be
//          in use unless forced or the deadline's policy says so; never grants before the kernel
//          released the old server's char device.
// Source   design "Reconciling" and "Never"; ublk-kernel facts, "States and recovery modes".
#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace ublk_operator::reconcile {

using std::chrono::milliseconds;

// As the kernel reports it. A comment names what may follow.
enum class Device {
  absent,    // next: fresh (ADD_DEV)
  fresh,     // DEAD, added by us, no server was let near it yet; next: live (START_DEV), absent
  dead,      // DEAD after a disk was there, or after a server opened it and died: of no use; next:
             // absent (DEL_DEV)
  live,      // next: quiesced, fail_io, dead
  quiesced,  // next: live (END_USER_RECOVERY), dead (STOP_DEV)
  fail_io,   // as quiesced, but I/O fails meanwhile
};

// The process that is to serve, as this agent holds it.
enum class Server {
  none,      // none, or the last one is dead; next: warming
  warming,   // acquired, told to prepare; next: prepared, none (died)
  prepared,  // buffers and rings exist; next: granted, none
  granted,   // has the right to the char device and the backend; next: serving, none
  serving,   // START_DEV or END_USER_RECOVERY succeeded; next: none
};

enum class Usage {
  unknown,  // not looked at since something changed
  unused,   // nobody has the disk open
  in_use,
};

struct Desired {
  bool present = true;            // false: the manifest was removed
  bool running = true;            // spec.running, and not stopped by hand
  bool forced = false;            // a stop that may cut off users (`ublkctl stop --force`)
  bool paused = false;            // do nothing at all
  bool replace_server = false;    // kill the present server and recover onto a new one
  bool delete_backend = false;    // reclaimPolicy Delete: only looked at when !present
  bool recoverable = true;        // the device's mode survives its server (Queue, Reissue, FailIO)
  bool fail_on_deadline = false;  // recovery.onDeadline FailDevice
  std::optional<milliseconds> deadline;  // recovery.deadline
};

struct Observed {
  Device device = Device::absent;
  Server server = Server::none;
  Usage usage = Usage::unknown;
  bool driver_there = true;          // without it there is no device, and none can be made
  bool mode_supported = true;        // this kernel can do the wanted mode
  bool backend_ready = true;         // backend is there, ours, and has the right size
  bool recreate_wanted = false;      // the spec asks for what needs a new device
  bool recreate_ready = true;        // what the new device needs is there
  bool recovery_begun = false;       // START_USER_RECOVERY succeeded for the present recovery
  bool still_held = false;           // the last START_USER_RECOVERY was answered EBUSY
  bool close_seen = false;           // ublkcN was closed since the server was lost (inotify)
  bool recovery_impossible = false;  // 6.12: a half-finished recovery that the kernel cannot repeat
  bool old_holder_alive = false;  // a process that is not the present server still holds the device
  bool taken_down = false;        // we stopped the disk: the end of its server is no loss
  milliseconds without_server{0};  // since the last server was lost; 0 while one serves
  milliseconds stop_retry_in{0};   // the last STOP_DEV failed: no new one before
  milliseconds retry_in{0};        // back-off: no new attempt before
};

enum class Act {
  nothing,         // all is as wanted
  wait,            // for `until`; see Decision::recheck
  add_device,      // ADD_DEV, SET_PARAMS
  prepare_server,  // take a server, tell it the geometry
  grant,           // give it char device, backend and generation
  start_device,    // START_DEV
  begin_recovery,  // START_USER_RECOVERY
  end_recovery,    // END_USER_RECOVERY
  poke_release,    // open and close ublkcN once: LIVE without a server
  check_usage,     // is the disk open? (6.12; on 7.2 try_stop asks and acts at once)
  try_stop,        // stop if nobody uses it
  kill_server,     // SIGKILL and wait for its end
  stop_device,     // STOP_DEV, in a disposable process; the server is dead
  delete_device,   // DEL_DEV
  delete_backend,  // the file, reclaimPolicy Delete
  forget,          // nothing is left: drop the volume's record
};

// Why, for the conditions and the log; also names what wait waits for.
enum class Why {
  converged,
  paused,
  stopped,  // wanted: not running
  removed,  // wanted: gone
  driver_missing,
  unsupported_by_kernel,
  backend_unavailable,
  back_off,
  starting,
  server_starting,   // waits for: the server's answer
  device_releasing,  // waits for: the kernel to let go of ublkcN (the old server's I/O to end)
  recovering,
  recovery_impossible,
  old_holder_alive,  // waits for: the exit of a process that is not ours to judge
  deadline_exceeded,
  in_use,          // waits for: the last user to close the disk
  needs_recreate,  // waits for the same, to make the device anew
  replacing_server,
  server_dying,  // the kernel took the device from a server that was serving it: it is dying, and
                 // its device was seen before its pidfd
};

struct Decision {
  Act act = Act::nothing;
  Why why = Why::converged;
  // For wait and nothing: look again after this long even without an event; none: events suffice.
  std::optional<milliseconds> recheck;
  friend bool operator==(const Decision&, const Decision&) = default;
};

[[nodiscard]] Decision decide(const Desired& want, const Observed& seen);

[[nodiscard]] const char* to_string(Act act);
[[nodiscard]] const char* to_string(Why why);  // CamelCase: the reasons of conditions
[[nodiscard]] const char* to_string(Device device);
[[nodiscard]] const char* to_string(Server server);

// A LIVE device whose server is gone normally becomes QUIESCED by itself within milliseconds; after
// this long it is the driver's START_DEV race, and opening ublkcN once cures it (facts, "Race
// [7.2]").
inline constexpr milliseconds poke_release_after{1000};
// How often to try again where the kernel has no event: the last few microseconds between IN_CLOSE
// and the end of the release work, and a disk closed by the kernel itself (unmount) between two
// mount table events.
inline constexpr milliseconds release_recheck{2};
inline constexpr milliseconds usage_recheck{2000};

}  // namespace ublk_operator::reconcile
