#include "node/server/queue.h"

#include <sched.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <climits>
#include <ctime>

#include "common/base/run_first.h"
#include "node/server/io_descriptor.h"

namespace ublk_operator {
namespace {

// Fixed file slots of a queue's ring: ublkcN, then the backend's. The ring is made before the
// backend is known, hence a number and not the backend's.
constexpr unsigned kCharSlot = 0;
constexpr unsigned kBackendSlot = 1;
constexpr unsigned kBackendSlotsMax = 15;

// Little code runs in a queue's thread, and every page of its stack is locked memory.
constexpr size_t kStackBytes = 256 << 10;

// A token says whose completion it is, and of which tag.
enum class TokenKind : uint8_t { command = 1, backend = 2 };
constexpr unsigned kTokenKindShift = 56;
constexpr uint64_t make_token(TokenKind kind, uint16_t tag) {
  return (uint64_t{static_cast<uint8_t>(kind)} << kTokenKindShift) | tag;
}
uint64_t backend_token(uint16_t tag) { return make_token(TokenKind::backend, tag); }

uint64_t monotonic_ns() {
  timespec now{};
  (void)clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// What the application should see. The driver turns errnos that the block layer has no status for
// into EIO (errno_to_blk_status); a quota that is used up is "no space" to whoever writes.
int32_t for_application(int32_t result) { return result == -EDQUOT ? -ENOSPC : result; }

}  // namespace

Queue::Queue(uint16_t id, const Geometry& geometry, std::span<std::byte> buffers, QueueGroup& group)
    : id_(id),
      geometry_(geometry),
      buffers_(buffers),
      group_(group),
      tag_states_(geometry.queue_depth) {}

Result<std::unique_ptr<Queue>> Queue::start(uint16_t id, const Geometry& geometry,
                                            std::span<std::byte> buffers, QueueGroup& group) {
  UBLK_CHECK(buffers.size() == size_t{geometry.queue_depth} * geometry.max_io_bytes);
  std::unique_ptr<Queue> queue(new Queue(id, geometry, buffers, group));
  queue->step_ = Step::set_up;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  const int err = pthread_create(&queue->thread_, &attributes, &Queue::thread_main, queue.get());
  pthread_attr_destroy(&attributes);
  if (err != 0) return Error{err, "pthread_create", queue->name(), ""};
  queue->started_ = true;
  return queue;
}

Queue::~Queue() {
  if (!started_) return;
  UBLK_CHECK(char_fd_ < 0);
  request(Step::stop);
  pthread_join(thread_, nullptr);
}

void Queue::hurry() { (void)run_first(thread_); }

void Queue::attach(Backend& backend, std::vector<unsigned> cpus) {
  backend_ = &backend;
  cpus_ = std::move(cpus);
  request(Step::attach);
}

void Queue::fetch(int char_fd, const abi::IoDesc* descriptors) {
  char_fd_ = char_fd;
  descriptors_ = descriptors;
  tags_ = geometry_.queue_depth;
  request(Step::fetch);
}

void Queue::fetch_and_halt(int char_fd, const abi::IoDesc* descriptors, uint16_t tags) {
  char_fd_ = char_fd;
  descriptors_ = descriptors;
  tags_ = tags;
  halt_ = true;
  request(Step::fetch);
}

void Queue::request(Step step) {
  const std::lock_guard lock(mutex_);
  outcome_.reset();
  step_ = step;
  changed_.notify_all();
}

Queue::Step Queue::next_step() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return step_ != Step::none; });
  return std::exchange(step_, Step::none);
}

void Queue::finish_step(Result<void> outcome) {
  const std::lock_guard lock(mutex_);
  outcome_ = std::move(outcome);
  changed_.notify_all();
}

void Queue::finish(Result<void> outcome) {
  {
    const std::lock_guard lock(mutex_);
    ended_ = std::move(outcome);
  }
  group_.ended.signal();
}

Result<void> Queue::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return outcome_.has_value(); });
  return *outcome_;
}

std::optional<Result<void>> Queue::ended() const {
  const std::lock_guard lock(mutex_);
  return ended_;
}

void* Queue::thread_main(void* self) {
  static_cast<Queue*>(self)->run();
  return nullptr;
}

void Queue::run() {
  (void)pthread_setname_np(pthread_self(), ("ublk-q" + std::to_string(id_)).c_str());
  for (;;) {
    switch (next_step()) {
      case Step::set_up:
        finish_step(set_up_here());
        break;
      case Step::attach:
        finish_step(attach_here());
        break;
      case Step::fetch: {
        auto fetched = fetch_here();
        const bool serving = fetched.ok() && !halt_;
        run_as_others();
        finish_step(std::move(fetched));
        if (serving) finish(serve());
        // The thread stays: its end would cancel what it left in the driver, while other queues may
        // still be committing.
        for (;;) pause();
      }
      case Step::stop:
        return;
      case Step::none:
        break;
    }
  }
}

