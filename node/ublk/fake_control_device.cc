// The control commands of the fake: which it accepts, and what they do to its state.
#include "node/ublk/fake_control_device.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "node/ublk/abi.h"
#include "node/ublk/explain.h"
#include "node/ublk/fake_kernel_state.h"
#include "node/ublk/geometry.h"
#include "node/ublk/modes.h"

namespace ublk_operator {

using namespace fake;

namespace {

constexpr uint64_t features_6_12 = flags::complete_in_task | flags::need_get_data |
                                   flags::user_recovery | flags::user_recovery_reissue |
                                   flags::unprivileged | flags::ioctl_encode | flags::user_copy |
                                   flags::zoned;
constexpr uint64_t features_7_2 = 0xfffff;
constexpr DeviceId ids_max = 1 << 20;

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

std::unique_ptr<ControlDevice> FakeKernel::open_control() const {
  return std::make_unique<FakeControlDevice>(state_);
}

}  // namespace ublk_operator
