// ControlDevice: the ublk control commands, one method per command.
// Shape    each call is one request and one reply; DeviceInfo is a snapshot, not a live view.
// Units    sectors are 512 bytes; names ending in _bytes are bytes.
// Errors   Error{err, operation, object "ublk<N>"}, the kernel's errno untouched, with a detail
//          that says in one sentence what it means here. Every command: ENODEV (no such device),
//          EPERM (needs CAP_SYS_ADMIN), EOPNOTSUPP (the kernel does not know the command),
//          ETIMEDOUT (the deadline passed: the request was cancelled and its outcome is unknown,
//          call info() before acting again), ECANCELED (Cancellation fired; outcome likewise
//          unknown, unless the detail says that nothing was sent), EAGAIN (too many earlier
//          commands of this instance never came back from the kernel). A command that ends well
//          while it is being cancelled is a success.
// Threads  one instance, one thread: blocking commands sleep in io-wq workers of the submitting
//          thread, and those are few (io_init_wq_offload). Cancellation may be fired from any
//          thread.
// Time     no call outlives its deadline by more than the 250 ms that cancelling may take. The
//          kernel's own uninterruptible waits cannot be ended: such a command is left behind with
//          its memory and goes on. STOP_DEV and DEL_DEV are therefore issued by a disposable
//          process (see node/agent), never by the agent itself.
// Source   drivers/block/ublk_drv.c of 6.12 and 7.2; Documentation/block/ublk.rst. Kept by
//          tests/contract on both kernels and the fake.
#pragma once
#include <chrono>
#include <memory>
#include <vector>

#include "common/base/result.h"
#include "common/base/unique_fd.h"
#include "node/ublk/device.h"

namespace ublk_operator {

// How long a call may take, and an optional descriptor that ends it early when readable (a pidfd of
// the server that a START_DEV waits for, an EventFd of a shutdown).
struct CallLimit {
  std::chrono::milliseconds timeout{10'000};
  int cancel_fd = -1;
};

class ControlDevice {
 public:
  virtual ~ControlDevice() = default;

  // GET_FEATURES: the UBLK_F_* this kernel knows. EOPNOTSUPP before 6.5.
  virtual Result<uint64_t> features(CallLimit limit) = 0;

  // ADD_DEV: creates the char device, state DEAD. The driver adjusts what was asked for (queues cut
  // to the CPU count, unknown flags cleared): size everything from the returned info. EEXIST: id in
  // use (also half deleted); EINVAL: illegal flag combination or geometry; EACCES: quota of
  // unprivileged devices.
  virtual Result<DeviceInfo> add(const AddRequest& request, CallLimit limit) = 0;

  // SET_PARAMS: before start(). EACCES: a disk exists; EINVAL: ublk_validate_params.
  virtual Result<void> set_params(DeviceId id, const Geometry& geometry, CallLimit limit) = 0;

  // GET_PARAMS, with queues, depth and max_io_bytes from info(): the device's whole Geometry. Takes
  // the device's mutex, so it hangs with a stuck device; info() does not.
  virtual Result<Geometry> params(DeviceId id, CallLimit limit) = 0;

  // GET_DEV_INFO2, or GET_DEV_INFO where /dev does not show the node: changes nothing, takes no
  // lock, safe to repeat.
  virtual Result<DeviceInfo> info(DeviceId id, CallLimit limit) = 0;

  // GET_QUEUE_AFFINITY: the CPUs of one hardware queue. EINVAL: no such queue.
  virtual Result<std::vector<unsigned>> queue_affinity(DeviceId id, uint16_t queue,
                                                       CallLimit limit) = 0;

  // START_DEV: exposes the block device. Waits until every tag of every queue was fetched, so the
  // server's queues must run already. `server_pid`: who opened ublkcN (EINVAL otherwise on 7.2).
  // EEXIST: already LIVE, or the old disk is still referenced; EINVAL: no params, or another pid
  // than the opener's.
  virtual Result<void> start(DeviceId id, pid_t server_pid, CallLimit limit) = 0;

  // STOP_DEV: removes the disk; any state, no error on a DEAD one. Uninterruptible while the server
  // hangs: kill the server first, and call it from a disposable process.
  virtual Result<void> stop(DeviceId id, CallLimit limit) = 0;

  // TRY_STOP_DEV (7.2): as stop(), but EBUSY while the disk is open. EOPNOTSUPP: the kernel lacks
  // it.
  virtual Result<void> try_stop(DeviceId id, CallLimit limit) = 0;

  // DEL_DEV: frees the id; waits until the char and block devices are closed by everybody.
  virtual Result<void> remove(DeviceId id, CallLimit limit) = 0;
  // DEL_DEV_ASYNC: the same without the wait; the id may stay busy for a while. EINVAL on
  // unprivileged devices.
  virtual Result<void> remove_async(DeviceId id, CallLimit limit) = 0;

  // START_USER_RECOVERY: EBUSY while ublkcN is still held, and also when the state is not QUIESCED
  // or FAIL_IO (read the state before retrying for ever); EINVAL: the device has no recovery
  // flag. 7.2: a pure check, repeatable; 6.12: it resets the device and a second call before a
  // queue is ready gives EINVAL.
  virtual Result<void> begin_recovery(DeviceId id, CallLimit limit) = 0;

  // END_USER_RECOVERY: waits for all fetches as start() does, on 6.12 only after begin_recovery()
  // (without it the device becomes LIVE with no server); not woken by the server's death, so
  // give its pidfd as cancel_fd. EBUSY: not in recovery; EINVAL (7.2): another pid than the
  // opener's.
  virtual Result<void> end_recovery(DeviceId id, pid_t server_pid, CallLimit limit) = 0;

  // QUIESCE_DEV (7.2): hands idle fetches back to the server with ENODEV; cannot be undone. With
  // every tag busy it returns 0 without having aborted anything: repeat it until the server saw an
  // abort. EOPNOTSUPP: not asked for at ADD_DEV; ENODEV: no disk.
  virtual Result<void> quiesce(DeviceId id, std::chrono::milliseconds kernel_timeout,
                               CallLimit limit) = 0;

  // UPDATE_SIZE (7.2): no validation in the kernel, so the caller must never shrink. ENODEV: no
  // disk.
  virtual Result<void> update_size(DeviceId id, uint64_t size_bytes, CallLimit limit) = 0;

  // Ids that exist on this machine, ours or not (/sys/class/ublk-char), sorted.
  virtual Result<std::vector<DeviceId>> list() = 0;
};

// The driver's own: opens /dev/ublk-control. ENOENT: ublk_drv is not loaded; EACCES: not root;
// EPERM: io_uring is disabled (sysctl kernel.io_uring_disabled).
[[nodiscard]] Result<std::unique_ptr<ControlDevice>> open_control_device();

}  // namespace ublk_operator
