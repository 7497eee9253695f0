// Backend: where a volume's bytes live. One Backend a volume, one BackendQueue a queue (thread). A
// backend knows nothing of ublk, and the queue above it nothing of files. docs/backends.md draws
// the life of one.
//
//   config + fds --> make_backend() --> open_queue() per queue thread
//   then for every request:  start() -> done now, or: ring completion -> advance() -> ... -> done
//
// Errors   a result is bytes done (>= 0; flush: 0) or a negative errno, which reaches the
//          application as the block layer translates it (EIO, ENOSPC; EOPNOTSUPP: the block layer
//          then does write-zeroes by writing).
// Threads  Backend: immutable after make_backend, shared. BackendQueue: only its queue's thread.
// Fence    all I/O of a queue goes through the Ring it was given, so that the ring's end proves the
//          end of its I/O. A backend that cannot promise this says so in fence() and must offer
//          another proof.
// Memory   no allocation and no lock per request; per-tag state is made in open_queue().
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/base/unique_fd.h"
#include "nlohmann/json_fwd.hpp"
#include "node/io/ring.h"

namespace ublk_operator {

enum class IoOp : uint8_t { read, write, flush, discard, write_zeroes };
[[nodiscard]] const char* to_string(
    IoOp op);  // "read", "write", "flush", "discard", "write_zeroes"
inline constexpr size_t io_op_count = 5;

struct IoRequest {
  IoOp op = IoOp::read;
  bool fua = false;       // write, write_zeroes: durable before it completes
  bool may_unmap = true;  // write_zeroes: space may be given back
  uint16_t tag = 0;
  uint64_t offset_bytes = 0;
  uint32_t length_bytes = 0;
  std::span<std::byte> buffer;  // read, write: length_bytes long, valid until the request is done
};

// Where a backend's queue puts its ring entries: the owner of the ring reserves a token range for
// it. A completion is returned to advance() with the tag it was prepared for.
struct QueueContext {
  Ring& ring;
  uint16_t depth;
  unsigned first_file_slot;  // fixed file slots of the ring that belong to the backend: [first,
                             // first+file_slots())
  uint64_t (*token)(
      uint16_t tag);  // the token to give a ring entry of this tag; one entry a tag at a time
};

class BackendQueue {
 public:
  virtual ~BackendQueue() = default;
  // nullopt: on its way, advance() will be called; otherwise the final result.
  [[nodiscard]] virtual std::optional<int32_t> start(const IoRequest& request) = 0;
  // The ring entry of this tag completed with `result`. As for start().
  [[nodiscard]] virtual std::optional<int32_t> advance(uint16_t tag, int32_t result) = 0;
};

enum class Fence {
  ring_end,  // the end of the server's rings proves that no I/O of it is left
};

class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual Fence fence() const = 0;
  // Fixed files each queue's ring must have for it.
  [[nodiscard]] virtual unsigned file_slots() const = 0;
  // In the queue's thread, after the ring is enabled.
  [[nodiscard]] virtual Result<std::unique_ptr<BackendQueue>> open_queue(
      const QueueContext& context) = 0;
};

// Makes the backend of a grant: `config` is the object that the agent wrote for its kind ({"kind":
// "file", ...}), `fds` the descriptors that came with it, in the order the kind's room documents.
// Every kind takes "latency_ns" (see delay/). EINVAL: unknown kind, wrong config, or a backend that
// cannot hold this volume.
[[nodiscard]] Result<std::unique_ptr<Backend>> make_backend(const nlohmann::json& config,
                                                            std::vector<UniqueFd> fds);

}  // namespace ublk_operator
