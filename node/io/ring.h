// Ring: one io_uring, used by one thread: a thin owner of liburing's structure, so that liburing
// stays in this room.
// Shape    prep_* take one submission entry each and name it by a 64 bit token; completions come
//          back as Completion. Files are named by their fixed slot.
// Errors   a prep call never fails: the ring is sized at create() for everything its owner may have
//          in flight, and running out is a broken assumption.
// Threads  all calls after enable() from the thread that called it (IORING_SETUP_SINGLE_ISSUER and
//          DEFER_TASKRUN where the kernel has them). To wake it from another thread, signal an
//          EventFd that it watches with prep_poll_in().
// Fence    files given to register_file() are held by the ring itself and released only when the
//          ring is freed, that is after every request of it has ended. A ublkcN registered here and
//          closed otherwise is therefore a barrier: when the kernel says that it is released, no
//          I/O of this ring can reach a backend any more (io_uring/io_uring.c io_ring_ctx_free;
//          docs/backends.md).
#pragma once
#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "common/base/result.h"

namespace ublk_operator {

struct Completion {
  uint64_t token = 0;
  int32_t result = 0;  // as cqe->res: >= 0, or a negative errno
};

class Ring {
 public:
  // `entries`: most submissions outstanding at once. EPERM: io_uring is disabled on this machine;
  // ENOMEM: locked memory.
  [[nodiscard]] static Result<Ring> create(unsigned entries, unsigned fixed_files);
  Ring(Ring&&) noexcept;
  Ring& operator=(Ring&&) noexcept;
  ~Ring();

  // Binds the ring to the calling thread. Before any prep.
  [[nodiscard]] Result<void> enable();
  // Puts `fd` into the fixed slot; the caller may close its own copy. EINVAL: no such slot.
  [[nodiscard]] Result<void> register_file(unsigned slot, int fd);

  void prep_read(unsigned file, std::span<std::byte> buffer, uint64_t offset_bytes, uint64_t token);
  void prep_write(unsigned file, std::span<const std::byte> buffer, uint64_t offset_bytes,
                  bool dsync, uint64_t token);
  void prep_fdatasync(unsigned file, uint64_t token);
  // mode: FALLOC_FL_*.
  void prep_fallocate(unsigned file, int mode, uint64_t offset_bytes, uint64_t length_bytes,
                      uint64_t token);
  // Completes with -ETIME after that long. `slot`, below `entries`: where the time is kept until it
  // is submitted; one timeout a slot at a time.
  void prep_timeout_ns(uint64_t nanoseconds, uint64_t slot, uint64_t token);
  // IORING_OP_URING_CMD on a fixed file with a 16 byte command payload (ublksrv_io_cmd).
  void prep_command(unsigned file, uint32_t opcode, const std::array<std::byte, 16>& payload,
                    uint64_t token);
  // Completes with a positive result when `fd` becomes readable, once (POLL_ADD).
  void prep_poll_in(int fd, uint64_t token);

  // Submits what was prepared and waits for at least one completion. A signal or a shortage of
  // memory ends the wait early without an error: take() then finds nothing, and what was not
  // submitted goes with the next call. So callers loop.
  [[nodiscard]] Result<void> submit_and_wait();
  // Submits without waiting.
  [[nodiscard]] Result<void> submit();
  // Takes up to out.size() completions; returns how many.
  [[nodiscard]] size_t take(std::span<Completion> out);

 private:
  struct State;
  explicit Ring(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace ublk_operator
