// What one queue has done since its server began. Written by the queue's thread alone, read by any:
// relaxed atomics without read-modify-write, on cache lines of their own.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "node/backends/backend.h"

namespace ublk_operator {

class alignas(64) QueueCounters {
 public:
  static constexpr size_t errnos = 134;  // Linux's end at EHWPOISON, 133; slot 0 takes the rest

  // `op`: none for a request whose operation is not known: it counts as an error only.
  void count(std::optional<IoOp> op, uint32_t bytes, int32_t result) {
    if (op) {
      PerOp& counters = ops_[static_cast<size_t>(*op)];
      add(counters.operations, 1);
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
  [[nodiscard]] uint64_t errors_of(size_t err) const { return load(errors_[err]); }

 private:
  using Counter = std::atomic<uint64_t>;
  struct PerOp {
    Counter operations{0};
    Counter bytes{0};
    Counter errors{0};
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
