#include "node/ublk/fake_control_device.h"

#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "common/base/unique_fd.h"
#include "node/ublk/abi.h"
#include "node/ublk/explain.h"
#include "node/ublk/geometry.h"
#include "node/ublk/modes.h"

namespace ublk_operator {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr uint64_t features_6_12 = flags::complete_in_task | flags::need_get_data |
                                   flags::user_recovery | flags::user_recovery_reissue |
                                   flags::unprivileged | flags::ioctl_encode | flags::user_copy |
                                   flags::zoned;
constexpr uint64_t features_7_2 = 0xfffff;
constexpr DeviceId ids_max = 1 << 20;

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

bool is_readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, 0) > 0 && entry.revents != 0;
}

EventFd new_event() {
  Result<EventFd> event = EventFd::create();
  return std::move(event).value();
}

}  // namespace

// Everything below is called with `mutex` held unless it says otherwise.
struct FakeKernelState : std::enable_shared_from_this<FakeKernelState> {
  FakeKernelState(FakePersonality kind, unsigned cpu_count) : personality(kind), cpus(cpu_count) {}

  std::mutex mutex;
  const FakePersonality personality;
  const unsigned cpus;
  std::map<DeviceId, DevicePtr> devices;
  std::map<pid_t, std::unique_ptr<Process>> processes;  // until reaped
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
    if (limit.cancel_fd >= 0 && is_readable(limit.cancel_fd)) return ECANCELED;
    const Clock::time_point by = Clock::now() + std::max(limit.timeout, 0ms);
    const EventFd event = new_event();
    const auto place = waiters.insert(waiters.end(), &event);
    int result = -1;
    while (result < 0) {
      if (attempt()) {
        result = 0;
        break;
      }
      lock.unlock();
      deliver_releases();
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(by - Clock::now()).count();
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

  [[nodiscard]] Process* find_process(pid_t pid) {
    const auto found = processes.find(pid);
    return found == processes.end() ? nullptr : found->second.get();
  }

  [[nodiscard]] DevicePtr find_device(DeviceId id) const {
    const auto found = devices.find(id);
    return found == devices.end() ? nullptr : found->second;
  }
  [[nodiscard]] DevicePtr find_device(DeviceId id, uint64_t serial) const {
    DevicePtr device = find_device(id);
    return device && device->serial == serial ? device : nullptr;
  }

  [[nodiscard]] bool queues_io(const Device& device) const {
    const RecoveryMode mode = mode_of(device.info.flags);
    return mode == RecoveryMode::queue || mode == RecoveryMode::reissue;
  }
  [[nodiscard]] bool reissues(const Device& device) const {
    return mode_of(device.info.flags) == RecoveryMode::reissue;
  }
  [[nodiscard]] bool recovers(const Device& device) const {
    return mode_of(device.info.flags) != RecoveryMode::none;
  }
  // The device mutex is held by something that waits.
  [[nodiscard]] bool mutex_held(const Device& device) const {
    return device.stop_pending || device.quiesce_work;
  }
  [[nodiscard]] bool ready(const Device& device) const {
    if (!is_7_2()) return device.completion;
    return std::all_of(device.queues.begin(), device.queues.end(),
                       [](const Queue& queue) { return queue.complete(); });
  }

  // ---- requests ---------------------------------------------------------------------------------

  void end_request(Device& device, RequestPtr request, int err) {
    device.queues[request->queue].tags[request->tag].busy = false;
    request->done.set_value(err);
    pump(device);
    changed();
  }

  // Gives free tags to requests that wait for one.
  void pump(Device& device) {
    if (device.pumping || device.stop_pending) return;
    device.pumping = true;
    while (!device.waiting.empty()) {
      RequestPtr& next = device.waiting.front();
      if (!take_tag(device, *next)) break;
      RequestPtr request = std::move(next);
      device.waiting.pop_front();
      dispatch(device, std::move(request));
    }
    device.pumping = false;
  }

  static bool take_tag(Device& device, Request& request) {
    for (size_t q = 0; q < device.queues.size(); ++q) {
      std::vector<Tag>& tags = device.queues[q].tags;
      for (size_t t = 0; t < tags.size(); ++t) {
        if (tags[t].busy) continue;
        tags[t].busy = true;
        request.queue = static_cast<uint16_t>(q);
        request.tag = static_cast<uint16_t>(t);
        return true;
      }
    }
    return false;
  }

  void requeue_or_fail(Device& device, RequestPtr request) {
    if (queues_io(device))
      device.requeued.push_back(std::move(request));
    else
      end_request(device, std::move(request), EIO);
  }

  void dispatch(Device& device, RequestPtr request) {
    Queue& queue = device.queues[request->queue];
    Tag& tag = queue.tags[request->tag];
    if (is_7_2() && queue.fail_io)
      return end_request(device, std::move(request), EREMOTEIO);  // BLK_STS_TARGET
    if (device.block_queue_quiesced) return device.held.push_back(std::move(request));
    if (queue.canceling) return requeue_or_fail(device, std::move(request));
    Process* owner = find_process(tag.owner);
    if (!tag.active || tag.canceled || owner == nullptr || !owner->alive)
      return device.held.push_back(std::move(request));  // nobody will ever take it: it hangs
    tag.active = false;
    owner->inbox.push_back(FakeDelivery{false, request->queue, request->tag, request->io});
    tag.owned = std::move(request);
    changed();
  }

  void kick(Device& device) {
    std::deque<RequestPtr> again = std::exchange(device.held, {});
    std::move(device.requeued.begin(), device.requeued.end(), std::back_inserter(again));
    device.requeued.clear();
    for (RequestPtr& request : again) dispatch(device, std::move(request));
  }

  // __ublk_fail_req: what becomes of requests in a dead server's hands.
  void abort_owned(Device& device, Queue& queue) {
    for (Tag& tag : queue.tags) {
      if (!tag.owned) continue;
      RequestPtr request = std::move(tag.owned);
      if (reissues(device))
        device.requeued.push_back(std::move(request));
      else
        end_request(device, std::move(request), EIO);
    }
    changed();
  }

  static void set_canceling(Device& device) {
    for (Queue& queue : device.queues) queue.canceling = true;
  }

  // ublk_cancel_dev: idle fetches go back to the server.
  void cancel_fetches(Device& device) {
    for (size_t q = 0; q < device.queues.size(); ++q) {
      for (size_t t = 0; t < device.queues[q].tags.size(); ++t) {
        Tag& tag = device.queues[q].tags[t];
        if (!tag.active || tag.canceled) continue;
        tag.canceled = true;
        Process* owner = find_process(tag.owner);
        if (owner != nullptr && owner->alive)
          owner->inbox.push_back(
              FakeDelivery{true, static_cast<uint16_t>(q), static_cast<uint16_t>(t), {}});
      }
    }
    changed();
  }

  // ---- life and death of disk and device --------------------------------------------------------

  void detach_disk(Device& device) {
    std::deque<RequestPtr> orphans;
    for (std::deque<RequestPtr>* list : {&device.waiting, &device.requeued, &device.held}) {
      std::move(list->begin(), list->end(), std::back_inserter(orphans));
      list->clear();
    }
    for (RequestPtr& request : orphans) {
      device.queues[request->queue].tags[request->tag].busy = false;
      request->done.set_value(EIO);
    }
    for (Queue& queue : device.queues) {
      for (Tag& tag : queue.tags) tag.busy = false;
    }
    device.disk = 0;
    device.block_queue_quiesced = false;
    device.info.state = DeviceState::dead;
    device.info.server_pid = -1;
    changed();
  }

  // Moves on whatever waits for requests to end.
  void advance(Device& device) {
    if (device.quiesce_work && !device.has_owned()) {
      device.quiesce_work = false;
      device.info.state = DeviceState::quiesced;
      cancel_fetches(device);
    }
    if (device.stop_pending && !device.has_owned()) {
      device.stop_pending = false;
      detach_disk(device);
      cancel_fetches(device);
    }
    if (device.delete_pending && !device.stop_pending) {
      device.delete_pending = false;
      device.deleted = true;
      control_mutex = false;
    }
    free_if_unused(device);
    changed();
  }

  void begin_stop(Device& device) {
    if (device.info.state == DeviceState::dead) {
      cancel_fetches(device);
    } else {
      device.stop_pending = true;
    }
    advance(device);
  }

  void free_if_unused(const Device& device) {
    if (!device.deleted || device.open || !device.disk_files.empty() ||
        device.command_references != 0)
      return;
    devices.erase(device.info.id);
    changed();
  }

  // io_ring_exit_work: the ring of `pid` goes, and with it its commands. False: it never does.
  bool ring_exits(Device& device, pid_t pid) {
    if (is_7_2()) {
      for (Queue& queue : device.queues) {
        for (Tag& tag : queue.tags) {
          if (!tag.active || tag.canceled || tag.owner != pid) continue;
          set_canceling(device);
          tag.canceled = true;
        }
      }
      return true;
    }
    bool exits = true;
    for (Queue& queue : device.queues) {
      const bool has_command = std::any_of(
          queue.tags.begin(), queue.tags.end(),
          [pid](const Tag& tag) { return tag.active && !tag.canceled && tag.owner == pid; });
      if (!has_command) continue;
      if (queue.daemon != pid) {  // ublk_uring_cmd_cancel_fn gives up on a queue without a daemon
        exits = false;
        continue;
      }
      abort_queue_6_12(device, queue);
      for (Tag& tag : queue.tags) tag.canceled = tag.active;
    }
    advance(device);
    return exits;
  }

  // ublk_abort_requests, and the work it schedules.
  void abort_queue_6_12(Device& device, Queue& queue) {
    if (queue.canceling || device.disk == 0) return;
    queue.canceling = true;
    abort_owned(device, queue);
    if (!recovers(device)) {
      device.stop_pending = true;
    } else if (device.info.state == DeviceState::live) {
      device.block_queue_quiesced = true;
      device.quiesce_work = true;
    }
  }

  void drop_file_reference(const DevicePtr& device) {
    UBLK_CHECK(device->file_references > 0);
    if (--device->file_references > 0) return;
    if (device->release_held) {
      device->release_due = true;
      return;
    }
    release(*device);
  }

  // ublk_ch_release and, in 7.2, ublk_ch_release_work_fn.
  void release(Device& device) {
    device.release_due = false;
    if (is_7_2() && device.disk != 0) {
      set_canceling(device);
      for (Queue& queue : device.queues) abort_owned(device, queue);
      advance(device);  // a stop that waited for these requests holds the mutex and goes first
      if (device.disk != 0) {
        if (!recovers(device)) {
          detach_disk(device);
        } else if (queues_io(device)) {
          device.info.state = DeviceState::quiesced;
        } else {
          device.info.state = DeviceState::fail_io;
          for (Queue& queue : device.queues) queue.fail_io = true;
        }
      }
      reset(device);
    }
    device.open = false;
    released.push_back(device.info.id);
    free_if_unused(device);
    changed();
  }

  static void reset(Device& device) {
    for (Queue& queue : device.queues) {
      queue.ready = 0;
      queue.daemon = 0;
      for (Tag& tag : queue.tags) {
        tag.active = tag.canceled = false;
        tag.owner = 0;
      }
    }
    device.memory_of = 0;
    device.opener = -1;
  }

  void give_up_char(Process& process, pid_t pid) {
    if (!process.device) return;
    const DevicePtr device = std::exchange(process.device, nullptr);
    process.inbox.clear();
    // A ring that never exits keeps its reference to the file for good.
    if (ring_exits(*device, pid)) drop_file_reference(device);
  }

  void kill(pid_t pid) {
    Process* process = find_process(pid);
    if (process == nullptr || !process->alive) return;
    process->alive = false;
    process->exited.signal();
    give_up_char(*process, pid);
    changed();
  }

  // ---- the server's side ------------------------------------------------------------------------

  Result<void> fetch(pid_t pid, uint16_t q, uint16_t t) {
    Process& process = *find_process(pid);
    const auto refuse = [q, t](int err, const char* why) {
      return Error{err, "fetch", "queue " + std::to_string(q) + " tag " + std::to_string(t), why};
    };
    if (!process.device) return refuse(EBADF, "the char device is not open");
    Device& device = *process.device;
    if (q >= device.queues.size() || t >= device.queues[q].tags.size())
      return refuse(EINVAL, "no such tag");
    Queue& queue = device.queues[q];
    Tag& tag = queue.tags[t];
    if (is_7_2()) {
      if (ready(device)) return refuse(EBUSY, "the device is complete");
      if (tag.active) return refuse(EINVAL, "fetched already");
    } else {
      if (queue.daemon != 0 && queue.daemon != pid) return refuse(EINVAL, "another's queue");
      if (tag.active || queue.complete()) return refuse(EBUSY, "fetched already");
    }
    tag.active = true;
    tag.canceled = false;
    tag.owner = pid;
    ++queue.ready;
    if (queue.complete()) {
      if (is_7_2()) {
        queue.canceling = queue.fail_io = false;
      } else {
        queue.daemon = pid;
        if (++device.queues_ready == device.queues.size()) device.completion = true;
      }
    }
    changed();
    return {};
  }
};

// ---- control commands ---------------------------------------------------------------------------

namespace {

class FakeControlDevice final : public ControlDevice {
 public:
  explicit FakeControlDevice(std::shared_ptr<FakeKernelState> kernel)
      : kernel_(std::move(kernel)) {}

