// The state of the fake driver, and what happens in it. Only for the files of the fake: its users
// see fake_control_device.h.
#pragma once
#include <poll.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/base/unique_fd.h"
#include "node/ublk/abi.h"
#include "node/ublk/fake_control_device.h"
#include "node/ublk/modes.h"

namespace ublk_operator {
namespace fake {

struct Request {
  FakeIo io;
  std::promise<int> done;
  uint16_t queue = 0;
  uint16_t tag = 0;
};
using RequestPtr = std::unique_ptr<Request>;

struct Tag {
  bool active = false;    // the server's command is with the driver (UBLK_IO_FLAG_ACTIVE)
  bool canceled = false;  // ... and was completed with ABORT since
  bool busy = false;      // the block layer gave the tag to a request
  pid_t owner = 0;
  RequestPtr owned;  // in the server's hands
};

struct Queue {
  std::vector<Tag> tags;
  uint16_t ready = 0;
  bool canceling = false;
  bool fail_io = false;
  pid_t daemon = 0;  // 6.12: the task that sent the last fetch

  [[nodiscard]] bool complete() const { return ready == tags.size(); }
};

struct Device {
  uint64_t serial = 0;  // ids are reused, serials are not
  DeviceInfo info;
  abi::Params params{};
  std::vector<Queue> queues;

  // ublkcN
  bool open = false;  // UB_STATE_OPEN
  unsigned file_references = 0;
  bool release_held = false;  // hold_release()
  bool release_due = false;   // closed while held
  pid_t opener = -1;
  pid_t memory_of = 0;  // whose mm is bound

  // ublkbN
  uint64_t disk = 0;                        // serial of the present disk, 0: none
  std::map<uint64_t, unsigned> disk_files;  // openers by disk; an old disk lives on in them
  std::deque<RequestPtr> waiting;           // no free tag
  std::deque<RequestPtr> requeued;
  std::deque<RequestPtr> held;  // behind a quiesced block queue (6.12)
  bool pumping = false;

  bool stop_pending = false;    // a stop waits for requests, and holds the device mutex
  bool delete_pending = false;  // ... on behalf of a DEL_DEV, which holds the control mutex
  bool deleted = false;
  unsigned command_references = 0;

  // 6.12 only
  bool completion = false;
  unsigned queues_ready = 0;
  bool block_queue_quiesced = false;
  bool quiesce_work = false;

  [[nodiscard]] bool used() const { return disk != 0 || !disk_files.empty(); }
  [[nodiscard]] bool has_owned() const {
    return std::any_of(queues.begin(), queues.end(), [](const Queue& queue) {
      return std::any_of(queue.tags.begin(), queue.tags.end(),
                         [](const Tag& tag) { return tag.owned != nullptr; });
    });
  }
  [[nodiscard]] bool recoverable_state() const {
    return info.state == DeviceState::quiesced || info.state == DeviceState::fail_io;
  }
};
using DevicePtr = std::shared_ptr<Device>;

struct Process {
  explicit Process(EventFd event) : exited(std::move(event)) {}
  bool alive = true;
  EventFd exited;
  DevicePtr device;
  std::deque<FakeDelivery> inbox;
};

[[nodiscard]] bool is_readable(int fd);
[[nodiscard]] EventFd new_event();

}  // namespace fake

// Everything below is called with `mutex` held unless it says otherwise.
struct FakeKernelState {
  FakeKernelState(FakePersonality kind, unsigned cpu_count) : personality(kind), cpus(cpu_count) {}

  std::mutex mutex;
  const FakePersonality personality;
  const unsigned cpus;
  std::map<DeviceId, fake::DevicePtr> devices;
  std::map<pid_t, std::unique_ptr<fake::Process>> processes;  // until reaped
  pid_t next_pid = 1000;
  uint64_t next_serial = 1;
  bool control_mutex = false;  // held by a DEL_DEV that waits
  std::map<std::string, unsigned> calls;
  std::map<std::string, int> failures;
  std::string crash;
  std::function<void(DeviceId)> release_listener;
  std::vector<DeviceId> released;
  std::list<const EventFd*> waiters;

  [[nodiscard]] bool is_7_2() const { return personality == FakePersonality::linux_7_2; }

  // ---- waiting ----------------------------------------------------------------------------------

  void changed() {
    for (const EventFd* waiter : waiters) waiter->signal();
  }

