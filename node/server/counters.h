// What one queue has done since its server began, and how long it took: from when the queue saw a
// request until it saw its end, by the clock of whole batches of completions. Written by the
// queue's thread alone, read by any: relaxed atomics without read-modify-write, on cache lines of
// their own.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "common/api/io_latency.h"
#include "node/backends/backend.h"

namespace ublk_operator {

class alignas(64) QueueCounters {
 public:
  static constexpr size_t errnos = 134;  // Linux's end at EHWPOISON, 133; slot 0 takes the rest

  // `op`: none for a request whose operation is not known: it counts as an error only.
  void count(std::optional<IoOp> op, uint32_t bytes, int32_t result, uint64_t latency_ns) {
    if (op) {
      PerOp& counters = ops_[static_cast<size_t>(*op)];
      add(counters.operations, 1);
      add(counters.latency[IoLatency::bucket_of(latency_ns)], 1);
      add(counters.latency_ns, latency_ns);
      if (result < 0)
        add(counters.errors, 1);
      else
        add(counters.bytes, bytes);
    }
    if (result < 0) {
      const auto err = static_cast<size_t>(-int64_t{result});
      add(errors_[err < errnos ? err : 0], 1);
    }
  }

  [[nodiscard]] uint64_t operations(IoOp op) const { return load(at(op).operations); }
  [[nodiscard]] uint64_t bytes(IoOp op) const { return load(at(op).bytes); }
  [[nodiscard]] uint64_t errors(IoOp op) const { return load(at(op).errors); }
  // The sum may be of a request more or less than the counts.
  [[nodiscard]] IoLatency latency(IoOp op) const {
    IoLatency latency;
    for (size_t i = 0; i < IoLatency::buckets; ++i) latency.counts[i] = load(at(op).latency[i]);
    latency.sum_ns = load(at(op).latency_ns);
    return latency;
  }
  [[nodiscard]] uint64_t errors_of(size_t err) const { return load(errors_[err]); }

 private:
  using Counter = std::atomic<uint64_t>;
  struct PerOp {
    Counter operations{0};
    Counter bytes{0};
    Counter errors{0};
    Counter latency_ns{0};
    std::array<Counter, IoLatency::buckets> latency{};
  };
  static void add(Counter& counter, uint64_t n) {
    counter.store(load(counter) + n, std::memory_order_relaxed);
  }
  static uint64_t load(const Counter& counter) { return counter.load(std::memory_order_relaxed); }
  [[nodiscard]] const PerOp& at(IoOp op) const { return ops_[static_cast<size_t>(op)]; }

  std::array<PerOp, io_op_count> ops_;
  std::array<Counter, errnos> errors_{};
};

}  // namespace ublk_operator