  Result<uint64_t> features(CallLimit) override {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    if (const int err = enter("get_features"); err != 0)
      return refuse("get_features", err, nullptr, AddRequest::any_id);
    return kernel_->is_7_2() ? features_7_2 : features_6_12;
  }

  Result<DeviceInfo> add(const AddRequest& wanted, CallLimit limit) override {
    std::unique_lock<std::mutex> lock(kernel_->mutex);
    if (const int err = enter("add_dev"); err != 0)
      return refuse("add_dev", err, nullptr, wanted.id);
    const Geometry& geometry = wanted.geometry;
    const bool fits = geometry.queues >= 1 && geometry.queues <= abi::queues_max &&
                      geometry.queue_depth >= 1 && geometry.queue_depth <= abi::queue_depth_max &&
                      (wanted.id == AddRequest::any_id || wanted.id < ids_max) &&
                      legal(wanted.flags);
    if (!fits) return refuse_add(EINVAL, wanted);
    if (const int why = kernel_->wait(lock, limit, [this] { return !kernel_->control_mutex; });
        why != 0)
      return early("add_dev", why, wanted.id);

    DeviceId id = wanted.id;
    if (id == AddRequest::any_id) {
      id = 0;
      while (kernel_->devices.contains(id)) ++id;
    }
    if (kernel_->devices.contains(id)) return refuse_add(EEXIST, wanted);
    auto device = std::make_shared<Device>();
    device->serial = kernel_->next_serial++;
    device->info.id = id;
    device->info.queues = static_cast<uint16_t>(std::min<unsigned>(geometry.queues, kernel_->cpus));
    device->info.queue_depth = geometry.queue_depth;
    device->info.max_io_bytes = geometry.max_io_bytes / 4096 * 4096;
    device->info.identity = wanted.identity;
    device->info.flags = granted(wanted.flags);
    device->queues.resize(device->info.queues);
    for (Queue& queue : device->queues) queue.tags.resize(device->info.queue_depth);
    kernel_->devices.emplace(id, device);
    return device->info;
  }