  // Runs `attempt` until it returns something. 0: it did; ETIMEDOUT, ECANCELED: it did not.
  template <typename Attempt>
  int wait(std::unique_lock<std::mutex>& lock, CallLimit limit, const Attempt& attempt) {
    if (limit.cancel_fd >= 0 && fake::is_readable(limit.cancel_fd)) return ECANCELED;
    const auto by = std::chrono::steady_clock::now() +
                    std::max(limit.timeout, std::chrono::milliseconds::zero());
    const EventFd event = fake::new_event();
    const auto place = waiters.insert(waiters.end(), &event);
    int result = -1;
    while (result < 0) {
      if (attempt()) {
        result = 0;
        break;
      }
      lock.unlock();
      deliver_releases();
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(by - std::chrono::steady_clock::now())
              .count();
      std::array<pollfd, 2> entries{{{event.fd(), POLLIN, 0}, {limit.cancel_fd, POLLIN, 0}}};
      const int ready = ::poll(entries.data(), entries.size(),
                               static_cast<int>(std::clamp<int64_t>(left, 0, INT32_MAX)));
      lock.lock();
      event.drain();
      if (ready == 0) result = attempt() ? 0 : ETIMEDOUT;
      if (ready > 0 && entries[0].revents == 0 && entries[1].revents != 0)
        result = attempt() ? 0 : ECANCELED;
    }
    waiters.erase(place);
    return result;
  }

  // Without the lock.
  void deliver_releases() {
    std::vector<DeviceId> ids;
    std::function<void(DeviceId)> listener;
    {
      const std::lock_guard<std::mutex> guard(mutex);
      ids.swap(released);
      listener = release_listener;
    }
    if (!listener) return;
    for (const DeviceId id : ids) listener(id);
  }

  [[nodiscard]] fake::Process* find_process(pid_t pid) {
    const auto found = processes.find(pid);
    return found == processes.end() ? nullptr : found->second.get();
  }

  [[nodiscard]] fake::DevicePtr find_device(DeviceId id) const {
    const auto found = devices.find(id);
    return found == devices.end() ? nullptr : found->second;
  }
  [[nodiscard]] fake::DevicePtr find_device(DeviceId id, uint64_t serial) const {
    fake::DevicePtr device = find_device(id);
    return device && device->serial == serial ? device : nullptr;
  }

  [[nodiscard]] bool queues_io(const fake::Device& device) const {
    const RecoveryMode mode = mode_of(device.info.flags);
    return mode == RecoveryMode::queue || mode == RecoveryMode::reissue;
  }
  [[nodiscard]] bool reissues(const fake::Device& device) const {
    return mode_of(device.info.flags) == RecoveryMode::reissue;
  }
  [[nodiscard]] bool recovers(const fake::Device& device) const {
    return mode_of(device.info.flags) != RecoveryMode::none;
  }
  // The device mutex is held by something that waits.
  [[nodiscard]] bool mutex_held(const fake::Device& device) const {
    return device.stop_pending || device.quiesce_work;
  }
  [[nodiscard]] bool ready(const fake::Device& device) const {
    if (!is_7_2()) return device.completion;
    return std::all_of(device.queues.begin(), device.queues.end(),
                       [](const fake::Queue& queue) { return queue.complete(); });
  }

  // ---- requests ---------------------------------------------------------------------------------
  void end_request(fake::Device& device, fake::RequestPtr request, int err);
  // Gives free tags to requests that wait for one.
  void pump(fake::Device& device);
  static bool take_tag(fake::Device& device, fake::Request& request);
  void requeue_or_fail(fake::Device& device, fake::RequestPtr request);
  void dispatch(fake::Device& device, fake::RequestPtr request);
  void kick(fake::Device& device);
  // __ublk_fail_req: what becomes of requests in a dead server's hands.
  void abort_owned(fake::Device& device, fake::Queue& queue);
  static void set_canceling(fake::Device& device);
  // ublk_cancel_dev: idle fetches go back to the server.
  void cancel_fetches(fake::Device& device);

  // ---- life and death of disk and device --------------------------------------------------------
  void detach_disk(fake::Device& device);
  // Moves on whatever waits for requests to end.
  void advance(fake::Device& device);
  void begin_stop(fake::Device& device);
  void free_if_unused(const fake::Device& device);
  // io_ring_exit_work: the ring of `pid` goes, and with it its commands. False: it never does.
  bool ring_exits(fake::Device& device, pid_t pid);
  // ublk_abort_requests, and the work it schedules.
  void abort_queue_6_12(fake::Device& device, fake::Queue& queue);
  void drop_file_reference(const fake::DevicePtr& device);
  // ublk_ch_release and, in 7.2, ublk_ch_release_work_fn.
  void release(fake::Device& device);
  static void reset(fake::Device& device);
  void give_up_char(fake::Process& process, pid_t pid);
  void kill(pid_t pid);

  // ---- the server's side ------------------------------------------------------------------------
  Result<void> fetch(pid_t pid, uint16_t q, uint16_t t);
};

}  // namespace ublk_operator