Result<void> Queue::set_up_here() {
  // A tag has one entry at a time: its fetch or commit, or its backend's.
  auto ring =
      Ring::create(std::bit_ceil(unsigned{geometry_.queue_depth}), kBackendSlot + kBackendSlotsMax);
  if (!ring) return std::move(ring).error();
  ring_.emplace(std::move(ring).value());
  return ring_->enable();
}

Result<void> Queue::attach_here() {
  if (!cpus_.empty()) {
    // Only a matter of speed: a cpuset or a machine with fewer CPUs may forbid it.
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const unsigned cpu : cpus_)
      if (cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
  }
  if (backend_->file_slots() > kBackendSlotsMax)
    return Error{EINVAL, "attach_backend", name(),
                 "the backend wants " + std::to_string(backend_->file_slots()) +
                     " fixed files, a queue has " + std::to_string(kBackendSlotsMax)};
  auto io = backend_->open_queue(
      QueueContext{*ring_, geometry_.queue_depth, kBackendSlot, backend_token});
  if (!io) return std::move(io).error();
  io_ = std::move(io).value();
  return {};
}

Result<void> Queue::fetch_here() {
  if (auto registered = ring_->register_file(kCharSlot, char_fd_); !registered) return registered;
  // One submission: on 6.12 a queue of which only some tags are fetched cannot be cancelled.
  for (uint16_t tag = 0; tag < tags_; ++tag) {
    prepare_command(abi::io_fetch_req, tag, -1);
    arm(tag);
  }
  if (auto submitted = ring_->submit(); !submitted) return submitted;
  // A good fetch completes only when a request comes; a refused one has done so by now.
  return take_completions();
}

Result<void> Queue::serve() {
  while (armed_ > 0 || in_backend_ > 0) {
    if (auto waited = ring_->submit_and_wait(); !waited) return waited;
    if (auto taken = take_completions(); !taken) return taken;
  }
  return ring_->submit();  // the last commits
}

Result<void> Queue::take_completions() {
  std::array<Completion, 64> batch;
  for (;;) {
    const size_t count = ring_->take(batch);
    if (count > 0) now_ns_ = monotonic_ns();
    for (size_t i = 0; i < count; ++i) {
      const Completion& completion = batch[i];
      const auto tag = static_cast<uint16_t>(completion.token);
      UBLK_CHECK(tag < geometry_.queue_depth);
      switch (static_cast<TokenKind>(completion.token >> kTokenKindShift)) {
        case TokenKind::command:
          if (auto handled = handle_fetched(tag, completion.result); !handled) return handled;
          break;
        case TokenKind::backend:
          if (const auto result = io_->advance(tag, completion.result)) complete(tag, *result);
          break;
      }
    }
    if (count < batch.size()) return {};
  }
}

Result<void> Queue::handle_fetched(uint16_t tag, int32_t result) {
  disarm(tag);
  if (result == abi::io_res_abort) {
    group_.taken_back.store(true, std::memory_order_relaxed);
    return {};
  }
  // Without this tag the device would hang; a new server starts afresh.
  if (result != abi::io_res_ok)
    return Error{result < 0 ? -result : EPROTO, "fetch", name() + " tag " + std::to_string(tag),
                 "the driver refused the command"};
  ++in_backend_;
  const abi::IoDesc descriptor = descriptors_[tag];
  const DecodedIo io = decode(descriptor, geometry_, tag, buffer(tag));
  tag_states_[tag] = TagState{.op = io.op, .bytes = io.request.length_bytes, .began_ns = now_ns_};
  if (io.refusal != 0) {
    complete(tag, io.refusal);
  } else if (const auto done = io_->start(io.request)) {
    complete(tag, *done);
  }
  return {};
}

void Queue::complete(uint16_t tag, int32_t result) {
  const TagState& state = tag_states_[tag];
  counters_.count(state.op, state.bytes, result, now_ns_ - state.began_ns);
  --in_backend_;
  prepare_command(abi::io_commit_and_fetch_req, tag, for_application(result));
  if (!group_.taken_back.load(std::memory_order_relaxed)) arm(tag);
}

void Queue::arm(uint16_t tag) {
  tag_states_[tag].armed = true;
  ++armed_;
}

void Queue::disarm(uint16_t tag) {
  // Not armed: a commit after the queue was taken back, which the driver answered after all.
  if (std::exchange(tag_states_[tag].armed, false)) --armed_;
}

void Queue::prepare_command(uint32_t opcode, uint16_t tag, int32_t result) {
  abi::IoCmd command{};
  command.q_id = id_;
  command.tag = tag;
  command.result = result;
  command.addr = reinterpret_cast<uintptr_t>(buffer(tag).data());
  ring_->prep_command(kCharSlot, opcode, std::bit_cast<std::array<std::byte, 16>>(command),
                      make_token(TokenKind::command, tag));
}

std::span<std::byte> Queue::buffer(uint16_t tag) const {
  return buffers_.subspan(size_t{tag} * geometry_.max_io_bytes, geometry_.max_io_bytes);
}

std::string Queue::name() const { return "queue " + std::to_string(id_); }

}  // namespace ublk_operator
