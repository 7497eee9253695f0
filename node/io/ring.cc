#include "node/io/ring.h"

#include <liburing.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace ublk_operator {
namespace {

// From the best to the plainest. DEFER_TASKRUN (6.1) runs completions only when the owner waits for
// them, so they arrive in batches and never interrupt it; COOP_TASKRUN is the weaker form of that.
// Its rings take an RCU grace period longer to die, but die evenly, docs/decisions/005.
// SUBMIT_ALL: one entry that fails at once must not keep the ones behind it from being submitted.
// R_DISABLED: the submitting thread is bound by enable(), not by create().
constexpr unsigned kSetupFlags[] = {
    IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER |
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL,
};

// sqe->cmd: where the payload of IORING_OP_URING_CMD starts in a 64 byte entry.
constexpr size_t kCommandOffset = 48;
static_assert(sizeof(io_uring_sqe) == 64);

Error setup_error(int err) {
  const char* detail = "";
  if (err == EPERM)
    detail = "io_uring is disabled on this machine: check sysctl kernel.io_uring_disabled";
  else if (err == ENOSYS)
    detail = "io_uring is not available: the kernel lacks it or a seccomp filter hides it";
  else if (err == ENOMEM)
    detail = "not enough memory may be locked: raise RLIMIT_MEMLOCK";
  return Error{err, "io_uring_setup", "ring", detail};
}

}  // namespace

struct Ring::State {
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (set_up) io_uring_queue_exit(&ring);
  }

  io_uring_sqe* next_entry() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring);
    UBLK_CHECK(sqe != nullptr);
    return sqe;
  }
  static void finish_entry(io_uring_sqe* sqe, uint64_t token) {
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(sqe, token);
  }

  io_uring ring{};
  bool set_up = false;
  std::vector<__kernel_timespec> timeouts;  // by slot: the kernel reads them at submission
};

Ring::Ring(std::unique_ptr<State> state) : state_(std::move(state)) {}
Ring::Ring(Ring&&) noexcept = default;
Ring& Ring::operator=(Ring&&) noexcept = default;
Ring::~Ring() = default;

Result<Ring> Ring::create(unsigned entries, unsigned fixed_files) {
  auto state = std::make_unique<State>();
  int result = -EINVAL;
  for (const unsigned flags : kSetupFlags) {
    io_uring_params params{};
    params.flags = flags;
    result = io_uring_queue_init_params(entries, &state->ring, &params);
    if (result != -EINVAL) break;
  }
  if (result < 0) return setup_error(-result);
  state->set_up = true;
  state->timeouts.resize(entries);
  if (fixed_files > 0) {
    result = io_uring_register_files_sparse(&state->ring, fixed_files);
    if (result < 0) return Error{-result, "io_uring_register_files", "ring", ""};
  }
  return Ring(std::move(state));
}

Result<void> Ring::enable() {
  // io_uring_enable_rings() by hand: liburing 2.3 declares it but its library does not export it.
  if (syscall(SYS_io_uring_register, state_->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr,
              0) < 0)
    return errno_error("io_uring_enable_rings", "ring");
  // Saves a file table lookup a system call. A kernel that cannot do it goes on without.
  (void)io_uring_register_ring_fd(&state_->ring);
  return {};
}

Result<void> Ring::register_file(unsigned slot, int fd) {
  const int result = io_uring_register_files_update(&state_->ring, slot, &fd, 1);
  if (result < 0)
    return Error{-result, "io_uring_register_files_update", "slot " + std::to_string(slot), ""};
  return {};
}

void Ring::prep_read(unsigned file, std::span<std::byte> buffer, uint64_t offset_bytes,
                     uint64_t token) {
  io_uring_sqe* sqe = state_->next_entry();
  io_uring_prep_read(sqe, static_cast<int>(file), buffer.data(),
                     static_cast<unsigned>(buffer.size()), offset_bytes);
  State::finish_entry(sqe, token);
}

