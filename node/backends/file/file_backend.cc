#include "node/backends/file/file_backend.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "nlohmann/json.hpp"
#include "node/backends/config.h"
#include "node/backends/file/direct_io.h"

namespace ublk_operator {
namespace {

// EINTR and EAGAIN of one ring entry in a row before the request fails: both mean "again", but a
// file that never says anything else must not keep a queue busy for ever.
constexpr uint8_t kRetriesMax = 16;

struct FileOptions {
  std::string path;
  uint64_t size_bytes = 0;
  uint32_t logical_block_bytes = 512;
  bool direct = false;
  bool read_only = false;
};

class FileQueue : public BackendQueue {
 public:
  FileQueue(const QueueContext& context, const FileOptions& options)
      : context_(context),
        read_only_(options.read_only),
        size_bytes_(options.size_bytes),
        // Direct I/O can only go on at a block's start; what was done of a block is done again.
        progress_unit_(options.direct ? options.logical_block_bytes : 1),
        states_(context.depth) {}

  std::optional<int32_t> start(const IoRequest& request) override {
    if (read_only_ && request.op != IoOp::read && request.op != IoOp::flush) return -EROFS;
    // The queue has checked this; a backend that would grow the file must not rely on it.
    if (request.offset_bytes > size_bytes_ ||
        request.length_bytes > size_bytes_ - request.offset_bytes)
      return -EIO;
    if (request.op == IoOp::flush && read_only_) return 0;
    states_[request.tag] = State{request, 0, 0, request.op == IoOp::flush};
    prepare(states_[request.tag]);
    return std::nullopt;
  }

  std::optional<int32_t> advance(uint16_t tag, int32_t result) override {
    State& state = states_[tag];
    const IoRequest& request = state.request;
    if (result == -EINTR || result == -EAGAIN) {
      if (++state.retries > kRetriesMax) return -EIO;
      prepare(state);
      return std::nullopt;
    }
    if (result < 0) return result;
    state.retries = 0;

    switch (request.op) {
      case IoOp::read:
      case IoOp::write: {
        const uint32_t done = state.done_bytes + static_cast<uint32_t>(result);
        if (done >= request.length_bytes) return static_cast<int32_t>(request.length_bytes);
        const uint32_t kept = done - done % progress_unit_;
        // No progress: the end of the file (read), or a file that takes nothing (write).
        if (kept <= state.done_bytes) return -EIO;
        state.done_bytes = kept;
        prepare(state);
        return std::nullopt;
      }
      case IoOp::flush:
        return 0;
      case IoOp::discard:
        return static_cast<int32_t>(request.length_bytes);
      case IoOp::write_zeroes:
        if (request.fua && !state.syncing) {
          state.syncing = true;
          prepare(state);
          return std::nullopt;
        }
        return static_cast<int32_t>(request.length_bytes);
    }
    panic("no such operation", __FILE__, __LINE__);
  }

 private:
  struct State {
    IoRequest request;
    uint32_t done_bytes = 0;
    uint8_t retries = 0;
    bool syncing = false;  // the ring entry on its way is an fdatasync
  };

  void prepare(const State& state) {
    const IoRequest& request = state.request;
    Ring& ring = context_.ring;
    const unsigned file = context_.first_file_slot;
    const uint64_t token = context_.token(request.tag);
    if (state.syncing) return ring.prep_fdatasync(file, token);
    switch (request.op) {
      case IoOp::read:
        return ring.prep_read(file, request.buffer.subspan(state.done_bytes),
                              request.offset_bytes + state.done_bytes, token);
      case IoOp::write:
        return ring.prep_write(file, request.buffer.subspan(state.done_bytes),
                               request.offset_bytes + state.done_bytes, request.fua, token);
      case IoOp::discard:
        return ring.prep_fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                   request.offset_bytes, request.length_bytes, token);
      case IoOp::write_zeroes:
        return ring.prep_fallocate(
            file,
            (request.may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE) | FALLOC_FL_KEEP_SIZE,
            request.offset_bytes, request.length_bytes, token);
      case IoOp::flush:
        break;  // syncing from the start
    }
    panic("no such operation", __FILE__, __LINE__);
  }

