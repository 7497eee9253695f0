// Queue: one hardware queue of a device: a thread, a ring, a part of the backend. It fetches all
// tags, hands each request to the backend, and commits each result, without a lock or an allocation
// in between.
//
//   start() -> idle --attach()--> attached --fetch()--> serving -> ended
//
// Shape    the three steps run in the queue's thread; each returns at once, and wait() gives its
//          outcome, so that all queues take a step at the same time.
// Errors   a failed step leaves the queue where it was; the server then gives up as a whole.
// Threads  owned by the main thread; counters() may be read at any time.
// End      a queue ends when the kernel has taken all its tags back (ENODEV: the device was stopped
//          or quiesced) and every request that was in the backend then is committed. It also ends,
//          with an error, when the ring or the driver refuses what must not fail.
#pragma once
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "common/base/unique_fd.h"
#include "node/backends/backend.h"
#include "node/server/counters.h"
#include "node/ublk/abi.h"
#include "node/ublk/device.h"

namespace ublk_operator {

// Shared by the queues of a server.
struct QueueGroup {
  explicit QueueGroup(EventFd event) : ended(std::move(event)) {}
  EventFd ended;  // signalled whenever a queue ends
  // One queue saw a tag come back: no queue of this device gets new requests any more
  // (ublk_drv.c: canceling is set for the whole device before any tag is handed back), so what is
  // committed from now on leaves a fetch behind that nobody answers.
  std::atomic<bool> taken_back{false};
};

class Queue {
 public:
  // `buffers`: queue_depth buffers of max_io_bytes. The outcome comes from wait().
  [[nodiscard]] static Result<std::unique_ptr<Queue>> start(uint16_t id, const Geometry& geometry,
                                                            std::span<std::byte> buffers,
                                                            QueueGroup& group);
  // Before fetch() was called: ends the thread. Afterwards a queue only ends with its process.
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // The thread runs first (common/base/run_first.h) until its tags are fetched, where that is
  // allowed.
  void hurry();
  // Opens the backend's queue; the thread moves to `cpus` if there are any.
  void attach(Backend& backend, std::vector<unsigned> cpus);
  // Puts ublkcN into the ring and fetches all tags in one submission. The caller may close its copy
  // after wait(). `descriptors`: this queue's, mapped for as long as the process lives.
  void fetch(int char_fd, const abi::IoDesc* descriptors);
  // Test hook: fetches only the first `tags` tags, then the thread stops for good.
  void fetch_and_halt(int char_fd, const abi::IoDesc* descriptors, uint16_t tags);
  // Of the latest step.
  [[nodiscard]] Result<void> wait();

  [[nodiscard]] const QueueCounters& counters() const { return counters_; }
  // Once ended: ok, or why.
  [[nodiscard]] std::optional<Result<void>> ended() const;

 private:
  enum class Step { none, set_up, attach, fetch, stop };

  Queue(uint16_t id, const Geometry& geometry, std::span<std::byte> buffers, QueueGroup& group);
  static void* thread_main(void* self);
  void run();
  void request(Step step);
  Step next_step();
  void finish_step(Result<void> outcome);

  Result<void> set_up_here();
  Result<void> attach_here();
  Result<void> fetch_here();
  Result<void> serve();
  void finish(Result<void> outcome);

  Result<void> take_completions();
  Result<void> handle_fetched(uint16_t tag, int32_t result);
  void complete(uint16_t tag, int32_t result);
  void arm(uint16_t tag);
  void disarm(uint16_t tag);
  void prepare_command(uint32_t opcode, uint16_t tag, int32_t result);
  [[nodiscard]] std::span<std::byte> buffer(uint16_t tag) const;
  [[nodiscard]] std::string name() const;

  const uint16_t id_;
  const Geometry geometry_;
  const std::span<std::byte> buffers_;
  QueueGroup& group_;

  // Hand-over of steps between the main thread and the queue's.
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Step step_ = Step::none;               // asked for and not taken
  std::optional<Result<void>> outcome_;  // of the latest step
  std::optional<Result<void>> ended_;
  pthread_t thread_{};
  bool started_ = false;

  // Arguments of the steps, written before request() and read after next_step().
  Backend* backend_ = nullptr;
  std::vector<unsigned> cpus_;
  int char_fd_ = -1;
  const abi::IoDesc* descriptors_ = nullptr;
  uint16_t tags_ = 0;
  bool halt_ = false;

  // The queue thread's own.
  struct TagState {
    std::optional<IoOp> op;
    uint32_t bytes = 0;
    uint64_t began_ns = 0;
    bool armed = false;  // a fetch or commit whose answer is waited for
  };
  std::optional<Ring> ring_;
  std::unique_ptr<BackendQueue> io_;
  std::vector<TagState> tag_states_;
  uint16_t armed_ = 0;       // how many tags are armed
  uint16_t in_backend_ = 0;  // requests on their way
  uint64_t now_ns_ = 0;      // when the present batch of completions was taken
  QueueCounters counters_;
};

}  // namespace ublk_operator
