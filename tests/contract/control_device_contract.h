// The control device's contract: one suite of cases for the real driver and the fake. A case speaks
// to a `Kernel`, which is either; where 6.12 and 7.2 differ, the case says so.
// Shape    Server is a process that opens, maps and fetches when told to, and then serves reads by
//          itself; Disk reads. Both are as small as the cases allow.
// Errors   as ControlDevice; 0 and positive errnos.
// Threads  a case runs on one thread; commands that must wait meanwhile run on another, through
//          another_control().
#pragma once
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "node/ublk/control_device.h"
#include "node/ublk/modes.h"

namespace ublk_operator::contract {

using namespace std::chrono_literals;

// Long enough for what must happen, on an emulated machine too.
inline constexpr auto soon = 20'000ms;
// A read that got no bytes: what is left to an opener of a disk that was removed (its size is 0).
inline constexpr int end_of_disk = -1;

class Server {
 public:
  Server() = default;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  virtual ~Server() = default;  // kills and reaps

  [[nodiscard]] virtual pid_t pid() const = 0;
  [[nodiscard]] virtual int pidfd() const = 0;

  [[nodiscard]] virtual Result<void> open_char(DeviceId id) = 0;
  [[nodiscard]] virtual Result<void> map() = 0;
  // FETCH of one tag; an error is what its completion says at once.
  [[nodiscard]] virtual Result<void> fetch(uint16_t queue, uint16_t tag) = 0;

  // From now on requests stay in the server's hands (true), or all of them are completed and later
  // ones at once (false, as it begins).
  virtual void hold(bool on) = 0;
  // Waits until that many requests are in its hands. False: they did not come soon.
  [[nodiscard]] virtual bool holds(unsigned requests) = 0;
  // Waits until a tag was handed back to it. False: none was within `time`.
  [[nodiscard]] virtual bool sees_abort(std::chrono::milliseconds time) = 0;

  // One more descriptor of its ublkcN, in another process.
  [[nodiscard]] virtual std::shared_ptr<void> copy_char() = 0;
  // Gives up the device and lives on.
  virtual void leave() = 0;
  // SIGKILL; returns when it is a zombie.
  virtual void kill() = 0;
  virtual void reap() = 0;
};

class Disk {
 public:
  Disk() = default;
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;
  virtual ~Disk() = default;  // close(2)
  // One read: 0, an errno, or end_of_disk, whenever it ends.
  [[nodiscard]] virtual std::shared_future<int> read() = 0;
};

class Kernel {
 public:
  Kernel() = default;
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  virtual ~Kernel() = default;

  [[nodiscard]] virtual ControlDevice& control() = 0;
  [[nodiscard]] virtual std::unique_ptr<ControlDevice> another_control() = 0;
  // The rules of 7.2 (true) or of 6.12.
  [[nodiscard]] virtual bool is_7_2() = 0;
  [[nodiscard]] virtual std::unique_ptr<Server> spawn_server() = 0;
  [[nodiscard]] virtual Result<std::unique_ptr<Disk>> open_disk(DeviceId id) = 0;
  // Requests issued from now on time out quickly, where the driver does something about it (6.12).
  virtual void shorten_request_timeout(DeviceId id) = 0;
  virtual void let_requests_time_out(DeviceId id) = 0;
  // Long enough to believe that something does not happen.
  [[nodiscard]] virtual std::chrono::milliseconds a_while() const = 0;
  // What broke in the kernel, empty: nothing.
  [[nodiscard]] virtual std::string crash() = 0;
};

struct KernelUnderTest {
  const char* name;
  std::unique_ptr<Kernel> (*make)();
};

class ControlContract : public ::testing::TestWithParam<KernelUnderTest> {
 protected:
  void SetUp() override;
  void TearDown() override;

  [[nodiscard]] ControlDevice& control() { return kernel_->control(); }
  [[nodiscard]] bool is_7_2() { return kernel_->is_7_2(); }
  [[nodiscard]] std::chrono::milliseconds a_while() const { return kernel_->a_while(); }

  // A device of one queue and two tags, with parameters, state DEAD. Removed at the end.
  DeviceId add(uint64_t wanted_flags);
  DeviceId add(RecoveryMode mode);
  // ... served by a new server, state LIVE.
  struct Live {
    DeviceId id = 0;
    std::unique_ptr<Server> server;
  };
  Live live(RecoveryMode mode);
  std::unique_ptr<Server> spawn() { return kernel_->spawn_server(); }
  // open, map, fetch every tag.
  void serve(Server& server, DeviceId id);
  void fetch_all(Server& server, DeviceId id);

  [[nodiscard]] DeviceState state(DeviceId id);
  // Waits for what the driver does on its own after a server's end.
  [[nodiscard]] bool becomes(DeviceId id, DeviceState wanted);
  // START_USER_RECOVERY, repeated while the driver still says EBUSY. The errno at the end.
  [[nodiscard]] int begin_recovery_within(DeviceId id, std::chrono::milliseconds time);
  [[nodiscard]] int begin_recovery_soon(DeviceId id) { return begin_recovery_within(id, soon); }
  // open_char, repeated while the device is busy. The errno at the end.
  [[nodiscard]] static int open_soon(Server& server, DeviceId id);
  // A new server takes over; the device is LIVE after.
  std::unique_ptr<Server> recover(DeviceId id);

  [[nodiscard]] std::vector<RecoveryMode> modes() const;
  // Runs `command` on another thread with a control device of its own.
  [[nodiscard]] std::future<int> meanwhile(std::function<int(ControlDevice&)> command);
  [[nodiscard]] std::unique_ptr<Disk> open_disk(DeviceId id);

  static CallLimit limit(std::chrono::milliseconds timeout = soon, int cancel_fd = -1) {
    return {timeout, cancel_fd};
  }
  // 0 or the errno, ETIMEDOUT when it does not end soon.
  [[nodiscard]] static int outcome(const std::shared_future<int>& io);
  [[nodiscard]] bool still_waits(const std::shared_future<int>& io);

  std::unique_ptr<Kernel> kernel_;
  std::vector<DeviceId> devices_;
};

}  // namespace ublk_operator::contract
