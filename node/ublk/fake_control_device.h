// FakeKernel: the ublk driver without a kernel, for tests. It plays all three sides that the driver
// talks to: control commands (ControlDevice), the server (FakeServer) and whoever uses the disk
// (FakeBlockFile). It knows rules, not data: what a read returns is the test's business.
// Shape    handles share the kernel's state; they may outlive the FakeKernel.
// Errors   as the real driver's, checked by tests/contract on both.
// Threads  every method may be called from any thread. Nothing sleeps or polls: waits end by an
//          event, their deadline, or their cancel_fd.
// Time     a death is noticed at once: when kill() returns, everything that the driver does on its
//          own has been done, unless hold_release() keeps it back or another command is in the way.
// Source   drivers/block/ublk_drv.c of 6.12 and 7.2; what the kernel taught since is in
//          tests/contract/README.md.
#pragma once
#include <functional>
#include <future>
#include <memory>
#include <string>

#include "node/ublk/control_device.h"

namespace ublk_operator {

// Where the two kernels differ, the fake is one or the other.
enum class FakePersonality { linux_6_12, linux_7_2 };

struct FakeIo {
  bool write = false;
  uint64_t offset_bytes = 0;
  uint32_t length_bytes = 4096;
};

// What a server finds in its completion queue.
struct FakeDelivery {
  bool aborted = false;  // the tag was handed back (-ENODEV); io is empty
  uint16_t queue = 0;
  uint16_t tag = 0;
  FakeIo io;
};

struct FakeKernelState;

// One more descriptor of an open ublkcN (fork, SCM_RIGHTS): while it lives, the file is not
// released, whoever died.
class FakeCharCopy {
 public:
  FakeCharCopy(std::shared_ptr<FakeKernelState> kernel, DeviceId id, uint64_t device_serial);
  FakeCharCopy(FakeCharCopy&& other) noexcept;
  FakeCharCopy& operator=(FakeCharCopy&&) = delete;
  FakeCharCopy(const FakeCharCopy&) = delete;
  FakeCharCopy& operator=(const FakeCharCopy&) = delete;
  ~FakeCharCopy();

 private:
  std::shared_ptr<FakeKernelState> kernel_;
  DeviceId id_;
  uint64_t device_serial_;
};

// An open /dev/ublkbN.
class FakeBlockFile {
 public:
  FakeBlockFile(std::shared_ptr<FakeKernelState> kernel, DeviceId id, uint64_t disk_serial);
  FakeBlockFile(FakeBlockFile&& other) noexcept;
  FakeBlockFile& operator=(FakeBlockFile&&) = delete;
  FakeBlockFile(const FakeBlockFile&) = delete;
  FakeBlockFile& operator=(const FakeBlockFile&) = delete;
  ~FakeBlockFile();  // close(2); I/O that was submitted goes on

  // Becomes 0 or a (positive) errno when the request ends; a request that waits for a server has no
  // end until one comes. end_of_disk: a read after the disk was removed, which finds no bytes (a
  // write then gets ENOSPC): its size is 0, and no request reaches the driver (block/fops.c).
  static constexpr int end_of_disk = -1;
  [[nodiscard]] std::future<int> submit(FakeIo io);

 private:
  std::shared_ptr<FakeKernelState> kernel_;
  DeviceId id_;
  uint64_t disk_serial_;
};

// A server process. Destruction kills and reaps it.
class FakeServer {
 public:
  FakeServer(std::shared_ptr<FakeKernelState> kernel, pid_t pid);
  FakeServer(FakeServer&& other) noexcept;
  FakeServer& operator=(FakeServer&&) = delete;
  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;
  ~FakeServer();

  [[nodiscard]] pid_t pid() const { return pid_; }
  // Readable once the process has exited, as a pidfd.
  [[nodiscard]] int pidfd() const;

  // open(2) of /dev/ublkcN. ENOENT: no such device; EBUSY: somebody has it open. One device a
  // server.
  [[nodiscard]] Result<void> open_char(DeviceId id);
  // mmap of all queues. EINVAL: another process's memory is still bound (never reset).
  [[nodiscard]] Result<void> map();
  // FETCH. EINVAL: no such tag, or fetched already; EBUSY: the queue (6.12) or device (7.2) is
  // complete.
  [[nodiscard]] Result<void> fetch(uint16_t queue, uint16_t tag);
  [[nodiscard]] Result<void> fetch_all();
  // open_char, map, fetch_all.
  [[nodiscard]] Result<void> serve(DeviceId id);

  // The next completion, in order. ETIMEDOUT, ECANCELED by `limit`.
  [[nodiscard]] Result<FakeDelivery> next(CallLimit limit);
  // COMMIT_AND_FETCH; `err`: 0 or a positive errno. EINVAL: the tag is not in this server's hands.
  [[nodiscard]] Result<void> commit(uint16_t queue, uint16_t tag, int err);

  [[nodiscard]] FakeCharCopy copy_char();
  // Gives up ring, mapping and file, and lives on.
  void close_char();
  // SIGKILL: as close_char(), and a zombie remains.
  void kill();
  // The parent's waitpid(2): the pid is gone.
  void reap();

 private:
  std::shared_ptr<FakeKernelState> kernel_;
  pid_t pid_;
};

class FakeKernel {
 public:
  explicit FakeKernel(FakePersonality personality, unsigned cpus = 4);

  // One for each thread, as the real one.
  [[nodiscard]] std::unique_ptr<ControlDevice> open_control() const;
  [[nodiscard]] FakeServer spawn_server() const;
  // ENOENT: no disk; ENXIO never: tests open as root.
  [[nodiscard]] Result<FakeBlockFile> open_block(DeviceId id) const;

  // Called after each release of a ublkcN (where a watch on its node would fire IN_CLOSE), from the
  // thread that caused it, without locks held.
  void on_release(std::function<void(DeviceId)> listener) const;
  // Keeps the driver from noticing that ublkcN was closed, until let_release(): the time between a
  // server's death and the release of its device, which a real kernel spends in kworkers.
  void hold_release(DeviceId id) const;
  void let_release(DeviceId id) const;

  // 6.12: the request timer (queue/io_timeout) fires, which there is what frees a queue whose every
  // tag was in a dead server's hands. 7.2: nothing to do.
  void fire_request_timeout(DeviceId id) const;

  // The next command with this Error::operation ("start_dev") fails with `err` and does nothing.
  void fail_next(const std::string& operation, int err) const;
  // Commands that reached the driver, by Error::operation.
  [[nodiscard]] unsigned calls(const std::string& operation) const;
  // What would have crashed the kernel; empty when nothing did. Tests assert that it is empty.
  [[nodiscard]] std::string crash() const;

 private:
  std::shared_ptr<FakeKernelState> state_;
};

}  // namespace ublk_operator
