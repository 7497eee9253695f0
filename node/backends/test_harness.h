// For tests of backends: a queue of depth 16 over a real ring, driven the way the server drives it.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "node/backends/backend.h"

namespace ublk_operator::testing {

// Whether this machine lets us use io_uring: tests skip where it does not.
inline bool ring_is_allowed() { return Ring::create(2, 0).ok(); }

class BackendHarness {
 public:
  static constexpr uint16_t depth = 16;
  static constexpr size_t buffer_bytes = 64 << 10;

  explicit BackendHarness(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {
    auto ring = Ring::create(2 * depth, backend_->file_slots());
    UBLK_CHECK(ring.ok());
    ring_ = std::make_unique<Ring>(std::move(ring).value());
    UBLK_CHECK(ring_->enable().ok());
    auto queue = backend_->open_queue(QueueContext{*ring_, depth, 0, token});
    UBLK_CHECK(queue.ok());
    queue_ = std::move(queue).value();
    memory_ = static_cast<std::byte*>(mmap(nullptr, depth * buffer_bytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    UBLK_CHECK(memory_ != MAP_FAILED);
  }
  ~BackendHarness() { munmap(memory_, depth * buffer_bytes); }
  BackendHarness(const BackendHarness&) = delete;
  BackendHarness& operator=(const BackendHarness&) = delete;

  [[nodiscard]] std::span<std::byte> buffer(uint16_t tag, size_t bytes) {
    return {memory_ + tag * buffer_bytes, bytes};
  }

  void start(const IoRequest& request) {
    if (const auto result = queue_->start(request)) done_[request.tag] = *result;
  }
  [[nodiscard]] bool is_done(uint16_t tag) const { return done_.contains(tag); }
  // Runs the ring until the tag is done, and forgets it.
  int32_t finish(uint16_t tag) {
    while (!done_.contains(tag)) turn();
    return std::exchange(done_, without(tag)).at(tag);
  }
  int32_t run(const IoRequest& request) {
    start(request);
    return finish(request.tag);
  }

  int32_t write(uint64_t offset, const std::vector<std::byte>& data, bool fua = false) {
    std::memcpy(buffer(0, data.size()).data(), data.data(), data.size());
    return run({.op = IoOp::write,
                .fua = fua,
                .tag = 0,
                .offset_bytes = offset,
                .length_bytes = static_cast<uint32_t>(data.size()),
                .buffer = buffer(0, data.size())});
  }
  std::pair<int32_t, std::vector<std::byte>> read(uint64_t offset, uint32_t length) {
    std::memset(buffer(0, length).data(), 0xee, length);
    const int32_t result = run({.op = IoOp::read,
                                .tag = 0,
                                .offset_bytes = offset,
                                .length_bytes = length,
                                .buffer = buffer(0, length)});
    const auto bytes = buffer(0, length);
    return {result, {bytes.begin(), bytes.end()}};
  }
  int32_t simple(IoOp op, uint64_t offset = 0, uint32_t length = 0, bool may_unmap = true,
                 bool fua = false) {
    return run({.op = op,
                .fua = fua,
                .may_unmap = may_unmap,
                .tag = 0,
                .offset_bytes = offset,
                .length_bytes = length,
                .buffer = {}});
  }

 private:
  static uint64_t token(uint16_t tag) { return (uint64_t{0x42} << 56) | tag; }

  void turn() {
    UBLK_CHECK(ring_->submit_and_wait().ok());
    std::array<Completion, 8> some{};
    const size_t count = ring_->take(some);
    for (size_t i = 0; i < count; ++i) {
      const auto tag = static_cast<uint16_t>(some[i].token);
      UBLK_CHECK(some[i].token == token(tag));
      if (const auto result = queue_->advance(tag, some[i].result)) done_[tag] = *result;
    }
  }
  [[nodiscard]] std::map<uint16_t, int32_t> without(uint16_t tag) const {
    auto rest = done_;
    rest.erase(tag);
    return rest;
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Ring> ring_;
  std::unique_ptr<BackendQueue> queue_;
  std::byte* memory_ = nullptr;
  std::map<uint16_t, int32_t> done_;
};

inline std::vector<std::byte> pattern(size_t bytes, unsigned seed) {
  std::vector<std::byte> data(bytes);
  unsigned state = seed * 2654435761u + 1;
  for (auto& byte : data) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return data;
}

}  // namespace ublk_operator::testing