void Ring::prep_write(unsigned file, std::span<const std::byte> buffer, uint64_t offset_bytes,
                      bool dsync, uint64_t token) {
  io_uring_sqe* sqe = state_->next_entry();
  io_uring_prep_write(sqe, static_cast<int>(file), buffer.data(),
                      static_cast<unsigned>(buffer.size()), offset_bytes);
  if (dsync) sqe->rw_flags = RWF_DSYNC;
  State::finish_entry(sqe, token);
}

void Ring::prep_fdatasync(unsigned file, uint64_t token) {
  io_uring_sqe* sqe = state_->next_entry();
  io_uring_prep_fsync(sqe, static_cast<int>(file), IORING_FSYNC_DATASYNC);
  State::finish_entry(sqe, token);
}

void Ring::prep_fallocate(unsigned file, int mode, uint64_t offset_bytes, uint64_t length_bytes,
                          uint64_t token) {
  io_uring_sqe* sqe = state_->next_entry();
  io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, static_cast<int>(file), nullptr,
                   static_cast<unsigned>(mode), offset_bytes);
  sqe->addr = length_bytes;
  State::finish_entry(sqe, token);
}

void Ring::prep_timeout_ns(uint64_t nanoseconds, uint64_t slot, uint64_t token) {
  UBLK_CHECK(slot < state_->timeouts.size());
  constexpr uint64_t nanoseconds_per_second = 1'000'000'000;
  __kernel_timespec& timeout = state_->timeouts[slot];
  timeout.tv_sec = static_cast<int64_t>(nanoseconds / nanoseconds_per_second);
  timeout.tv_nsec = static_cast<int64_t>(nanoseconds % nanoseconds_per_second);
  io_uring_sqe* sqe = state_->next_entry();
  io_uring_prep_timeout(sqe, &timeout, 0, 0);
  io_uring_sqe_set_data64(sqe, token);  // no file
}

void Ring::prep_command(unsigned file, uint32_t opcode, const std::array<std::byte, 16>& payload,
                        uint64_t token) {
  io_uring_sqe* sqe = state_->next_entry();
  std::memset(static_cast<void*>(sqe), 0, sizeof(*sqe));
  sqe->opcode = IORING_OP_URING_CMD;
  sqe->fd = static_cast<int>(file);
  sqe->cmd_op = opcode;
  std::memcpy(reinterpret_cast<std::byte*>(sqe) + kCommandOffset, payload.data(), payload.size());
  State::finish_entry(sqe, token);
}

void Ring::prep_poll_in(int fd, uint64_t token) {
  io_uring_sqe* sqe = state_->next_entry();
  io_uring_prep_poll_add(sqe, fd, POLLIN);
  io_uring_sqe_set_data64(sqe, token);
}

namespace {

// Entries that were not taken stay in the submission queue and go with the next call.
// EINTR: a signal. EAGAIN: no memory for requests just now. EBUSY: completions must be taken first.
bool is_transient(int result) { return result == -EINTR || result == -EAGAIN || result == -EBUSY; }

}  // namespace

Result<void> Ring::submit_and_wait() {
  const int result = io_uring_submit_and_wait(&state_->ring, 1);
  if (result < 0 && !is_transient(result)) return Error{-result, "io_uring_enter", "ring", ""};
  return {};
}

Result<void> Ring::submit() {
  // Bounded by the entries: each turn takes at least one of them, or is a transient failure that
  // the next call repeats.
  while (io_uring_sq_ready(&state_->ring) > 0) {
    const int result = io_uring_submit(&state_->ring);
    if (result == -EINTR) continue;
    if (result < 0 && !is_transient(result)) return Error{-result, "io_uring_enter", "ring", ""};
    if (result <= 0) break;
  }
  return {};
}

size_t Ring::take(std::span<Completion> out) {
  constexpr size_t batch_max = 128;
  std::array<io_uring_cqe*, batch_max> batch{};
  const auto wanted = static_cast<unsigned>(std::min(out.size(), batch.size()));
  const unsigned count = io_uring_peek_batch_cqe(&state_->ring, batch.data(), wanted);
  for (unsigned i = 0; i < count; ++i)
    out[i] = Completion{io_uring_cqe_get_data64(batch[i]), batch[i]->res};
  io_uring_cq_advance(&state_->ring, count);
  return count;
}

}  // namespace ublk_operator
