#include "node/ublk/control_device.h"

#include <dirent.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "node/ublk/abi.h"
#include "node/ublk/explain.h"
#include "node/ublk/geometry.h"

namespace ublk_operator {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// One command is in flight at a time; the rest of the ring is for cancellations and orphans.
constexpr unsigned ring_entries = 32;
// Commands that the kernel would not let go of. Each pins an io-wq worker of this thread, of which
// there are few (min(SQ size, 4 x CPUs)): past this, the instance says so instead of hanging.
constexpr size_t orphans_max = 8;
static_assert(ring_entries > 2 * orphans_max);
// How long a cancelled command may take to say so. An interruptible wait ends at once; what takes
// longer sleeps uninterruptibly and may do so for good.
constexpr auto cancel_grace = 250ms;
// user_data of cancellations; commands count on from here.
constexpr uint64_t cancel_token = 0;
// Reading the state for an error's sentence must not cost more than the error is worth.
constexpr auto state_for_detail_timeout = 500ms;
constexpr uint64_t sector_bytes = 512;

// Everything the kernel may read or write while a command runs. On the heap, because a command that
// outlives its deadline keeps using it.
struct Request {
  uint32_t opcode = 0;
  abi::CtrlCmd command{};
  std::vector<std::byte> buffer;
  const char* operation = "";
  DeviceId id = 0;
};

bool is_readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, 0) > 0 && entry.revents != 0;
}

int remaining_ms(Clock::time_point by) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(by - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, INT32_MAX));
}