  Result<void> set_params(DeviceId id, const Geometry& geometry, CallLimit limit) override {
    Result<abi::Params> params = to_params(geometry, object_name(id));
    if (!params) return std::move(params).error();
    return with_mutex("set_params", id, limit, [&](Device& device) {
      if (device.used()) return EACCES;
      if (uint64_t{params->basic.max_sectors} * 512 > device.info.max_io_bytes) {
        device.params = abi::Params{};
        return EINVAL;
      }
      device.params = *params;
      return 0;
    });
  }

  Result<Geometry> params(DeviceId id, CallLimit limit) override {
    Geometry geometry;
    const Result<void> done = with_mutex("get_params", id, limit, [&](Device& device) {
      geometry = from_params(device.params);
      geometry.queues = device.info.queues;
      geometry.queue_depth = device.info.queue_depth;
      geometry.max_io_bytes = device.info.max_io_bytes;
      return 0;
    });
    if (!done) return done.error();
    return geometry;
  }

  Result<DeviceInfo> info(DeviceId id, CallLimit) override {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    const DevicePtr device = kernel_->find_device(id);
    if (const int err = enter("get_dev_info2"); err != 0)
      return refuse("get_dev_info2", err, device, id);
    if (!device) return refuse("get_dev_info2", ENODEV, nullptr, id);
    return snapshot(*device);
  }