  const QueueContext context_;
  const bool read_only_;
  const uint64_t size_bytes_;
  const uint32_t progress_unit_;
  std::vector<State> states_;  // by tag
};

class FileBackend : public Backend {
 public:
  FileBackend(UniqueFd fd, FileOptions options)
      : fd_(std::move(fd)), options_(std::move(options)) {}

  [[nodiscard]] Fence fence() const override { return Fence::ring_end; }
  [[nodiscard]] unsigned file_slots() const override { return 1; }
  Result<std::unique_ptr<BackendQueue>> open_queue(const QueueContext& context) override {
    if (auto registered = context.ring.register_file(context.first_file_slot, fd_.get());
        !registered) {
      Error error = std::move(registered).error();
      error.object = options_.path;
      return error;
    }
    return std::unique_ptr<BackendQueue>(std::make_unique<FileQueue>(context, options_));
  }

 private:
  const UniqueFd fd_;
  const FileOptions options_;
};

Result<FileOptions> parse_options(const nlohmann::json& config) {
  FileOptions options;
  const auto wrong = [](const char* key, const char* expected) {
    return Error{EINVAL, "open_backend", "file",
                 std::string("backend config: ") + key + " must be " + expected};
  };
  if (const auto it = config.find("path"); it != config.end()) {
    if (!it->is_string()) return wrong("path", "a string");
    options.path = it->get<std::string>();
  }
  const auto number = [&config](const char* key) {
    const auto it = config.find(key);
    return it == config.end() ? std::nullopt : as_unsigned(*it);
  };
  options.size_bytes = number("size_bytes").value_or(0);
  if (options.size_bytes == 0) return wrong("size_bytes", "a positive number");
  if (config.contains("logical_block_bytes")) {
    const uint64_t bytes = number("logical_block_bytes").value_or(0);
    if (bytes < 512 || bytes > 4096 || (bytes & (bytes - 1)) != 0)
      return wrong("logical_block_bytes", "512, 1024, 2048 or 4096");
    options.logical_block_bytes = static_cast<uint32_t>(bytes);
  }
  for (const auto& [key, target] :
       {std::pair{"direct", &options.direct}, std::pair{"read_only", &options.read_only}}) {
    const auto it = config.find(key);
    if (it == config.end()) continue;
    if (!it->is_boolean()) return wrong(key, "true or false");
    *target = it->get<bool>();
  }
  return options;
}

Error unfit(const FileOptions& options, std::string detail) {
  return Error{EINVAL, "open_backend", options.path, std::move(detail)};
}

}  // namespace

Result<std::unique_ptr<Backend>> make_file_backend(const nlohmann::json& config,
                                                   std::vector<UniqueFd> fds) {
  auto parsed = parse_options(config);
  if (!parsed) return std::move(parsed).error();
  FileOptions options = std::move(parsed).value();
  if (fds.size() != 1 || !fds[0].valid())
    return Error{EPROTO, "open_backend", options.path,
                 "exactly one descriptor, the open file, must come with a file backend; " +
                     std::to_string(fds.size()) + " came"};
  UniqueFd fd = std::move(fds[0]);

  struct stat info{};
  if (fstat(fd.get(), &info) != 0) return errno_error("fstat", options.path);
  if (!S_ISREG(info.st_mode)) return unfit(options, "this is not a regular file");
  if (static_cast<uint64_t>(info.st_size) < options.size_bytes)
    return unfit(options, "the file holds " + std::to_string(info.st_size) +
                              " bytes, fewer than the volume's " +
                              std::to_string(options.size_bytes) +
                              ": restore it, it is never grown here");
  const int open_flags = fcntl(fd.get(), F_GETFL);
  if (open_flags < 0) return errno_error("fcntl", options.path);
  const int access = open_flags & O_ACCMODE;
  if (access == O_WRONLY || (access == O_RDONLY && !options.read_only))
    return unfit(options, "the file was not opened for reading and writing");
  if (((open_flags & O_DIRECT) != 0) != options.direct)
    return unfit(options, options.direct ? "the file was opened without O_DIRECT"
                                         : "the file was opened with O_DIRECT");
  if (options.direct) {
    if (auto fits = check_direct_alignment(fd.get(), options.logical_block_bytes, options.path);
        !fits)
      return std::move(fits).error();
  }
  return std::unique_ptr<Backend>(std::make_unique<FileBackend>(std::move(fd), std::move(options)));
}

}  // namespace ublk_operator