template <typename T>
std::vector<std::byte> bytes_of(const T& value) {
  std::vector<std::byte> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

template <typename T>
T from_bytes(const std::vector<std::byte>& bytes, size_t offset = 0) {
  T value{};
  UBLK_CHECK(bytes.size() >= offset + sizeof value);
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// GET_FEATURES and an ADD_DEV that leaves the id to the driver name no device.
std::string object_of(DeviceId id) {
  return id == AddRequest::any_id ? std::string(abi::kControlPath) : object_name(id);
}

// What is left of a limit, for the second of several commands.
CallLimit rest_of(CallLimit limit, Clock::time_point begun) {
  const auto spent = std::chrono::ceil<std::chrono::milliseconds>(Clock::now() - begun);
  return {std::max(limit.timeout - spent, 0ms), limit.cancel_fd};
}

DeviceInfo to_info(const abi::DevInfo& raw) {
  DeviceInfo info;
  info.id = raw.dev_id;
  info.state = static_cast<DeviceState>(raw.state);
  info.queues = raw.nr_hw_queues;
  info.queue_depth = raw.queue_depth;
  info.max_io_bytes = raw.max_io_buf_bytes;
  info.flags = raw.flags;
  info.identity = raw.ublksrv_flags;
  info.server_pid = raw.ublksrv_pid;
  info.owner_uid = raw.owner_uid;
  info.owner_gid = raw.owner_gid;
  return info;
}

// The ring and the commands on it: one that is being waited for, and orphans: commands that did not
// end when they were cancelled (an uninterruptible wait in the driver). Their memory stays theirs
// until their completion arrives.
class CommandRing {
 public:
  static Result<std::unique_ptr<CommandRing>> create(UniqueFd control) {
    auto ring = std::unique_ptr<CommandRing>(new CommandRing(std::move(control)));
    io_uring_params params{};
    params.flags = IORING_SETUP_SQE128;
    const int err = io_uring_queue_init_params(ring_entries, &ring->ring_, &params);
    if (err == 0) {
      ring->open_ = true;
      return ring;
    }
    const char* detail = "";
    if (err == -EPERM) {
      detail =
          "io_uring is not permitted here: set kernel.io_uring_disabled=0, and allow "
          "io_uring_setup "
          "in the container's seccomp profile";
    } else if (err == -ENOMEM) {
      detail = "no locked memory left for an io_uring: raise RLIMIT_MEMLOCK";
    } else if (err == -EINVAL || err == -ENOSYS) {
      detail = "this kernel's io_uring lacks SQE128: Linux 6.0 or newer is needed";
    }
    return Error{-err, "io_uring_setup", abi::kControlPath, detail};
  }

  CommandRing(const CommandRing&) = delete;
  CommandRing& operator=(const CommandRing&) = delete;

  ~CommandRing() {
    if (!open_) return;
    io_uring_queue_exit(&ring_);
    // The kernel may still write into what an orphan points at, however long that takes, and no
    // completion will tell when: that memory is given up on purpose (orphans_max bounds it).
    for (auto& [token, request] : orphans_) {
      [[maybe_unused]] const Request* given_up = request.release();
    }
  }

  // Success returns the request, for what the kernel wrote into its buffer. The error's detail is
  // empty when the errno is the kernel's own verdict.
  Result<std::unique_ptr<Request>> run(std::unique_ptr<Request> request, CallLimit limit) {
    const Clock::time_point by = Clock::now() + std::max(limit.timeout, 0ms);
    reap();
    if (orphans_.size() >= orphans_max) return too_many_orphans(*request);
    if (limit.cancel_fd >= 0 && is_readable(limit.cancel_fd))
      return ended_early(*request, ECANCELED, "nothing was sent");

    current_ = next_token_++;
    result_.reset();
    if (const int err = submit_command(*request); err < 0)
      return Error{-err, request->operation, object_of(request->id),
                   "io_uring refused the submission; nothing was sent"};

    const int why = wait(by, limit.cancel_fd);
    if (why != 0) {
      submit_cancel();
      if (wait(Clock::now() + cancel_grace, -1) != 0) {
        Error error =
            ended_early(*request, why,
                        "the kernel does not let go of the command, so it goes on and its "
                        "outcome is unknown: read the state before acting again");
        orphans_.emplace(current_, std::move(request));
        return error;
      }
    }
    if (*result_ >= 0) return request;  // it made it, whatever was tried in the meantime
    if (why != 0 && (*result_ == -EINTR || *result_ == -ECANCELED))
      return ended_early(*request, why,
                         "the command was cancelled: read the state before acting again");
    return Error{-*result_, request->operation, object_of(request->id), ""};
  }

 private:
  explicit CommandRing(UniqueFd control) : control_(std::move(control)) {}

  io_uring_sqe* next_sqe() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    UBLK_CHECK(sqe != nullptr);  // each one is submitted before the next is taken
    std::memset(static_cast<void*>(sqe), 0, 2 * sizeof *sqe);  // SQE128: two slots each
    return sqe;
  }

  int submit() {
    int err = 0;
    do {
      err = io_uring_submit(&ring_);
    } while (err == -EINTR);
    return err;
  }

  int submit_command(const Request& request) {
    io_uring_sqe* sqe = next_sqe();
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = control_.get();
    sqe->cmd_op = request.opcode;
    sqe->user_data = current_;
    // The command area begins where addr3 stands in a plain SQE (linux/io_uring.h).
    std::memcpy(reinterpret_cast<std::byte*>(sqe) + offsetof(io_uring_sqe, addr3), &request.command,
                sizeof request.command);
    const int err = submit();
    if (err < 0) {
      // It stays in the submission queue, and would go out with the next command.
      sqe->opcode = IORING_OP_NOP;
      sqe->user_data = cancel_token;
    }
    return err;
  }

  void submit_cancel() {
    io_uring_sqe* sqe = next_sqe();
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = current_;
    sqe->user_data = cancel_token;
    // Its own answer says nothing (EALREADY for a wait that it ended): the command's does.
    static_cast<void>(submit());
  }

  void reap() {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0 && cqe != nullptr) {
      if (cqe->user_data == current_) result_ = cqe->res;
      orphans_.erase(cqe->user_data);
      io_uring_cqe_seen(&ring_, cqe);
    }
  }

  // 0: the current command ended; ETIMEDOUT, ECANCELED: it has not.
  int wait(Clock::time_point by, int cancel_fd) {
    for (;;) {
      reap();
      if (result_) return 0;
      // The ring's own descriptor is readable while it has completions.
      std::array<pollfd, 2> entries{{{ring_.ring_fd, POLLIN, 0}, {cancel_fd, POLLIN, 0}}};
      const int ready = ::poll(entries.data(), entries.size(), remaining_ms(by));
      if (ready == 0) return ETIMEDOUT;
      if (ready > 0 && entries[0].revents == 0 && entries[1].revents != 0) return ECANCELED;
    }
  }

  static Error ended_early(const Request& request, int err, const char* what) {
    const char* why = err == ETIMEDOUT ? "the deadline passed; " : "what it waited for went away; ";
    return Error{err, request.operation, object_of(request.id), std::string(why) + what};
  }

  Error too_many_orphans(const Request& request) const {
    const Request& oldest = *orphans_.begin()->second;
    return Error{
        EAGAIN, request.operation, object_of(request.id),
        std::to_string(orphans_.size()) +
            " earlier commands never came back from the kernel (the first: " + oldest.operation +
            " of " + object_of(oldest.id) + "): end the server that hangs, then try again"};
  }

  UniqueFd control_;
  io_uring ring_{};
  bool open_ = false;
  uint64_t next_token_ = cancel_token + 1;
  uint64_t current_ = cancel_token;
  std::optional<int> result_;  // of the current command
  std::map<uint64_t, std::unique_ptr<Request>> orphans_;
};