  Result<std::vector<unsigned>> queue_affinity(DeviceId id, uint16_t queue, CallLimit) override {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    const DevicePtr device = kernel_->find_device(id);
    int err = enter("get_queue_affinity");
    if (err == 0 && !device) err = ENODEV;
    if (err == 0 && queue >= device->queues.size()) err = EINVAL;
    if (err != 0) return refuse("get_queue_affinity", err, device, id);
    std::vector<unsigned> cpus;
    for (unsigned cpu = 0; cpu < kernel_->cpus; ++cpu) {
      if (cpu * device->queues.size() / kernel_->cpus == queue) cpus.push_back(cpu);
    }
    return cpus;
  }

  Result<void> start(DeviceId id, pid_t server_pid, CallLimit limit) override {
    return command("start_dev", id, limit, [&](Device& device) -> std::optional<int> {
      if (server_pid <= 0 || (device.params.types & abi::param::basic) == 0) return EINVAL;
      if (!kernel_->ready(device) || kernel_->mutex_held(device)) return std::nullopt;
      if (!opened_by(device, server_pid)) return EINVAL;
      if (device.info.state == DeviceState::live || device.used()) return EEXIST;
      device.disk = kernel_->next_serial++;
      device.info.state = DeviceState::live;
      device.info.server_pid = server_pid;
      return 0;
    });
  }

  Result<void> stop(DeviceId id, CallLimit limit) override {
    bool begun = false;
    return command("stop_dev", id, limit, [&](Device& device) { return run_stop(device, begun); });
  }

  Result<void> try_stop(DeviceId id, CallLimit limit) override {
    bool begun = false;
    return command("try_stop_dev", id, limit, [&](Device& device) -> std::optional<int> {
      if (!kernel_->is_7_2()) return EOPNOTSUPP;
      if (!begun) {
        if (device.disk == 0) return ENODEV;
        if (device.disk_files.contains(device.disk)) return EBUSY;
      }
      return run_stop(device, begun);
    });
  }

  Result<void> remove(DeviceId id, CallLimit limit) override {
    return run_remove("del_dev", id, limit);
  }
  Result<void> remove_async(DeviceId id, CallLimit limit) override {
    return run_remove("del_dev_async", id, limit);
  }

  Result<void> begin_recovery(DeviceId id, CallLimit limit) override {
    return with_mutex("start_user_recovery", id, limit, [this](Device& device) {
      if (!kernel_->recovers(device)) return EINVAL;
      if (!kernel_->is_7_2() && device.queues_ready == 0) return EINVAL;
      if (device.open || !device.recoverable_state()) return EBUSY;
      if (kernel_->is_7_2()) return 0;
      for (const Queue& queue : device.queues) {
        if (queue.daemon != 0) continue;
        kernel_->crash =
            "START_USER_RECOVERY of " + object_name(device.info.id) +
            " with some queues ready and some not: NULL dereference in ublk_queue_reinit";
        return EIO;
      }
      FakeKernelState::reset(device);
      for (Queue& queue : device.queues) queue.canceling = false;
      device.queues_ready = 0;
      device.completion = false;
      return 0;
    });
  }

  Result<void> end_recovery(DeviceId id, pid_t server_pid, CallLimit limit) override {
    return command("end_user_recovery", id, limit, [&](Device& device) -> std::optional<int> {
      if (!kernel_->ready(device) || kernel_->mutex_held(device)) return std::nullopt;
      if (!opened_by(device, server_pid)) return EINVAL;
      if (!kernel_->recovers(device)) return EINVAL;
      if (!device.recoverable_state()) return EBUSY;
      device.info.state = DeviceState::live;
      device.info.server_pid = server_pid;
      device.block_queue_quiesced = false;
      kernel_->kick(device);
      return 0;
    });
  }

  Result<void> quiesce(DeviceId id, std::chrono::milliseconds, CallLimit limit) override {
    return with_mutex("quiesce_dev", id, limit, [this](Device& device) {
      if (!kernel_->is_7_2() || (device.info.flags & flags::quiesce) == 0) return EOPNOTSUPP;
      if (device.disk == 0) return ENODEV;
      if (device.info.state != DeviceState::live) return 0;
      FakeKernelState::set_canceling(device);
      kernel_->cancel_fetches(device);
      return 0;
    });
  }

  Result<void> update_size(DeviceId id, uint64_t size_bytes, CallLimit limit) override {
    return with_mutex("update_size", id, limit, [this, size_bytes](Device& device) {
      if (!kernel_->is_7_2()) return EOPNOTSUPP;
      if (device.disk == 0) return ENODEV;
      device.params.basic.dev_sectors = size_bytes / 512;
      return 0;
    });
  }

  Result<std::vector<DeviceId>> list() override {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    std::vector<DeviceId> ids;
    for (const auto& [id, device] : kernel_->devices) {
      if (!device->deleted) ids.push_back(id);
    }
    return ids;
  }

 private:
  // ublk_ctrl_add_dev: combinations of flags that 7.2 knows to be nonsense.
  [[nodiscard]] bool legal(uint64_t wanted) const {
    if (!kernel_->is_7_2()) return true;
    const uint64_t mode = recovery_bits(wanted);
    const bool known = mode == 0 || mode == flags::user_recovery ||
                       mode == (flags::user_recovery | flags::user_recovery_reissue) ||
                       mode == (flags::user_recovery | flags::user_recovery_fail_io);
    const bool quiesce_alone =
        (wanted & flags::quiesce) != 0 && (wanted & flags::user_recovery) == 0;
    const bool integrity_alone =
        (wanted & flags::integrity) != 0 && (wanted & flags::user_copy) == 0;
    return known && !quiesce_alone && !integrity_alone;
  }