class KernelControlDevice final : public ControlDevice {
 public:
  explicit KernelControlDevice(std::unique_ptr<CommandRing> ring) : ring_(std::move(ring)) {}

  Result<uint64_t> features(CallLimit limit) override {
    auto request = make("get_features", abi::get_features, AddRequest::any_id);
    with_buffer(*request, std::vector<std::byte>(abi::features_len));
    Result<Reply> reply = call(std::move(request), limit);
    if (!reply) return std::move(reply).error();
    return from_bytes<uint64_t>((*reply)->buffer);
  }

  Result<DeviceInfo> add(const AddRequest& wanted, CallLimit limit) override {
    abi::DevInfo raw{};
    raw.nr_hw_queues = wanted.geometry.queues;
    raw.queue_depth = wanted.geometry.queue_depth;
    raw.max_io_buf_bytes = wanted.geometry.max_io_bytes;
    raw.dev_id = wanted.id;
    raw.flags = wanted.flags;
    raw.ublksrv_flags = wanted.identity;
    auto request = make("add_dev", abi::add_dev, wanted.id);
    with_buffer(*request, bytes_of(raw));
    Result<Reply> reply = call(std::move(request), limit, wanted.flags);
    if (!reply) return std::move(reply).error();
    return to_info(from_bytes<abi::DevInfo>((*reply)->buffer));
  }

  Result<void> set_params(DeviceId id, const Geometry& geometry, CallLimit limit) override {
    Result<abi::Params> params = to_params(geometry, object_name(id));
    if (!params) return std::move(params).error();
    auto request = make("set_params", abi::set_params, id);
    with_buffer(*request, bytes_of(*params));
    return done(call(std::move(request), limit));
  }

  Result<Geometry> params(DeviceId id, CallLimit limit) override {
    const Clock::time_point begun = Clock::now();
    Result<DeviceInfo> device = info(id, limit);
    if (!device) return std::move(device).error();
    abi::Params raw{};
    raw.len = sizeof raw;
    auto request = make("get_params", abi::get_params, id);
    with_buffer(*request, bytes_of(raw));
    Result<Reply> reply = call(std::move(request), rest_of(limit, begun));
    if (!reply) return std::move(reply).error();
    Geometry geometry = from_params(from_bytes<abi::Params>((*reply)->buffer));
    geometry.queues = device->queues;
    geometry.queue_depth = device->queue_depth;
    geometry.max_io_bytes = device->max_io_bytes;
    return geometry;
  }

  Result<DeviceInfo> info(DeviceId id, CallLimit limit) override {
    // GET_DEV_INFO2 wants the char device's path even for privileged devices, and looks it up in
    // our mount namespace. A container's /dev may not show the node (yet): plain GET_DEV_INFO
    // answers the same for privileged devices, and with the kernel's own error for others.
    const Clock::time_point begun = Clock::now();
    const std::string path = char_path(id);
    const size_t path_bytes = path.size() + 1;
    auto request = make("get_dev_info2", abi::get_dev_info2, id);
    std::vector<std::byte> buffer(path_bytes + sizeof(abi::DevInfo));
    std::memcpy(buffer.data(), path.c_str(), path_bytes);
    request->command.dev_path_len = static_cast<uint16_t>(path_bytes);
    with_buffer(*request, std::move(buffer));
    Result<Reply> reply = call(std::move(request), limit);
    if (reply) return to_info(from_bytes<abi::DevInfo>((*reply)->buffer, path_bytes));
    const int err = reply.err();
    if (err == ENODEV || err == ETIMEDOUT || err == ECANCELED) return std::move(reply).error();

    request = make("get_dev_info", abi::get_dev_info, id);
    with_buffer(*request, std::vector<std::byte>(sizeof(abi::DevInfo)));
    reply = call(std::move(request), rest_of(limit, begun));
    if (!reply) return std::move(reply).error();
    return to_info(from_bytes<abi::DevInfo>((*reply)->buffer));
  }

  Result<std::vector<unsigned>> queue_affinity(DeviceId id, uint16_t queue,
                                               CallLimit limit) override {
    auto request = make("get_queue_affinity", abi::get_queue_affinity, id);
    request->command.data[0] = queue;
    with_buffer(*request, std::vector<std::byte>(cpu_mask_bytes));
    Result<Reply> reply = call(std::move(request), limit);
    if (!reply) return std::move(reply).error();
    std::vector<unsigned> cpus;
    for (size_t byte = 0; byte < cpu_mask_bytes; ++byte) {
      for (unsigned bit = 0; bit < 8; ++bit) {
        if ((std::to_integer<unsigned>((*reply)->buffer[byte]) >> bit & 1u) != 0)
          cpus.push_back(static_cast<unsigned>(byte) * 8 + bit);
      }
    }
    return cpus;
  }

  Result<void> start(DeviceId id, pid_t server_pid, CallLimit limit) override {
    return simple("start_dev", abi::start_dev, id, static_cast<uint64_t>(server_pid), limit);
  }
  Result<void> stop(DeviceId id, CallLimit limit) override {
    return simple("stop_dev", abi::stop_dev, id, 0, limit);
  }
  Result<void> try_stop(DeviceId id, CallLimit limit) override {
    return simple("try_stop_dev", abi::try_stop_dev, id, 0, limit);
  }
  Result<void> remove(DeviceId id, CallLimit limit) override {
    return simple("del_dev", abi::del_dev, id, 0, limit);
  }
  Result<void> remove_async(DeviceId id, CallLimit limit) override {
    return simple("del_dev_async", abi::del_dev_async, id, 0, limit);
  }
  Result<void> begin_recovery(DeviceId id, CallLimit limit) override {
    return simple("start_user_recovery", abi::start_user_recovery, id, 0, limit);
  }
  Result<void> end_recovery(DeviceId id, pid_t server_pid, CallLimit limit) override {
    return simple("end_user_recovery", abi::end_user_recovery, id,
                  static_cast<uint64_t>(server_pid), limit);
  }
  Result<void> quiesce(DeviceId id, std::chrono::milliseconds kernel_timeout,
                       CallLimit limit) override {
    return simple("quiesce_dev", abi::quiesce_dev, id,
                  static_cast<uint64_t>(std::max(kernel_timeout, 1ms).count()), limit);
  }
  Result<void> update_size(DeviceId id, uint64_t size_bytes, CallLimit limit) override {
    // The kernel validates nothing here: what it gets must make sense.
    if (size_bytes == 0 || size_bytes % sector_bytes != 0)
      return Error{EINVAL, "update_size", object_name(id),
                   std::to_string(size_bytes) + " bytes are not a positive multiple of 512"};
    return simple("update_size", abi::update_size, id, size_bytes / sector_bytes, limit);
  }