  [[nodiscard]] uint64_t granted(uint64_t wanted) const {
    uint64_t bits = wanted & ~flags::unprivileged;  // the caller is root
    if (!kernel_->is_7_2())
      return (bits & features_6_12) | flags::ioctl_encode | flags::complete_in_task;
    bits = (bits & features_7_2) | flags::ioctl_encode | flags::complete_in_task |
           flags::per_io_daemon | flags::buf_reg_off_daemon | flags::safe_stop_dev;
    if ((bits & flags::batch_io) != 0) bits &= ~(flags::per_io_daemon | flags::need_get_data);
    if ((bits & (flags::user_copy | flags::supports_zero_copy | flags::auto_buf_reg)) != 0)
      bits &= ~flags::need_get_data;
    return bits;
  }

  // ublk_validate_user_pid; 6.12 believes what it is told.
  [[nodiscard]] bool opened_by(const Device& device, pid_t pid) const {
    if (!kernel_->is_7_2()) return true;
    return device.opener == pid && kernel_->find_process(pid) != nullptr;
  }

  [[nodiscard]] DeviceInfo snapshot(const Device& device) const {
    DeviceInfo info = device.info;
    if (kernel_->is_7_2() && kernel_->find_process(info.server_pid) == nullptr)
      info.server_pid = -1;
    return info;
  }

  // Counts the call; an errno: what fail_next() asked for.
  int enter(const std::string& operation) {
    ++kernel_->calls[operation];
    const auto injected = kernel_->failures.extract(operation);
    return injected.empty() ? 0 : injected.mapped();
  }

  [[nodiscard]] Error refuse(const char* operation, int err, const DevicePtr& device, DeviceId id) {
    Verdict verdict{operation, err, id, std::nullopt, 0};
    if (device) verdict.device = snapshot(*device);
    const std::string object =
        id == AddRequest::any_id ? std::string(abi::kControlPath) : object_name(id);
    return Error{err, operation, object, explain(verdict)};
  }

  [[nodiscard]] static Error refuse_add(int err, const AddRequest& wanted) {
    const std::string object =
        wanted.id == AddRequest::any_id ? std::string(abi::kControlPath) : object_name(wanted.id);
    return Error{err, "add_dev", object,
                 explain(Verdict{"add_dev", err, wanted.id, std::nullopt, wanted.flags})};
  }

  [[nodiscard]] static Error early(const char* operation, int err, DeviceId id) {
    return Error{err, operation, object_name(id),
                 err == ETIMEDOUT ? "the deadline passed" : "what it waited for went away"};
  }

  // A command on one device: `attempt` returns an errno (0: done), or nothing while it must wait.
  template <typename Attempt>
  Result<void> command(const char* operation, DeviceId id, CallLimit limit,
                       const Attempt& attempt) {
    int err = 0;
    int why = 0;
    DevicePtr device;
    {
      std::unique_lock<std::mutex> lock(kernel_->mutex);
      device = kernel_->find_device(id);
      if (const int injected = enter(operation); injected != 0)
        return refuse(operation, injected, device, id);
      if (!device) return refuse(operation, ENODEV, nullptr, id);
      ++device->command_references;
      why = kernel_->wait(lock, limit, [&] {
        const std::optional<int> verdict = attempt(*device);
        if (verdict) err = *verdict;
        return verdict.has_value();
      });
      --device->command_references;
      kernel_->free_if_unused(*device);
      kernel_->changed();
    }
    kernel_->deliver_releases();
    if (why != 0) return early(operation, why, id);
    if (err == 0) return {};
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    return refuse(operation, err, device, id);
  }

  // ... that takes the device mutex and never waits otherwise.
  template <typename Body>
  Result<void> with_mutex(const char* operation, DeviceId id, CallLimit limit, const Body& body) {
    return command(operation, id, limit, [&](Device& device) -> std::optional<int> {
      if (kernel_->mutex_held(device)) return std::nullopt;
      return body(device);
    });
  }

  std::optional<int> run_stop(Device& device, bool& begun) {
    if (!begun) {
      if (kernel_->mutex_held(device)) return std::nullopt;
      begun = true;
      kernel_->begin_stop(device);
    }
    if (device.stop_pending) return std::nullopt;
    return 0;
  }

  Result<void> run_remove(const char* operation, DeviceId id, CallLimit limit) {
    std::unique_lock<std::mutex> lock(kernel_->mutex);
    const DevicePtr device = kernel_->find_device(id);
    if (const int injected = enter(operation); injected != 0)
      return refuse(operation, injected, device, id);
    if (!device) return refuse(operation, ENODEV, nullptr, id);
    const bool async = std::string_view(operation) == "del_dev_async";
    bool begun = false;
    const int why = kernel_->wait(lock, limit, [&] {
      if (!begun) {
        if (kernel_->control_mutex || kernel_->mutex_held(*device)) return false;
        begun = true;
        if (!device->deleted) {
          kernel_->control_mutex = true;
          device->delete_pending = true;
          kernel_->begin_stop(*device);
        }
      }
      if (!device->deleted) return false;
      return async || !kernel_->find_device(id, device->serial);
    });
    if (why != 0) return early(operation, why, id);
    return {};
  }