  Result<std::vector<DeviceId>> list() override {
    const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(abi::kCharClassPath), &::closedir);
    if (!folder) {
      return errno_error("list_devices", abi::kCharClassPath,
                         "is the module ublk_drv loaded, and /sys mounted?");
    }
    std::vector<DeviceId> ids;
    constexpr std::string_view prefix = "ublkc";
    while (const dirent* entry = ::readdir(folder.get())) {  // NOLINT: own DIR
      const std::string_view name = entry->d_name;
      if (!name.starts_with(prefix)) continue;
      DeviceId id = 0;
      const char* end = name.data() + name.size();
      const auto parsed = std::from_chars(name.data() + prefix.size(), end, id);
      if (parsed.ec == std::errc{} && parsed.ptr == end) ids.push_back(id);
    }
    std::sort(ids.begin(), ids.end());
    return ids;
  }

 private:
  using Reply = std::unique_ptr<Request>;
  // Covers 8192 CPUs, the most x86 can be built for; the kernel fills what it has.
  static constexpr size_t cpu_mask_bytes = 1024;

  static std::unique_ptr<Request> make(const char* operation, uint32_t opcode, DeviceId id) {
    auto request = std::make_unique<Request>();
    request->operation = operation;
    request->opcode = opcode;
    request->id = id;
    request->command.dev_id = id;
    request->command.queue_id = abi::no_queue;
    return request;
  }

  static void with_buffer(Request& request, std::vector<std::byte> buffer) {
    request.buffer = std::move(buffer);
    request.command.addr = reinterpret_cast<uintptr_t>(request.buffer.data());
    request.command.len = static_cast<uint16_t>(request.buffer.size());
  }

  Result<Reply> call(std::unique_ptr<Request> request, CallLimit limit, uint64_t wanted_flags = 0) {
    const std::string_view operation = request->operation;
    const DeviceId id = request->id;
    Result<Reply> reply = ring_->run(std::move(request), limit);
    if (reply || !reply.error().detail.empty()) return reply;
    // A verdict of the kernel: say what it means, which for some depends on the state.
    Error error = std::move(reply).error();
    Verdict verdict{operation, error.err, id, std::nullopt, wanted_flags};
    if (depends_on_state(operation, error.err)) {
      const Result<DeviceInfo> now = info(id, CallLimit{state_for_detail_timeout, -1});
      if (now) verdict.device = *now;
    }
    error.detail = explain(verdict);
    return error;
  }

  Result<void> simple(const char* operation, uint32_t opcode, DeviceId id, uint64_t data,
                      CallLimit limit) {
    auto request = make(operation, opcode, id);
    request->command.data[0] = data;
    return done(call(std::move(request), limit));
  }

  static Result<void> done(Result<Reply> reply) {
    if (!reply) return std::move(reply).error();
    return {};
  }

  std::unique_ptr<CommandRing> ring_;
};

}  // namespace

Result<std::unique_ptr<ControlDevice>> open_control_device() {
  UniqueFd control(::open(abi::kControlPath, O_RDWR | O_CLOEXEC));
  if (!control.valid()) {
    const char* detail = "";
    if (errno == ENOENT) {
      detail =
          "the driver is not loaded, or /dev is not the host's: modprobe ublk_drv, and give the "
          "container the host's /dev";
    } else if (errno == EACCES || errno == EPERM) {
      detail = "control commands need root (CAP_SYS_ADMIN) and access to the node";
    }
    return errno_error("open", abi::kControlPath, detail);
  }
  Result<std::unique_ptr<CommandRing>> ring = CommandRing::create(std::move(control));
  if (!ring) return std::move(ring).error();
  return std::unique_ptr<ControlDevice>(
      std::make_unique<KernelControlDevice>(std::move(ring).value()));
}

}  // namespace ublk_operator