  std::shared_ptr<FakeKernelState> kernel_;
};

}  // namespace

// ---- handles ------------------------------------------------------------------------------------

FakeCharCopy::FakeCharCopy(std::shared_ptr<FakeKernelState> kernel, DeviceId id,
                           uint64_t device_serial)
    : kernel_(std::move(kernel)), id_(id), device_serial_(device_serial) {}
FakeCharCopy::FakeCharCopy(FakeCharCopy&& other) noexcept = default;
FakeCharCopy::~FakeCharCopy() {
  if (!kernel_) return;
  {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    if (const DevicePtr device = kernel_->find_device(id_, device_serial_))
      kernel_->drop_file_reference(device);
  }
  kernel_->deliver_releases();
}

FakeBlockFile::FakeBlockFile(std::shared_ptr<FakeKernelState> kernel, DeviceId id,
                             uint64_t disk_serial)
    : kernel_(std::move(kernel)), id_(id), disk_serial_(disk_serial) {}
FakeBlockFile::FakeBlockFile(FakeBlockFile&& other) noexcept = default;
FakeBlockFile::~FakeBlockFile() {
  if (!kernel_) return;
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const DevicePtr device = kernel_->find_device(id_);
  if (!device) return;
  const auto files = device->disk_files.find(disk_serial_);
  if (files == device->disk_files.end()) return;
  if (--files->second == 0) device->disk_files.erase(files);
  kernel_->free_if_unused(*device);
  kernel_->changed();
}

std::future<int> FakeBlockFile::submit(FakeIo io) {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  auto request = std::make_unique<Request>();
  request->io = io;
  std::future<int> done = request->done.get_future();
  const DevicePtr device = kernel_->find_device(id_);
  if (!device || device->disk != disk_serial_) {
    request->done.set_value(io.write ? ENOSPC : end_of_disk);
    return done;
  }
  device->waiting.push_back(std::move(request));
  kernel_->pump(*device);
  return done;
}

FakeServer::FakeServer(std::shared_ptr<FakeKernelState> kernel, pid_t pid)
    : kernel_(std::move(kernel)), pid_(pid) {}
FakeServer::FakeServer(FakeServer&& other) noexcept = default;
FakeServer::~FakeServer() {
  if (!kernel_) return;
  kill();
  reap();
}

int FakeServer::pidfd() const {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  return kernel_->find_process(pid_)->exited.fd();
}

Result<void> FakeServer::open_char(DeviceId id) {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const DevicePtr device = kernel_->find_device(id);
  if (!device || device->deleted) return Error{ENOENT, "open", char_path(id), "no such device"};
  if (device->open) return Error{EBUSY, "open", char_path(id), "somebody has it open"};
  Process* process = kernel_->find_process(pid_);
  UBLK_CHECK(process != nullptr && process->alive && !process->device);
  device->open = true;
  device->file_references = 1;
  device->opener = pid_;
  process->device = device;
  kernel_->changed();
  return {};
}

Result<void> FakeServer::map() {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const Process* process = kernel_->find_process(pid_);
  UBLK_CHECK(process != nullptr && process->device);
  Device& device = *process->device;
  if (device.memory_of == 0) device.memory_of = pid_;
  if (device.memory_of != pid_)
    return Error{EINVAL, "mmap", char_path(device.info.id),
                 "another process's memory is still bound to the device"};
  return {};
}

Result<void> FakeServer::fetch(uint16_t queue, uint16_t tag) {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  return kernel_->fetch(pid_, queue, tag);
}

Result<void> FakeServer::fetch_all() {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const Process* process = kernel_->find_process(pid_);
  UBLK_CHECK(process != nullptr && process->device);
  const DeviceInfo& info = process->device->info;
  for (uint16_t queue = 0; queue < info.queues; ++queue) {
    for (uint16_t tag = 0; tag < info.queue_depth; ++tag) {
      if (Result<void> fetched = kernel_->fetch(pid_, queue, tag); !fetched) return fetched;
    }
  }
  return {};
}

Result<void> FakeServer::serve(DeviceId id) {
  if (Result<void> opened = open_char(id); !opened) return opened;
  if (Result<void> mapped = map(); !mapped) return mapped;
  return fetch_all();
}

Result<FakeDelivery> FakeServer::next(CallLimit limit) {
  std::unique_lock<std::mutex> lock(kernel_->mutex);
  std::optional<FakeDelivery> delivery;
  const int why = kernel_->wait(lock, limit, [&] {
    Process* process = kernel_->find_process(pid_);
    if (process == nullptr || process->inbox.empty()) return false;
    delivery = process->inbox.front();
    process->inbox.pop_front();
    return true;
  });
  if (why != 0) return Error{why, "next", "server " + std::to_string(pid_), "no completion came"};
  return *delivery;
}

Result<void> FakeServer::commit(uint16_t queue, uint16_t tag, int err) {
  {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    const Process* process = kernel_->find_process(pid_);
    UBLK_CHECK(process != nullptr && process->device);
    Device& device = *process->device;
    if (queue >= device.queues.size() || tag >= device.queues[queue].tags.size() ||
        !device.queues[queue].tags[tag].owned || device.queues[queue].tags[tag].owner != pid_)
      return Error{EINVAL, "commit", object_name(device.info.id), "the tag is not in our hands"};
    Tag& slot = device.queues[queue].tags[tag];
    slot.active = true;
    slot.canceled = false;
    kernel_->end_request(device, std::move(slot.owned), err);
    kernel_->advance(device);
  }
  kernel_->deliver_releases();
  return {};
}

FakeCharCopy FakeServer::copy_char() {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const Process* process = kernel_->find_process(pid_);
  UBLK_CHECK(process != nullptr && process->device);
  ++process->device->file_references;
  return {kernel_, process->device->info.id, process->device->serial};
}

void FakeServer::close_char() {
  {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    if (Process* process = kernel_->find_process(pid_)) kernel_->give_up_char(*process, pid_);
  }
  kernel_->deliver_releases();
}

void FakeServer::kill() {
  {
    const std::lock_guard<std::mutex> guard(kernel_->mutex);
    kernel_->kill(pid_);
  }
  kernel_->deliver_releases();
}

void FakeServer::reap() {
  const std::lock_guard<std::mutex> guard(kernel_->mutex);
  const Process* process = kernel_->find_process(pid_);
  if (process != nullptr && !process->alive) kernel_->processes.erase(pid_);
}

FakeKernel::FakeKernel(FakePersonality personality, unsigned cpus)
    : state_(std::make_shared<FakeKernelState>(personality, cpus)) {}

std::unique_ptr<ControlDevice> FakeKernel::open_control() const {
  return std::make_unique<FakeControlDevice>(state_);
}

FakeServer FakeKernel::spawn_server() const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  const pid_t pid = state_->next_pid++;
  state_->processes.emplace(pid, std::make_unique<Process>(new_event()));
  return {state_, pid};
}

Result<FakeBlockFile> FakeKernel::open_block(DeviceId id) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  const DevicePtr device = state_->find_device(id);
  if (!device || device->disk == 0) return Error{ENOENT, "open", block_path(id), "no such disk"};
  ++device->disk_files[device->disk];
  return FakeBlockFile(state_, id, device->disk);
}

void FakeKernel::on_release(std::function<void(DeviceId)> listener) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  state_->release_listener = std::move(listener);
}

void FakeKernel::hold_release(DeviceId id) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  if (const DevicePtr device = state_->find_device(id)) device->release_held = true;
}

void FakeKernel::let_release(DeviceId id) const {
  {
    const std::lock_guard<std::mutex> guard(state_->mutex);
    const DevicePtr device = state_->find_device(id);
    if (!device) return;
    device->release_held = false;
    if (device->release_due) state_->release(*device);
  }
  state_->deliver_releases();
}

void FakeKernel::fire_request_timeout(DeviceId id) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  const DevicePtr device = state_->find_device(id);
  if (!device || state_->is_7_2()) return;
  for (Queue& queue : device->queues) {
    const Process* daemon = state_->find_process(queue.daemon);
    const bool dying = queue.daemon != 0 && (daemon == nullptr || !daemon->alive);
    const bool all_out = std::none_of(queue.tags.begin(), queue.tags.end(),
                                      [](const Tag& tag) { return tag.active; });
    if (dying && all_out) state_->abort_queue_6_12(*device, queue);
  }
  state_->advance(*device);
}

void FakeKernel::fail_next(const std::string& operation, int err) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  state_->failures[operation] = err;
}

unsigned FakeKernel::calls(const std::string& operation) const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  const auto found = state_->calls.find(operation);
  return found == state_->calls.end() ? 0 : found->second;
}

std::string FakeKernel::crash() const {
  const std::lock_guard<std::mutex> guard(state_->mutex);
  return state_->crash;
}

}  // namespace ublk_operator
